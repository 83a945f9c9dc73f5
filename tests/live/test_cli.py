"""`samcourier serve` and the commands that use it, through a real Hypha server."""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import jsonschema
import numpy as np
import pytest
import tifffile
import yaml

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.evaluation.accuracy import score
from samcourier.files.atomic import write_private
from samcourier.masks.omezarr import read_mask
from samservice.hypha.connection import connect

pytestmark = pytest.mark.live

REPO = Path(__file__).parents[2]
SHARED_IMAGES = REPO.parent / "shared" / "images"
COMMANDS = (
    *("demo-data", "deploy", "verify", "bench", "batch", "segment", "report", "check", "monitor"),
    *("serve", "undeploy", "rerun", "sheet", "doctor", "prune"),
)
#: Against hanging, on a busy machine too.
COMMAND_TIMEOUT_S = READY_TIMEOUT_S = 240
#: What a command must not wait for: hypha-rpc's own timers.
TIMERS_OF_OTHERS_S = 30
LITTLE_PATIENCE = Path(__file__).with_name("little_patience")
WORKSPACE = "lab"
STRANGE_WORKSPACE = "elsewhere"


@dataclass(frozen=True)
class Server:
    """A Hypha server and a user of one of its workspaces, whose token lies in a 0600 file."""

    url: str
    token: str
    expired_token: str
    stranger_token: str
    token_file: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("hypha")
    root_token = secrets.token_urlsafe(48)
    with asyncio.Runner() as runner:
        running = running_hypha(directory, root_token)
        url, _ = runner.run(running.__aenter__())
        try:
            token, expired, stranger = runner.run(make_tokens(url, root_token))
            write_private(directory / "token", token)
            yield Server(url, token, expired, stranger, directory / "token")
        finally:
            runner.run(running.__aexit__(None, None, None))


async def make_tokens(url: str, root_token: str) -> list[str]:
    """Return tokens of a user, of one that has expired when it is used, and of a stranger."""
    hypha = await connect(url, token=root_token)
    for name in (WORKSPACE, STRANGE_WORKSPACE):
        await hypha.create_workspace(
            {"id": name, "name": name, "description": name, "persistent": True}
        )
    tokens = [
        await hypha.generate_token(
            {"workspace": workspace, "permission": "read_write", "expires_in": expires_in_s}
        )
        for workspace, expires_in_s in (
            (WORKSPACE, 3600),
            (WORKSPACE, 1),
            (STRANGE_WORKSPACE, 3600),
        )
    ]
    await hypha.disconnect()
    await asyncio.sleep(1)
    return tokens


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "samcourier.cli", *map(str, arguments)]


def python_path(first: Path) -> str:
    return os.pathsep.join(filter(None, [str(first), os.environ.get("PYTHONPATH")]))


def run(
    *arguments: object, status: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Run a command to its end, with more variables set, and return all it said."""
    inherited = {name: value for name, value in os.environ.items() if name != "HYPHA_TOKEN"}
    done = subprocess.run(
        command_line(*arguments),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=inherited | dict(environment),
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


@dataclass
class Served:
    """A running `samcourier serve`."""

    process: subprocess.Popen[str]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def end(self, number: int) -> float:
        """Send a signal, expect a clean end, return the seconds it took."""
        sent_s = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(COMMAND_TIMEOUT_S) == 0, self.said()
        return time.monotonic() - sent_s


@contextmanager
def serving(server: Server, log: Path, *options: object) -> Iterator[Served]:
    arguments = ("--server-url", server.url, "--token-file", server.token_file, *options)
    with log.open("w") as file:
        process = subprocess.Popen(
            command_line("serve", *arguments), text=True, stdout=file, stderr=subprocess.STDOUT
        )
    served = Served(process, log)
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while "ready: " not in served.said():
            assert process.poll() is None, served.said()
            assert time.monotonic() < deadline, served.said()
            time.sleep(0.05)
        yield served
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that all tests here may use; it ends as quietly as it ran."""
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    with serving(server, log) as running:
        yield running
        running.end(signal.SIGTERM)
    (line,) = running.said().splitlines()
    assert line.startswith(f"ready: {WORKSPACE}/samservice-")
    assert server.token not in line


@pytest.fixture
def existing(server: Server, served: Served, tmp_path: Path) -> list[object]:
    """The options that name the running service, results going to a folder of this test."""
    return [
        *("--target", "existing", "--server-url", server.url, "--workspace", WORKSPACE),
        *("--service-id", "samservice", "--token-file", server.token_file),
        *("--dataset-dir", tmp_path / "results"),
    ]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file with 16 bright squares."""
    pixels = np.full((160, 160), 100, np.uint16)
    for row in range(10, 160, 40):
        for column in range(10, 160, 40):
            pixels[row : row + 20, column : column + 20] = 2000
    path = tmp_path / "squares.tif"
    tifffile.imwrite(path, pixels)
    return path


@pytest.mark.parametrize("transport", ["auto", "websocket", "webrtc", "http"])
def test_verify_proves_the_transports(
    existing: list[object], tmp_path: Path, transport: str
) -> None:
    out = tmp_path / "service.json"
    said = run("verify", *existing, "--transport", transport, "--out", out)
    verdict = json.loads(out.read_text())
    schema = yaml.safe_load((REPO / "workflow/schemas/service.schema.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(verdict)
    asked = {"websocket", "webrtc", "http"} if transport == "auto" else {transport}
    assert set(verdict["transports"]) == asked
    assert all(found["works"] for found in verdict["transports"].values())
    assert verdict["description"]["engine"] == "watershed"
    assert len(said.splitlines()) == len(asked)


@pytest.mark.parametrize(
    ("authorized_users", "refused"),
    [(["*"], False), (["ann@example.org", "*"], False), (["ann@example.org", "bob"], True)],
)
def test_serve_lets_its_authorized_users_in_alone(
    server: Server,
    existing: list[object],
    tmp_path: Path,
    authorized_users: list[str],
    refused: bool,
) -> None:
    named = [part for user in authorized_users for part in ("--authorized-user", user)]
    out = tmp_path / "service.json"
    asked = [part if part != "samservice" else "guarded" for part in existing]
    with serving(server, tmp_path / "serve.log", "--service-id", "guarded", *named) as guarded:
        run("verify", *asked, "--out", out, status=1 if refused else 0)
        guarded.end(signal.SIGTERM)
    for found in json.loads(out.read_text())["transports"].values():
        assert found["works"] is not refused
        assert not refused or "may not" in found["failure"]["message"]


def test_verify_proves_one_of_two_copies_under_one_name(
    server: Server, existing: list[object], sheet: Path, tmp_path: Path
) -> None:
    out = tmp_path / "service.json"
    asked = [part if part != "samservice" else "twice" for part in existing]
    with (
        serving(server, tmp_path / "first.log", "--service-id", "twice"),
        serving(server, tmp_path / "second.log", "--service-id", "twice"),
    ):
        said = run("verify", *asked, "--out", out)
        doctor = run("doctor", sheet, *asked)
    verdict = json.loads(out.read_text())
    works = {name: found["works"] for name, found in verdict["transports"].items()}
    assert works == {"websocket": True, "webrtc": True, "http": True}, said
    assert f"2 replicas of twice; this command tests {WORKSPACE}/twice-" in said
    assert re.search("(?m)^ok +service .*, 2 replicas$", doctor), doctor


MIB_1 = ("--max-mib", 1, "--runs", 2)


def bench_table(directory: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the rows by transport, direction and payload bytes."""
    with (directory / "table.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {(row["transport"], row["direction"], row["payload_bytes"]): row for row in rows}


def test_bench_measures_every_transport_beside_the_naive_client(
    server: Server, existing: list[object], tmp_path: Path
) -> None:
    said = run("bench", *existing, *MIB_1, "--out", tmp_path / "bench")
    rows = bench_table(tmp_path / "bench")
    names = ("websocket", "webrtc", "http", "naive")
    sizes = [str(kib << 10) for kib in (64, 256, 1024)]
    assert list(rows) == list(itertools.product(names, ("up", "down", "both"), sizes))
    for row in rows.values():
        assert (row["runs"], row["remark"]) == ("2", "")
        assert 0 < float(row["mb_per_s"]) < 10_000
        assert 0 < float(row["fastest_s"]) <= float(row["seconds"]) <= float(row["slowest_s"])
        assert row["round_trip_s"] and row["times_naive"]
    content = json.loads((tmp_path / "bench/bench.json").read_text())
    assert len(content["rows"]) == len(rows)
    assert content["description"]["engine"] == "watershed"
    assert sum(line.startswith("websocket ") for line in said.splitlines()) == 4
    assert "random bytes" in said
    for path in tmp_path.rglob("*"):
        assert (
            path.name == "token"
            or path.is_dir()
            or server.token.encode() not in (path.read_bytes())
        ), path


@pytest.mark.parametrize("has_matplotlib", [True, False])
def test_bench_draws_its_plot_where_it_can(
    existing: list[object], tmp_path: Path, has_matplotlib: bool
) -> None:
    if has_matplotlib and find_spec("matplotlib") is None:
        pytest.skip("the extra [plot] is not installed")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if not has_matplotlib:
        (hidden / "matplotlib.py").write_text("raise ModuleNotFoundError")
    out = tmp_path / "bench"
    options = (*MIB_1, "--transport", "websocket", "--out", out)
    said = run("bench", *existing, *options, environment={"PYTHONPATH": python_path(hidden)})
    drawn = {path.name for path in out.iterdir()} - {"table.tsv", "bench.json"}
    assert drawn == ({"plot.png", "plot.svg"} if has_matplotlib else set())
    assert ("pip install 'samcourier[plot]'" in said) != has_matplotlib


def test_bench_says_of_each_transport_why_it_cannot(existing: list[object], tmp_path: Path) -> None:
    out = tmp_path / "bench"
    options = (*existing, "--service-id", "nobody", *MIB_1, "--out", out)
    said = run("bench", *options, status=1)
    lines = [line for line in said.splitlines() if "does not work: " in line]
    assert [line.split(":")[0] for line in lines] == ["websocket", "webrtc", "http", "naive"]
    assert said.splitlines()[-1].startswith("Error: no transport reaches the service")
    assert all(row["remark"] for row in bench_table(out).values())


@pytest.mark.parametrize("transport", ["auto", "websocket", "webrtc", "http"])
def test_segment_uses_the_transport_it_is_told(
    server: Server, existing: list[object], image: Path, tmp_path: Path, transport: str
) -> None:
    said = run("segment", image, *existing, "--transport", transport)
    results = tmp_path / "results"
    log = json.loads((results / "logs/squares.json").read_text())
    journal = (results / "logs/connection/0001.jsonl").read_text().splitlines()
    opened = {json.loads(line).get("transport") for line in journal} - {None}
    if transport != "auto":
        assert {attempt["transport"] for attempt in log["attempts"]} == opened == {transport}
        assert f"squares: 16 objects, {transport}" in said
    assert log["object_count"] == read_mask(results / "masks/squares.ome.zarr").max() == 16
    run("check", results)
    watched = run("monitor", results)
    assert ": ended after " in watched and "1 done, 0 failed, 0 left of 1 images" in watched
    for path in results.rglob("*"):
        assert not path.is_file() or server.token.encode() not in path.read_bytes(), path


def test_a_service_is_found_by_its_full_id(
    existing: list[object], served: Served, image: Path
) -> None:
    full_id = served.said().split()[1]
    run("segment", image, *existing, "--service-id", full_id)


@pytest.mark.parametrize("visibility", ["public", "protected"])
def test_only_a_public_service_serves_other_workspaces(
    server: Server, tmp_path: Path, visibility: str
) -> None:
    write_private(tmp_path / "token", server.stranger_token)
    options = ("--service-id", "open", "--visibility", visibility)
    with serving(server, tmp_path / "serve.log", *options) as served:
        said = run(
            *("verify", "--target", "existing", "--server-url", server.url),
            *("--workspace", STRANGE_WORKSPACE, "--service-id", served.said().split()[1]),
            *("--token-file", tmp_path / "token", "--dataset-dir", tmp_path / "results"),
            *("--out", tmp_path / "service.json"),
            status=0 if visibility == "public" else 1,
        )
        served.end(signal.SIGTERM)
    transports = json.loads((tmp_path / "service.json").read_text())["transports"]
    assert len(transports) == 3
    for found in transports.values():
        assert found["works"] == (visibility == "public"), said
        assert found["works"] or found["failure"]["kind"] == "denied", said


@pytest.mark.skipif(
    not SHARED_IMAGES.is_dir(), reason="the real images of ../shared/images are not here"
)
def test_real_nuclei_are_found(existing: list[object], tmp_path: Path) -> None:
    run("segment", SHARED_IMAGES / "nuclei2d.tif", *existing)
    mask = read_mask(tmp_path / "results/masks/nuclei2d.ome.zarr")
    truth = tifffile.imread(SHARED_IMAGES / "nuclei2d_mask.tif")
    assert score(truth, mask).average_precision >= 0.65


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_serve_ends_quickly_and_leaves_the_server_clean(
    server: Server, existing: list[object], tmp_path: Path, number: int
) -> None:
    with serving(server, tmp_path / "serve.log", "--service-id", "short") as short:
        run("verify", *existing, "--service-id", "short", "--out", tmp_path / "service.json")
        assert short.end(number) < TIMERS_OF_OTHERS_S
    assert len(short.said().splitlines()) == 1, short.said()
    said = run(
        *("verify", *existing, "--service-id", "short", "--transport", "websocket"),
        *("--out", tmp_path / "service.json"),
        status=1,
    )
    assert "Service not found" in said


def wrong_options(wrong: str, server: Server, tmp_path: Path) -> tuple[list[object], str]:
    """Return the options that are wrong in one way, and words of the complaint."""
    token_file = tmp_path / "token"
    match wrong:
        case "token":
            write_private(token_file, "not.a.token")
            return ["--token-file", token_file], "does not accept the token of an unknown user"
        case "expired token":
            write_private(token_file, server.expired_token)
            complaint = r"the token of \S+ has expired on .*: get a new one"
            return ["--token-file", token_file], complaint
        case "missing token file":
            return ["--token-file", token_file], f"token file {token_file}: No such file"
        case "empty token file":
            write_private(token_file, "\n")
            return ["--token-file", token_file], f"token file {token_file} is empty"
        case "open token file":
            write_private(token_file, server.token)
            token_file.chmod(0o644)
            return ["--token-file", token_file], "is accessible to other users, expected mode 0600"
        case "workspace":
            complaint = (
                rf"the token of \S+ is for workspace '{WORKSPACE}', not for '{STRANGE_WORKSPACE}'"
            )
            return ["--workspace", STRANGE_WORKSPACE], complaint
        case "service id":
            return ["--service-id", "nobody"], "Service not found|no service 'nobody' is registered"
        case "no server":
            return ["--server-url", "http://127.0.0.1:9"], "refused"
        case _:
            return ["--server-url", "nonsense"], "nonsense"


WRONG_TOKENS = [
    "token",
    "expired token",
    "missing token file",
    "empty token file",
    "open token file",
]
WRONG_PLACES = ["workspace", "no server"]


@pytest.mark.parametrize("wrong", [*WRONG_TOKENS, *WRONG_PLACES, "service id"])
def test_segment_says_in_one_line_why_it_cannot(
    server: Server, existing: list[object], image: Path, tmp_path: Path, wrong: str
) -> None:
    options, complaint = wrong_options(wrong, server, tmp_path)
    patience = {"PYTHONPATH": python_path(LITTLE_PATIENCE)}
    said = run("segment", image, *existing, *options, status=1, environment=patience)
    forecast, *why = said.splitlines()
    assert "files and folders" in forecast
    assert len(why) == 1, said
    assert why[0].startswith("Error: ")
    assert re.search(complaint, why[0]), said
    assert server.token not in said and server.expired_token not in said


@pytest.mark.parametrize("wrong", [*WRONG_TOKENS, *WRONG_PLACES, "service id"])
def test_verify_says_of_each_transport_why_it_cannot(
    server: Server, existing: list[object], tmp_path: Path, wrong: str
) -> None:
    options, complaint = wrong_options(wrong, server, tmp_path)
    said = run("verify", *existing, *options, "--out", tmp_path / "service.json", status=1)
    *lines, last = said.splitlines()
    assert last.startswith("Error: ")
    assert re.search(complaint, said), said
    if not last.startswith("Error: token file"):
        of_transports, advice = lines[:3], lines[3:]
        assert [line.split()[0] for line in of_transports] == ["websocket", "webrtc", "http"]
        assert all("does not work" in line for line in of_transports), said
        assert all(re.match("(denied|not_registered): ", line) for line in advice), said
    assert server.token not in said and server.expired_token not in said


@pytest.fixture
def sheet(image: Path, tmp_path: Path) -> Path:
    path = tmp_path / "images.tsv"
    path.write_text(f"image\tpath\nsquares\t{image}\n")
    return path


def test_the_doctor_finds_nothing_wrong_and_learns_the_pace(
    server: Server, existing: list[object], sheet: Path
) -> None:
    run("segment", sheet, *existing)
    said = run("doctor", sheet, *existing)
    assert "failure" not in said.replace("0 failures", "")
    assert re.search("(?m)^ok +images +0 to segment, 1 have a mask$", said), said
    said = run("doctor", sheet, *existing, "--dataset-dir", sheet.parent / "anew")
    assert re.search("(?m)^ok +time +about .* of the service's own count$", said), said
    assert server.token not in said


@pytest.mark.parametrize("wrong", [*WRONG_TOKENS, *WRONG_PLACES, "service id"])
def test_the_doctor_says_in_time_what_is_wrong(
    server: Server, existing: list[object], sheet: Path, tmp_path: Path, wrong: str
) -> None:
    options, complaint = wrong_options(wrong, server, tmp_path)
    start_s = time.monotonic()
    said = run("doctor", sheet, *existing, *options, status=1)
    assert time.monotonic() - start_s < TIMERS_OF_OTHERS_S
    assert re.search(f"(?m)^failure .*({complaint})", said), said
    assert re.search("(?m)^ok +disk", said), said
    assert server.token not in said and server.expired_token not in said


@pytest.mark.parametrize("command", ["segment", "verify", "doctor"])
def test_a_server_that_is_no_url_is_refused_before_anything_is_asked(
    existing: list[object], sheet: Path, tmp_path: Path, command: str
) -> None:
    inputs = [] if command == "verify" else [sheet]
    out = ["--out", tmp_path / "service.json"] if command == "verify" else []
    said = run(command, *inputs, *existing, "--server-url", "nonsense", *out, status=1)
    assert said.startswith("Error: service.server_url: 'nonsense', expected: URL of the Hypha")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("wrong", [*WRONG_TOKENS, *WRONG_PLACES, "no URL"])
def test_serve_says_in_one_line_why_it_cannot(server: Server, tmp_path: Path, wrong: str) -> None:
    options, complaint = wrong_options(wrong, server, tmp_path)
    own = ["--server-url", server.url, "--token-file", server.token_file]
    said = run("serve", *own, *options, status=1)
    assert len(said.splitlines()) == 1, said
    assert said.startswith("Error: ")
    assert re.search(complaint, said), said
    assert server.token not in said and server.expired_token not in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--engine", "watersheds"], "engine 'watersheds' is unknown"),
        (
            ["--engine-options", '{"sigma": 1}'],
            "service.engine_options: option 'sigma' with value 1 is unknown, expected none",
        ),
    ],
)
def test_serve_refuses_a_wrong_engine(server: Server, options: list[str], complaint: str) -> None:
    own = ["--server-url", server.url, "--token-file", server.token_file]
    assert complaint in run("serve", *own, *options, status=1)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert f" {command} [OPTIONS]" in run(command, "--help")


def test_no_command_is_forgotten() -> None:
    said = run("--help").partition("Commands:")[2]
    assert {line.split()[0] for line in said.splitlines() if line.strip()} == set(COMMANDS)


def test_an_unknown_transport_is_refused(existing: list[object], tmp_path: Path) -> None:
    out = tmp_path / "service.json"
    said = run("verify", *existing, "--transport", "pigeon", "--out", out, status=1)
    assert "transport 'pigeon' is unknown, expected one of websocket, webrtc, http" in said
