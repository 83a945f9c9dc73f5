"""A service with exactly one defect gets its verdict, and is used over what works."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tifffile
import yaml

from samcourier.connection import ConnectionManager, OnlyReplica
from samcourier.connection.time_limits import Policy
from samcourier.diagnostics.verify import verify_service
from samcourier.masks.omezarr import read_mask
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.segmentation.batch import BatchRun
from samcourier.segmentation.settings import BatchSettings
from samcourier.settings.run_settings import RunSettings
from samcourier.transports import Endpoint, HyphaSession, WebSocketTransport, build_transports

from .defective_services import FULL, PLAIN, ForgetfulWebRTC, defective_service

pytestmark = pytest.mark.live

SCHEMA = yaml.safe_load(
    (Path(__file__).parents[2] / "workflow/schemas/service.schema.yaml").read_text()
)
#: A run of so many pays for a look at WebRTC, however fast its images travel over WebSocket.
MANY_CALLS = 1_000_000
#: What has failed rests until the end: on a slow machine it would be back before the last image.
POLICY = Policy(
    open_timeout_s=10.0, webrtc_open_timeout_s=3.0, probe_timeout_s=30.0, first_backoff_s=120.0
)


def left(dataset_dir: Path) -> set[str]:
    """Return the transports that a run has found not to work so far."""
    lines = (dataset_dir / "connection.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {event["transport"] for event in events if event["event"] == "left"}


async def verdicts(endpoint: Endpoint, transports: Any = None) -> dict[str, Any]:
    verdict = await verify_service(endpoint, transports or build_transports(endpoint), POLICY)
    jsonschema.validate(verdict, SCHEMA)
    return verdict["transports"]


@pytest.mark.parametrize(
    ("defect", "methods", "failed_at"),
    [
        ("context_required", FULL, "large_up"),
        ("context_required", PLAIN, "large_up"),
        ("context_missing", FULL, "small"),
        ("context_missing", PLAIN, "small"),
        ("message_too_large", FULL, "large_down"),
        ("not_registered", FULL, "open"),
        ("ice_failed", FULL, "open"),
        ("denied", FULL, "open"),
    ],
)
async def test_a_service_with_one_defect_gets_its_verdict(
    live_endpoint: Endpoint, defect: str, methods: tuple[str, ...], failed_at: str
) -> None:
    async with defective_service(live_endpoint, defect, methods) as endpoint:
        found = await verdicts(endpoint)
    assert [found[name].get("failure") for name in ("websocket", "http")] == [None, None]
    webrtc = found["webrtc"]
    assert (webrtc["defect"], webrtc["failed_at"]) == (defect, failed_at), webrtc
    assert webrtc["advice"]


async def test_a_caller_that_loses_replies_gets_its_verdict(live_endpoint: Endpoint) -> None:
    async with defective_service(live_endpoint, "none") as endpoint:
        session = HyphaSession(endpoint)
        found = await verdicts(endpoint, [WebSocketTransport(session), ForgetfulWebRTC(session)])
    assert found["websocket"]["works"]
    webrtc = found["webrtc"]
    assert (webrtc["defect"], webrtc["failed_at"]) == ("reply_lost", "large_answer"), webrtc


async def test_a_service_that_is_not_there_is_said_so_over_every_transport(
    live_endpoint: Endpoint,
) -> None:
    async with defective_service(live_endpoint, "nothing_registered") as endpoint:
        found = await verdicts(endpoint)
    assert {name: each["defect"] for name, each in found.items()} == dict.fromkeys(
        ("websocket", "webrtc", "http"), "not_registered"
    ), found


@pytest.mark.parametrize("methods", [FULL, PLAIN], ids=["with probe", "segment_all alone"])
async def test_a_service_without_a_defect_works_over_every_transport(
    live_endpoint: Endpoint, methods: tuple[str, ...]
) -> None:
    async with defective_service(live_endpoint, "none", methods) as endpoint:
        found = await verdicts(endpoint)
    assert {name: each["works"] for name, each in found.items()} == dict.fromkeys(
        ("websocket", "webrtc", "http"), True
    ), found
    for each in found.values():
        carried = {size: each[size]["bytes_up"] for size in ("small", "large")}
        assert carried == {"small": 32 << 10, "large": 4 << 20}
        assert (each["small"]["send_s"] is not None) == (methods is FULL)
        assert (each["large"]["receive_s"] is not None) == (methods is FULL)


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("context_required", "webrtc failed: context_required, "),
        ("context_missing", "webrtc failed: context_missing, "),
        ("not_registered", "webrtc failed: not_registered, "),
        ("denied", "webrtc failed: denied, "),
    ],
)
async def test_a_run_uses_a_working_transport_and_logs_why_not_webrtc(
    live_endpoint: Endpoint, tmp_path: Path, defect: str, said: str
) -> None:
    rng = np.random.default_rng(1)
    images = {f"i{n}": rng.integers(0, 60_000, (512, 512), np.uint16) for n in range(8)}
    for image, pixels in images.items():
        tifffile.imwrite(tmp_path / f"{image}.tif", pixels)
    rows = tuple(ImageRow(image, tmp_path / f"{image}.tif") for image in images)
    async with defective_service(live_endpoint, defect) as endpoint:
        with ConnectionJournal(tmp_path / "connection.jsonl") as journal:
            transports = [each for each in build_transports(endpoint) if each.name != "http"]
            manager = ConnectionManager(OnlyReplica(transports), journal, POLICY)
            try:
                description = await manager.start(MANY_CALLS)
                run = BatchRun(
                    BatchSettings(tmp_path, RunSettings(dataset="cells")), manager, description
                )
                early = await run.run(Batch("0001", rows[:-1]))
                async with asyncio.timeout(POLICY.probe_timeout_s):
                    while "webrtc" not in left(tmp_path):
                        await asyncio.sleep(0.05)
                late = await run.run(Batch("0002", rows[-1:]))
            finally:
                await manager.close()
    entries = [*early.images.values(), *late.images.values()]
    assert [entry.status for entry in entries] == ["done"] * len(rows)
    reasons = []
    for image, pixels in images.items():
        np.testing.assert_array_equal(read_mask(mask_path(tmp_path, image)), pixels > pixels.mean())
        log = read_image_log(log_path(tmp_path, image))
        assert log is not None
        assert {each.transport for each in log.attempts if each.outcome == "ok"} == {"websocket"}
        reasons.append(log.attempts[-1].reason)
    # It failed, was not looked at yet, or seemed slower before the look that it failed.
    assert all(" webrtc " in reason for reason in reasons), reasons
    assert said in reasons[-1]
