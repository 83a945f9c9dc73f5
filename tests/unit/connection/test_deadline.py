"""A call that waits its turn in a working service's queue is not late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from samcourier.connection import ConnectionManager, OnlyReplica
from samcourier.connection.call import Call, CallFailed
from samcourier.connection.deadline import Deadline
from samcourier.connection.flow import ServiceLoad
from samcourier.connection.throughput import Payload
from samcourier.connection.time_limits import Policy
from samcourier.errors import Overloaded
from samcourier.results.connection_log import ConnectionJournal
from samcourier.testing.fake import FakeTransport, Scripted


@pytest.mark.parametrize(
    ("counts", "late_s"),
    [
        # At which second the service said how many images it had finished; the queue holds two.
        ([], 10),
        ([(9, 500)], 10),
        ([(1, 500), (9, 501)], 19),
        ([(1, 500), (9, 501), (18, 502)], 28),
        # One that stands still has until then.
        ([(1, 500), (8, 501), (17, 501)], 18),
        # After two others it is this one's turn.
        ([(1, 500), (8, 502), (17, 503)], 18),
        ([(1, 500), (8, 503)], 10),
        # Started anew, it knows of no image of before.
        ([(1, 500), (8, 0), (9, 1)], 10),
        ([(1, 1), (8, 0), (9, 2)], 10),
    ],
)
def test_a_deadline_moves_on_with_the_images_before_it(
    counts: list[tuple[int, int]], late_s: float
) -> None:
    deadline = Deadline(0.0, timeout_s=10, max_images_ahead=2)
    for now_s, images_finished in counts:
        deadline.note(images_finished, now_s)
    assert deadline.at_s == late_s
    assert deadline.longest_s == 90


@pytest.mark.parametrize(
    ("loads", "counts", "late_s"),
    [
        # (images of this caller, callers, depth) at each count. Two of its own ahead, alone:
        # three may end before it, the running ones included.
        ([(2, 1, 1)], [500, 501, 502, 503, 504, 505], 46),
        ([(2, 1, 1)], [500, 505], 10),
        # In turn with two other callers.
        ([(2, 3, 1)], [500, 510], 19),
        ([(2, 3, 1)], [500, 511], 10),
        # Callers that come later are served in turn too.
        ([(2, 1, 1), (9, 3, 1)], [500, 510], 19),
        # Own images that arrived while this one was on its way are ahead.
        ([(0, 1, 1), (9, 1, 1)], [500, 511], 19),
        ([(0, 1, 1), (9, 1, 1)], [500, 512], 10),
        # That they have ended does not make it late.
        ([(0, 1, 1), (9, 1, 1), (1, 1, 1)], [500, 509, 511], 28),
        ([(0, 1, 4)], [500, 505], 19),
        ([(0, 1, 4)], [500, 506], 10),
        # The service was started anew.
        ([(2, 1, 1)], [500, 0, 1], 10),
    ],
)
def test_a_deadline_counts_the_images_that_are_served_before(
    loads: list[tuple[int, int, int]], counts: list[int], late_s: float
) -> None:
    deadline = Deadline(0.0, timeout_s=10, max_images_ahead=20)
    for number, images_finished in enumerate(counts):
        own, callers, depth = loads[min(number, len(loads) - 1)]
        deadline.note(images_finished, 9.0 * number, ServiceLoad(depth, own, callers))
    assert deadline.at_s == late_s


class Working:
    """A service with a queue of twenty that finishes some other image each ``pace_s``."""

    def __init__(self, pace_s: float, work_s: float, full_s: float = 0.0) -> None:
        self.pace_s = pace_s
        self.work_s = work_s
        self.full_s = full_s
        self.start_s = time.monotonic()

    async def describe(self) -> dict[str, Any]:
        return {"engine": "e", "limits": {"in_parallel": 1, "max_queue": 20}}

    async def probe(self, payload: bytes, reply_bytes: int) -> dict[str, Any]:
        elapsed_s = time.monotonic() - self.start_s
        now_s = time.time()
        return {
            "data": bytes(reply_bytes), "images_finished": int(elapsed_s / self.pace_s),
            "places_left": int(elapsed_s > self.full_s),
            "received_unix_s": now_s, "sent_unix_s": now_s,
        }  # fmt: skip

    async def segment_all(self) -> dict[str, Any]:
        await asyncio.sleep(self.work_s)
        return {"received_unix_s": time.time(), "sent_unix_s": time.time()}


async def take_all(value: Any) -> Any:
    return value


CALL = Call("segment_all", {}, Payload(10, 10), take_all)
POLICY = Policy(
    attempt_timeout_s=1.0,
    image_timeout_s=1.0,
    heartbeat_s=0.02,
    overload_wait_s=0.1,
    overload_wait_max_s=0.1,
    outage_limit_s=0.0,
)

Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    journal = ConnectionJournal(tmp_path / "journal.jsonl")
    managers: list[ConnectionManager] = []

    async def make(
        service: Working, calls: list[Scripted] | None = None, policy: Policy = POLICY
    ) -> ConnectionManager:
        transport = FakeTransport(service, name="websocket", calls=calls or [])
        managers.append(ConnectionManager(OnlyReplica([transport]), journal, policy))
        await managers[-1].start(9)
        return managers[-1]

    yield make
    for manager in managers:
        await manager.close()
    journal.close()


async def test_an_image_waits_its_turn_beyond_the_seconds_of_one_call(start: Start) -> None:
    manager = await start(Working(pace_s=0.2, work_s=2.5))
    answer = await manager.call(CALL)
    assert [attempt.outcome for attempt in answer.attempts] == ["ok"]
    assert answer.attempts[0].seconds.total > 2 * POLICY.attempt_timeout_s


@pytest.mark.parametrize("pace_s", [9.0, 0.001])
async def test_a_service_without_progress_or_after_a_restart_is_not_waited_for(
    start: Start, pace_s: float
) -> None:
    manager = await start(Working(pace_s, work_s=9.0))
    with pytest.raises(CallFailed) as caught:
        await manager.call(CALL)
    attempt = caught.value.attempts[0]
    assert attempt.error is not None
    assert attempt.error.message.startswith("websocket: no answer in 1.")


@pytest.mark.parametrize(("pace_s", "is_served"), [(0.05, True), (99.0, False)])
async def test_a_call_waits_without_limit_in_the_queue_of_a_service_with_progress(
    start: Start, monkeypatch: pytest.MonkeyPatch, pace_s: float, is_served: bool
) -> None:
    # An idle transport is looked at so often.
    monkeypatch.setattr("samcourier.connection.watchdog.HEALTH_S", 0.02)
    full = [Scripted(error=Overloaded("32 images are waiting already")) for _ in range(25)]
    manager = await start(Working(pace_s, work_s=0.0), full)
    if is_served:
        assert len((await manager.call(CALL)).attempts) == 26
    else:
        with pytest.raises(CallFailed, match="32 images are waiting"):
            await manager.call(CALL)


async def test_an_image_is_not_resent_to_a_full_queue(start: Start) -> None:
    full = [Scripted(error=Overloaded("32 images are waiting already"))]
    manager = await start(Working(pace_s=0.05, work_s=0.0, full_s=0.8), full)
    assert [attempt.outcome for attempt in (await manager.call(CALL)).attempts] == ["failed", "ok"]
    history = manager._first.links[0].transport.history  # type: ignore[union-attr]
    assert history.count("segment_all") == 2
    assert history.count("probe") >= 3
