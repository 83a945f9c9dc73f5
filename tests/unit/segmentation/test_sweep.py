"""Several sets of parameters for one plane: how often it is sent, and equal labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.connection import connected
from samcourier.errors import RequestRefused
from samcourier.images.planes import Plane
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import Attempt
from samcourier.segmentation.events import Event
from samcourier.segmentation.plane import PlaneCaller
from samcourier.segmentation.sweep import segment_sets
from samcourier.testing.fake import FakeTransport
from samservice.contract.image_reference import pixels_sha256
from samservice.server.app import Limits, SegmentationService
from samservice.server.state_cache import StateCache

from ..service.server.staged_engine import StagedEngine

IMAGE = np.arange(120, dtype=np.uint16).reshape(10, 12)
PLANE = Plane(IMAGE, "YX", pixels_sha256(IMAGE, "YX"))
CONTEXT = {"user": {"id": "ada"}}
LEVELS = [{"level": 10 * n} for n in range(12)]


class Served:
    """A service whose callers are all the same user; it may be told to forget its states."""

    def __init__(self, engine: Any, **limits: Any) -> None:
        self.service = SegmentationService(engine, Limits(**limits))
        self.engine = engine
        self.sent: list[str] = []
        self.before: Callable[[int], None] = lambda _: None

    def forget(self) -> None:
        states = StateCache(1 << 20)
        self.service._states = self.service._work._states = states

    async def describe(self) -> dict[str, Any]:
        return await self.service.describe(context=CONTEXT)

    async def probe(self, payload: bytes, reply_bytes: int = 0) -> dict[str, Any]:
        return await self.service.probe(payload, reply_bytes, context=CONTEXT)

    async def segment_all(self, image_or_embedding: Any, **arguments: Any) -> Any:
        is_named = "image_sha256" in image_or_embedding
        keeps = arguments.get("keep_state")
        self.sent.append("digest" if is_named else "kept" if keeps else "pixels")
        self.before(len(self.sent))
        return await self.service.segment_all(image_or_embedding, context=CONTEXT, **arguments)


@asynccontextmanager
async def connection(served: Served, folder: Path) -> AsyncIterator[PlaneCaller]:
    with ConnectionJournal(folder / "journal.jsonl") as journal:
        async with connected([FakeTransport(served)], journal, 1) as (manager, description):
            yield PlaneCaller(manager, description)
    served.service.close()


def expected(parameters: dict[str, Any], image: np.ndarray = IMAGE) -> np.ndarray:
    scaled = image.astype(np.int64) * parameters.get("scale", 1)
    return np.where(scaled > parameters.get("level", 0), scaled.max(), 0)


async def sweep(
    caller: PlaneCaller, sets: list[dict[str, Any]], plane: Plane = PLANE
) -> list[Attempt]:
    """Check the labels of each set, and return the attempts."""
    events: list[Event] = []
    count = 0
    async for segmented in segment_sets(caller, plane, sets, events.append):
        np.testing.assert_array_equal(
            np.asarray(segmented.mask), expected(sets[count], plane.pixels)
        )
        count += 1
    assert count == len(sets)
    return [event for event in events if isinstance(event, Attempt)]


async def test_the_plane_is_sent_and_inferred_once(tmp_path: Path) -> None:
    served = Served(StagedEngine())
    async with connection(served, tmp_path) as caller:
        attempts = await sweep(caller, LEVELS)
    assert served.sent == ["kept"] + ["digest"] * 11
    assert served.engine.entered["infer"] == 1
    assert [each.bytes.up > 0 for each in attempts] == [True] + [False] * 11
    assert {each.outcome for each in attempts} == {"ok"}


async def test_each_choice_of_the_inference_parameters_is_inferred_once(tmp_path: Path) -> None:
    served = Served(StagedEngine())
    sets = [{"level": level, "scale": scale} for level in (0, 50) for scale in (1, 2, 3)]
    async with connection(served, tmp_path) as caller:
        await sweep(caller, sets)
    assert sorted(served.sent) == ["digest"] * 3 + ["kept"] * 3
    assert served.engine.entered["infer"] == 3


async def test_a_lost_state_is_made_once_again(tmp_path: Path) -> None:
    served = Served(StagedEngine())
    served.before = lambda count: served.forget() if count == 5 else None
    async with connection(served, tmp_path) as caller:
        attempts = await sweep(caller, LEVELS)
    assert served.sent.count("kept") == 2
    assert served.engine.entered["infer"] == 2
    # What was asked for in vain is no attempt that failed.
    assert [each.outcome for each in attempts] == ["ok"] * 12


async def test_states_that_are_always_lost_cost_no_set(tmp_path: Path) -> None:
    served = Served(StagedEngine())
    served.before = lambda count: served.forget()
    async with connection(served, tmp_path) as caller:
        attempts = await sweep(caller, LEVELS)
    assert [each.outcome for each in attempts] == ["ok"] * 12
    assert len(served.sent) <= 12 * 4


class WithoutStates(Served):
    """A service of an earlier version."""

    async def describe(self) -> dict[str, Any]:
        described = await super().describe()
        del described["states"], described["inference_parameters"]
        return described


NOT_KEPT: dict[str, tuple[Callable[[], Served], list[str]]] = {
    "an earlier version": (lambda: WithoutStates(StagedEngine()), ["pixels"] * 12),
    "no states": (lambda: Served(StagedEngine(), max_state_bytes=0), ["pixels"] * 12),
    "too large": (
        lambda: Served(StagedEngine(), max_state_bytes=1000),
        ["kept"] + ["pixels"] * 11,
    ),
}


@pytest.mark.parametrize(("serve", "sent"), NOT_KEPT.values(), ids=NOT_KEPT)
async def test_without_states_each_set_is_a_call_of_its_own(
    tmp_path: Path, serve: Callable[[], Served], sent: list[str]
) -> None:
    served = serve()
    async with connection(served, tmp_path) as caller:
        await sweep(caller, LEVELS)
    assert served.sent == sent


PLANES = {
    "without a digest": Plane(IMAGE, "YX", ""),
    "big-endian": Plane(IMAGE.astype(">u2"), "YX", ""),
    "bool": Plane(IMAGE % 2 == 0, "YX", ""),
    "not contiguous": Plane(np.asfortranarray(IMAGE), "YX", ""),
}


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
async def test_the_service_finds_the_state_of_every_plane(tmp_path: Path, plane: Plane) -> None:
    served = Served(StagedEngine())
    async with connection(served, tmp_path) as caller:
        await sweep(caller, LEVELS[:2], plane)
    assert served.sent == ["kept", "digest"]


async def test_a_set_that_is_refused_ends_the_sweep(tmp_path: Path) -> None:
    served = Served(StagedEngine())
    sets = [*LEVELS[:2], {"width": 1}, *LEVELS[2:]]
    taken = 0
    async with connection(served, tmp_path) as caller:
        with pytest.raises(RequestRefused, match="width"):
            async for _ in segment_sets(caller, PLANE, sets, lambda _: None):
                taken += 1
        assert taken == 2
        # The connection is of use for the next sweep.
        await sweep(caller, LEVELS)


async def test_a_sweep_that_is_left_ends_its_calls(tmp_path: Path) -> None:
    served = Served(StagedEngine())
    async with connection(served, tmp_path) as caller:
        masks = segment_sets(caller, PLANE, LEVELS, lambda _: None)
        await anext(masks)
        await masks.aclose()  # type: ignore[attr-defined]
        assert len(served.sent) < 12
        assert served.service.idle_s() > 0


class TwoReplicas:
    def __init__(self, **replicas: Served) -> None:
        self.replicas = replicas

    async def find(self) -> dict[str | None, list[FakeTransport]]:
        return {name: [FakeTransport(each)] for name, each in self.replicas.items()}

    async def close(self) -> None:
        pass


async def test_the_replica_that_holds_the_state_gets_the_sweep(tmp_path: Path) -> None:
    served = {name: Served(StagedEngine()) for name in ("a", "b")}
    with ConnectionJournal(tmp_path / "journal.jsonl") as journal:
        async with connected(TwoReplicas(**served), journal, 1) as (manager, description):
            async with asyncio.timeout(10):
                while manager.capacity < 6:
                    await asyncio.sleep(0.005)
            attempts = await sweep(PlaneCaller(manager, description), LEVELS)
            whole = await sweep(PlaneCaller(manager, description), LEVELS[:1])
    (holder,) = {each.replica for each in attempts}
    assert holder is not None
    assert len(whole) == 1
    assert served[holder].sent[:12] == ["kept"] + ["digest"] * 11
    for each in served.values():
        each.service.close()
