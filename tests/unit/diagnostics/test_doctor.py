"""What the doctor says of what was found: a table of facts and lines."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec import structs

from samcourier.cli import main
from samcourier.diagnostics.doctor import gather
from samcourier.diagnostics.doctor.assess import assess_facts, has_failed
from samcourier.diagnostics.doctor.facts import (
    DiskFact,
    Facts,
    PaceFact,
    RunRequest,
    ServerFact,
    Unknown,
    VersionFact,
)
from samcourier.diagnostics.doctor.gather import MachineChecks, gather_facts
from samcourier.diagnostics.doctor.machine import disk_fact, pace_fact, version_facts
from samcourier.diagnostics.doctor.run_time import estimate_run
from samcourier.diagnostics.forecast import Forecast
from samcourier.errors import Denied, ServiceFailed, ServiceGone
from samcourier.results.layout import mask_path
from samcourier.results.service_description import CallLimits, Gpu, ServiceDescription
from samcourier.settings.run_settings import RunSettings, ServiceSettings
from samcourier.transports.base import Endpoint
from samcourier.transports.caller import Caller
from samcourier.transports.ice_servers import IceAnswer, ask_ice_servers, parse_ice_url
from samcourier.transports.network import IceServer

from ..conftest import COUNTS

URL = "https://hypha.example.org"
NOW_UNIX_S = 1_800_000_000.0
CARRIED = {"bytes_up": 4 << 20, "bytes_down": 4 << 20, "send_s": 0.1, "receive_s": 0.2}
WORKS = {"works": True, "large": CARRIED, "caller": "ann@example.org"}


def fails(defect: str, message: str = "it broke", kind: str = "transport") -> dict[str, Any]:
    failure = {"kind": kind, "name": "Error", "message": message}
    return {"works": False, "defect": defect, "advice": f"mend {defect}", "failure": failure}


FORECAST = Forecast(
    images=1000,
    files=9000,
    files_in_inputs=0,
    files_as_zip=2100,
    is_least=False,
    mask_pixels=1e6,
    image_bytes=2e6,
    sampled_count=10,
    unopened=(),
)
GOOD = Facts(
    request=RunRequest("existing", "auto", {}, images_left=1000, images=1000, connections=150),
    forecast=FORECAST,
    service="ready",
    server=ServerFact(URL, True, "200 with application/json", 0.02, 0.4),
    caller=Caller("ann@example.org", "lab", False, "write", NOW_UNIX_S + 86_400, None, 5),
    replica_ids=("lab/a:sam",),
    description=ServiceDescription(
        engine="microsam",
        slow_without_gpu=True,
        scales_images=True,
        model="vit_b_lm (ais)",
        service_version="0.1.0",
        device="cuda",
        gpu=Gpu("NVIDIA L4", 24_000_000_000),
        limits=CallLimits(max_pixels=1 << 28, max_queue=32, in_parallel=1),
    ),
    verdicts={"websocket": WORKS, "webrtc": WORKS, "http": WORKS},
    disk=DiskFact("/data", True, 10**12, 10**8),
    versions=(VersionFact("aiortc", "1.16.0", ">=1.16", True, "1.16.0"),),
    pace=PaceFact(50, 50_000_000, 25.0, "the service's own count"),
    now_unix_s=NOW_UNIX_S,
)
UNREACHABLE = Unknown("no answer within 16 s")
UNPROVED = dict.fromkeys(("websocket", "webrtc", "http"), UNREACHABLE)


def described(**changes: Any) -> dict[str, ServiceDescription]:
    """Return the change of a good service's description that a test of its judgement makes."""
    return {"description": structs.replace(GOOD.description, **changes)}


def lines_on(facts: Facts, topic: str) -> list[tuple[str, str, str]]:
    return [
        (each.status, each.message, each.advice)
        for each in assess_facts(facts)
        if each.topic == topic
    ]


def test_where_all_is_well_each_line_is_ok() -> None:
    lines = assess_facts(GOOD)
    assert {line.status for line in lines} == {"ok"}, lines
    assert not any(line.advice for line in lines)
    topics = ["server", "token", "service", "patched", "websocket", "webrtc", "http", "udp"]
    topics += ["limits", "limits", "images", "disk", "files", "versions", "model", "time"]
    assert [line.topic for line in lines] == topics


@pytest.mark.parametrize(
    ("changed", "topic", "status", "said", "advice"),
    [
        (
            {"server": Unknown("connection refused", "transport")},
            *("server", "failure", "connection refused", "service.server_url"),
        ),
        (
            {"server": Unknown("certificate verify failed", "transport")},
            *("server", "failure", "certificate", "network.ca_bundle"),
        ),
        (
            {"server": ServerFact(URL, False, "200 with text/html", 0.1)},
            *("server", "warning", "not as a Hypha server", "proxy's page"),
        ),
        (
            {"server": ServerFact(URL, True, "", 0.1, -300.0)},
            *("server", "warning", "5 min 00 s behind", "clock"),
        ),
        (
            {"caller": Unknown("the token of ann has expired", "denied")},
            *("token", "failure", "has expired", "stop at its first call"),
        ),
        (
            {"caller": UNREACHABLE},
            *("token", "warning", "no answer within 16 s", ""),
        ),
        (
            {"caller": replace(GOOD.caller, expires_unix_s=NOW_UNIX_S + 600)},  # type: ignore[type-var]
            *("token", "warning", "may expire before a run of 8 min 20 s", "valid longer"),
        ),
        (
            {"caller": replace(GOOD.caller, expires_unix_s=None)},  # type: ignore[type-var]
            *("token", "ok", "never expires", ""),
        ),
        (
            {"service": Unknown("service.target existing needs service.service_id", "input")},
            *("service", "failure", "needs service.service_id", ""),
        ),
        (
            {"service": "not_yet"},
            "service",
            "warning",
            "the run starts it",
            "snakemake --cores 1 deploy",
        ),
        ({"verdicts": UNPROVED}, "service", "failure", "no transport reaches it", "service_id"),
        ({"verdicts": UNPROVED}, "http", "failure", "no answer within 16 s", ""),
        (
            {"description": ServiceDescription()},
            "service",
            "warning",
            "does not describe itself",
            "",
        ),
        (
            {"refusals": ("config.parameters: sigma is unknown",)},
            *("service", "failure", "sigma is unknown", ""),
        ),
        (
            {"verdicts": {"websocket": WORKS, "webrtc": fails("context_required")}},
            *("patched", "warning", "context_required", "mend context_required"),
        ),
        (
            {"verdicts": {"websocket": WORKS, "webrtc": fails("ice_failed")}},
            *("udp", "warning", "no direct path", "TURN"),
        ),
        (
            {"verdicts": {"websocket": WORKS, "http": fails("other", "http: status 413")}},
            *("http", "warning", "status 413", ""),
        ),
        (
            {"verdicts": {"http": fails("other", "http: status 413")}},
            *("http", "failure", "status 413", ""),
        ),
        (
            {"verdicts": {"http": fails("other", "http: TimeoutError: ")}},
            *("http", "failure", "no answer in time", ""),
        ),
        (
            {"verdicts": {"http": fails("other", "http: needs service.workspace, or")}},
            *("http", "failure", "needs service.workspace", "set service.workspace"),
        ),
        (
            {"verdicts": {"websocket": UNREACHABLE, "webrtc": fails("ice_failed", "no channel")}},
            *("webrtc", "failure", "not tried: its handshake goes over the WebSocket", ""),
        ),
        (
            {"verdicts": {"webrtc": {**WORKS, "caller": "root"}}},
            *(
                "webrtc",
                "warning",
                "the service identifies the caller as root, the server as ann",
                "restricted",
            ),
        ),
        (
            {"ice_servers": (IceAnswer("turn:t.org", "the server refuses: 401 Unauthorized"),)},
            *("ice server", "warning", "401", "network.ice_servers"),
        ),
        (
            {"caller": replace(GOOD.caller, workspace_clients=120)},  # type: ignore[type-var]
            *("limits", "warning", "120 clients", "network.connections to 70"),
        ),
        (
            {"forecast": replace(FORECAST, unopened=("a.tif: no such file",))},
            *("images", "warning", "1 of 10 checked cannot be opened: a.tif", "continues"),
        ),
        ({"disk": Unknown("no answer within 16 s")}, "disk", "failure", "no answer", "file system"),
        ({"disk": DiskFact("/data", False, 1, 1)}, "disk", "failure", "cannot be written", ""),
        (
            {"disk": DiskFact("/data", True, 10**6, None)},
            "disk",
            "failure",
            "1.0 MB free",
            "free some space",
        ),
        ({"disk": DiskFact("/data", True, 2 * 10**8, None)}, "disk", "warning", "0.0 MB free", ""),
        ({"disk": DiskFact("/data", True, 10**12, 100)}, "files", "failure", "100 free", "zip"),
        ({"disk": DiskFact("/data", True, 10**12, None)}, "files", "ok", "does not limit", ""),
        (
            {"versions": (VersionFact("sqlmodel", "0.0.50", "==0.0.37", False),)},
            *("versions", "failure", "sqlmodel 0.0.50, expected ==0.0.37", "pip install"),
        ),
        (
            {"versions": (VersionFact("zarr", "3.2.0", ">=3.1", True, "3.1.6"),)},
            *("versions", "warning", "zarr 3.2.0 (3.1.6)", "requirements.lock"),
        ),
        (
            described(gpu=None),
            *("model", "warning", "does not report which GPU it is", "update"),
        ),
        (
            described(gpu=None, device="cpu"),
            *("model", "warning", "times as long as on a GPU", "GPU"),
        ),
        (
            described(gpu=None, device="cpu", engine="watershed", slow_without_gpu=False),
            *("model", "ok", "suits watershed", ""),
        ),
        ({"pace": None}, "time", "warning", "unknown", "segment a few"),
    ],
)
def test_each_problem_gets_its_line(
    changed: dict[str, Any], topic: str, status: str, said: str, advice: str
) -> None:
    found = lines_on(replace(GOOD, **changed), topic)
    assert any(status == line[0] and said in line[1] and advice in line[2] for line in found), found


@pytest.mark.parametrize(
    ("changed", "seconds", "because"),
    [
        ({}, 500.0, "0.5 s per image"),
        ({"replica_ids": ("a", "b")}, 250.0, "2 replicas"),
        # SAM takes as long for a small image, the watershed does not.
        ({"forecast": replace(FORECAST, mask_pixels=250_000.0)}, 500.0, ""),
        (
            {
                "forecast": replace(FORECAST, mask_pixels=250_000.0),
                "description": ServiceDescription(engine="watershed"),
            },
            125.0,
            "",
        ),
        (
            {"verdicts": {"http": {**WORKS, "large": {**CARRIED, "send_s": 8.0}}}},
            2387.9,
            "takes longer",
        ),
    ],
)
def test_the_duration_of_a_run_follows_from_pace_replicas_and_transport(
    changed: dict[str, Any], seconds: float, because: str
) -> None:
    run = estimate_run(replace(GOOD, **changed))
    assert run is not None
    assert run.seconds == pytest.approx(seconds, rel=1e-3)
    assert because in run.basis


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("stun:s.org", ("stun", "s.org", 3478, "udp")),
        ("turn:t.org:5000?transport=tcp", ("turn", "t.org", 5000, "tcp")),
        ("turns:t.org", ("turns", "t.org", 5349, "tcp")),
        ("turn:[::1]:99", ("turn", "::1", 99, "udp")),
    ],
)
def test_an_ice_servers_url_is_read(url: str, parts: tuple[str, str, int, str]) -> None:
    assert parse_ice_url(url) == parts


@pytest.mark.parametrize("scheme", ["stun", "turn", "stuns"])
@pytest.mark.parametrize(
    ("port", "problem"), [("99999", "port must be 0-65535"), ("²", "invalid literal for int")]
)
async def test_an_ice_server_with_an_odd_port_is_a_failure_of_its_own(
    scheme: str, port: str, problem: str
) -> None:
    url = f"{scheme}:127.0.0.1:{port}"
    (answer,) = await ask_ice_servers((IceServer((url,)),))
    assert answer.url == url
    assert problem in str(answer.failure)


HERE = MachineChecks(
    lambda: FORECAST, lambda: DiskFact("/data", True, 1, 1), lambda: (), lambda: None
)


def run_settings(**service: Any) -> RunSettings:
    return RunSettings(dataset="cells", service=ServiceSettings(**service))


async def test_a_check_that_hangs_is_late_and_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gather, "LIMIT_S", 1.2)
    hangs = threading.Event()

    def find(_: RunSettings) -> Endpoint:
        hangs.wait(10)
        raise ServiceGone("too late")

    here = MachineChecks(
        HERE.forecast, lambda: hangs.wait(10) or disk_fact(Path()), tuple, HERE.pace
    )
    start_s = time.monotonic()
    facts = await gather_facts(GOOD.request, run_settings(), find, here)
    assert time.monotonic() - start_s < 5
    hangs.set()
    assert isinstance(facts.disk, Unknown) and "run the doctor again" in facts.disk.why
    assert isinstance(facts.service, Unknown) and facts.service.kind == "late"
    assert facts.forecast == FORECAST
    assert has_failed(assess_facts(facts))


async def test_the_server_is_checked_while_the_service_is_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requested = threading.Event()

    async def request_readiness(_: Endpoint) -> ServerFact | Unknown:
        requested.set()
        return GOOD.server

    async def no_caller(*_: object) -> tuple[Unknown, Unknown]:
        return UNREACHABLE, UNREACHABLE

    def find(_: RunSettings) -> Endpoint:
        raise ServiceGone("no app") if requested.wait(5) else ServiceFailed("not requested")

    monkeypatch.setattr(gather, "_request_readiness", request_readiness)
    monkeypatch.setattr(gather, "_caller", no_caller)
    settings = run_settings(target="bioengine", server_url=URL)
    facts = await gather_facts(GOOD.request, settings, find, HERE)
    assert (facts.server, facts.service) == (GOOD.server, "not_yet")


@pytest.mark.parametrize(("spent_s", "expected_s"), [(0, 16), (5, 11), (8, 8), (60, 8)])
def test_the_time_of_a_slow_start_is_subtracted_from_that_of_the_checks(
    spent_s: float, expected_s: float
) -> None:
    assert gather.left_s(spent_s) == expected_s


@pytest.mark.parametrize(
    ("target", "error", "service"),
    [
        ("bioengine", ServiceGone("no app"), "not_yet"),
        ("slurm", ServiceGone("no job"), "not_yet"),
        ("existing", ServiceGone("no service"), Unknown("no service", "service")),
        ("bioengine", Denied("no token"), Unknown("no token", "denied")),
        ("local", ServiceFailed("it broke"), Unknown("it broke", "service")),
    ],
)
async def test_a_service_that_the_run_starts_may_be_missing(
    target: Any, error: Exception, service: object
) -> None:
    def find(_: RunSettings) -> Endpoint:
        raise error

    facts = await gather_facts(GOOD.request, run_settings(target=target), find, HERE)
    assert facts.service == service


def lose_a_mask(root: Path) -> None:
    shutil.rmtree(mask_path(root / "results/demo", "near"))


@pytest.mark.parametrize(
    ("change", "options", "images", "time"),
    [
        (lambda root: None, [], "1 to segment, 4 have a mask", "about"),
        (lambda root: None, ["--only", "near"], "0 to segment, 1 have a mask", "nothing to segm"),
        (lose_a_mask, ["--only", "near"], "1 to segment", "about"),
        (lambda root: None, ["--to-segment", "all.txt"], "5 to segment", "about"),
        (lose_a_mask, ["--to-segment", "none.txt"], "0 to segment, 5 have a mask", "nothing to se"),
        (
            *(lambda root: None, ["--to-segment", "all.txt", "--only", "near", "--only", "far"]),
            *("2 to segment", "about"),
        ),
    ],
)
def test_what_is_left_is_what_the_workflow_names_or_what_lacks_its_mask(
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    options: list[str],
    images: str,
    time: str,
) -> None:
    async def gathered(request: RunRequest, *_: object) -> Facts:
        return replace(GOOD, request=request)

    monkeypatch.setattr(gather, "gather_facts", gathered)
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.chdir(finished_run)
    Path("all.txt").write_text("".join(f"{image}\n" for image in COUNTS))
    Path("none.txt").touch()
    change(finished_run)
    command = ["doctor", "images.tsv", "--batch-size", "2", "--dataset-dir", "results/demo"]
    said = CliRunner().invoke(main, [*command, *options]).output
    assert re.search(rf"(?m)^ok +images +{images}$", said), said
    assert re.search(rf"(?m)^ok +time +{time}", said), said


def test_the_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    fact = disk_fact(tmp_path / "results/plate7")
    assert (fact.path, fact.is_writable) == (str(tmp_path), True)
    assert fact.free_bytes > 0


def test_this_installation_has_the_versions_it_needs() -> None:
    facts = {each.package: each for each in version_facts(["local"])}
    assert {"hypha-rpc", "aiortc", "sqlmodel", "snakemake"} <= facts.keys()
    assert [each for each in facts.values() if not each.is_met] == []
    assert facts["hypha-rpc"].tested == facts["hypha-rpc"].installed
    assert "sqlmodel" not in {each.package for each in version_facts([])}


def test_no_earlier_run_tells_no_pace(tmp_path: Path) -> None:
    assert pace_fact(tmp_path / "results/plate7") is None
