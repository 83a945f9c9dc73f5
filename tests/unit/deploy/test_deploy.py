"""Who owns the local service, which record still serves, which token may be used."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import platform
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from samcourier import processes
from samcourier.deploy import daemon as detached
from samcourier.deploy import owners
from samcourier.deploy.daemon import end_process
from samcourier.deploy.local import start as local
from samcourier.deploy.local import supervisor
from samcourier.deploy.local.record import (
    OWNERS_NAME,
    RECORD_NAME,
    TOKEN_NAME,
    LocalRecord,
    read_local_record,
    write_local_record,
)
from samcourier.deploy.local.start import ensure_local_service, stop_local_service
from samcourier.deploy.owners import (
    OWNER_VARIABLE,
    UNKNOWN_LIMIT_S,
    OwnerMonitor,
    add_owner,
    living_owners,
)
from samcourier.deploy.targets import find_service
from samcourier.deploy.token import read_token
from samcourier.errors import Denied, InputError, ServiceFailed
from samcourier.files.atomic import write_private
from samcourier.processes import is_elsewhere, is_running, process_identity
from samcourier.settings.run_settings import NetworkSettings, RunSettings, ServiceSettings
from samcourier.transports import Endpoint
from samcourier.transports.network import Network


def own_identity() -> str:
    identity = process_identity(os.getpid())
    assert identity is not None
    return identity


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its input to end."""
    command = [sys.executable, "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@pytest.fixture
def record() -> LocalRecord:
    return LocalRecord(
        process=own_identity(),
        server_url="http://127.0.0.1:9",
        workspace="ws",
        service_id="ws/c:samcourier",
        rtc_service_id="ws/c:samcourier-rtc",
        engine="watershed",
        engine_options={"sigma": 2},
    )


# Owners.


@pytest.mark.parametrize(
    "identity",
    [
        "{own_pid}-1",
        "{own_pid}-",
        "{own_pid}",
        f"{2**31 - 1}-1700000000000",
        "",
        "-",
        "x-1",
        "-1-1700000000000",
        ".nfs0001",
    ],
)
def test_a_reused_pid_or_a_missing_identity_is_not_a_running_process(
    identity: str, tmp_path: Path
) -> None:
    identity = identity.format(own_pid=os.getpid())
    assert not is_running(identity)
    if identity:
        (tmp_path / identity).touch()
    assert living_owners(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_boot_id", [True, False], ids=["Linux", "elsewhere"])
def test_a_process_runs_until_it_has_ended(
    child: subprocess.Popen[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_boot_id: bool,
) -> None:
    if not has_boot_id:
        monkeypatch.setattr(processes, "_BOOT_ID_PATH", tmp_path / "none")
    identity = process_identity(child.pid)
    assert identity is not None
    assert is_running(identity)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(identity), "a zombie needs no service"
    child.wait()
    assert not is_running(identity)
    assert process_identity(child.pid) is None


def test_dead_owners_are_forgotten_and_living_ones_kept(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    folder = tmp_path / "owners"
    add_owner(folder, os.getpid())
    add_owner(folder, child.pid)
    add_owner(folder, os.getpid())
    assert len(living_owners(folder)) == 2
    child.kill()
    child.wait()
    assert living_owners(folder) == [own_identity()]
    assert [entry.name for entry in folder.iterdir()] == [own_identity()]


def test_an_owner_on_another_host_is_neither_counted_nor_forgotten(
    tmp_path: Path, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "node7")
    add_owner(tmp_path, child.pid)
    (owner,) = tmp_path.iterdir()
    # The number and the start of a process there, of which there is none here.
    elsewhere = owner.rename(tmp_path / owner.name.replace("-", "9-", 1))
    monkeypatch.setattr(platform, "node", lambda: "node8")
    add_owner(tmp_path, os.getpid())
    assert living_owners(tmp_path) == [own_identity()]
    assert elsewhere.exists()
    monkeypatch.setattr(platform, "node", lambda: "node7")
    assert living_owners(tmp_path) == [own_identity()]
    assert not elsewhere.exists()


def test_a_process_of_another_boot_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr(processes, "_BOOT_ID_PATH", boot_id)
    boot_id.write_text("4b1d-77\n")
    assert not is_elsewhere("12-3456-4b1d-77")
    assert is_elsewhere("12-3456-9c2e-81")
    assert not is_elsewhere("12-1700000000000")
    boot_id.unlink()
    assert not is_elsewhere("12-3456-9c2e-81")


def test_an_ended_process_is_no_owner(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    add_owner(tmp_path / "owners", child.pid)
    assert living_owners(tmp_path / "owners") == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_a_clock_that_is_set_makes_no_owner_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of creation moves with the clock: it is the start since the boot, plus the boot."""
    add_owner(tmp_path, os.getpid())
    created_s = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created_s + 3600)
    assert living_owners(tmp_path) == [own_identity()]


def test_a_process_of_an_earlier_boot_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, boot_id = own_identity(), tmp_path / "boot_id"
    boot_id.write_text("00000000-0000-4000-8000-000000000000\n")
    monkeypatch.setattr(processes, "_BOOT_ID_PATH", boot_id)
    assert is_running(own_identity())
    assert not is_running(identity)


# Whether the service is needed.


class Listing:
    """What listing a folder comes to, look by look: its entries, or an error of the mount."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, errors: int) -> None:
        self.errors_left, real = errors, Path.iterdir

        def iterdir(path: Path) -> Iterator[Path]:
            if self.errors_left:
                self.errors_left -= 1
                raise OSError(errno.ESTALE, "Stale file handle")
            return real(path)

        monkeypatch.setattr(Path, "iterdir", iterdir)


def test_a_folder_that_cannot_be_listed_does_not_mean_that_no_owner_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    watch = OwnerMonitor(tmp_path)
    add_owner(tmp_path, os.getpid())
    listing = Listing(monkeypatch, errors=3)
    assert [watch.is_needed() for _ in range(4)] == [True] * 4
    assert listing.errors_left == 0
    [line] = log.messages
    assert line.startswith("cannot read which processes need the service, will try again: ")
    assert line.endswith("Stale file handle")
    (tmp_path / own_identity()).unlink()
    assert not watch.is_needed()


def test_unreadable_owners_end_the_service_after_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    add_owner(tmp_path, os.getpid())
    watch = OwnerMonitor(tmp_path, clock=lambda: now_s[0])
    for moment_s, errors in [(0.0, 1), (UNKNOWN_LIMIT_S, 0), (1e4, 1), (1e4 + 899.0, 1)]:
        now_s[0] = moment_s
        Listing(monkeypatch, errors)
        assert watch.is_needed()
        monkeypatch.undo()
    now_s[0] = 1e4 + UNKNOWN_LIMIT_S
    Listing(monkeypatch, 1)
    with pytest.raises(ServiceFailed, match=r"need the service for 15 min: .*Stale file handle"):
        watch.is_needed()


def test_a_missing_folder_of_owners_counts_until_all_seen_owners_have_ended(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    folder = tmp_path / "owners"
    watch = OwnerMonitor(folder)
    assert watch.is_needed(), "nobody was seen yet"
    add_owner(folder, child.pid)
    assert watch.is_needed()
    folder.rename(tmp_path / "away")
    assert watch.is_needed()
    child.kill()
    child.wait()
    assert not watch.is_needed()


class RunningServer:
    """A Hypha server that has not ended."""

    returncode = None


async def test_a_local_service_outlives_errors_of_the_file_system_and_then_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "OWNER_POLL_S", 0.0)
    listing, stop = Listing(monkeypatch, errors=3), asyncio.Event()
    await supervisor._stop_when_unneeded(tmp_path, RunningServer(), stop)  # type: ignore[arg-type]
    assert listing.errors_left == 0
    assert stop.is_set()


async def test_a_local_service_that_gives_up_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "UNKNOWN_LIMIT_S", 0.0)
    stop = asyncio.Event()
    with pytest.raises(ServiceFailed, match="could not read which processes need the service"):
        await supervisor._stop_when_unneeded(
            tmp_path / "away",
            RunningServer(),  # type: ignore[arg-type]
            stop,
        )
    assert stop.is_set()


@pytest.mark.parametrize(
    ("disposition", "timeout_s", "number"),
    [("SIG_DFL", 60.0, signal.SIGTERM), ("SIG_IGN", 0.1, signal.SIGKILL)],
)
def test_a_process_is_ended_and_killed_only_when_it_does_not_listen(
    disposition: str, timeout_s: float, number: signal.Signals
) -> None:
    listens = f"import signal; signal.signal(signal.SIGTERM, signal.{disposition})"
    command = [sys.executable, "-S", "-c", f"{listens}; print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end_process(str(process_identity(process.pid)), timeout_s)
        assert process.wait(30) == -number


def test_a_process_that_ends_while_it_is_asked_to_is_no_error(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = str(process_identity(child.pid))
    child.kill()
    child.wait()
    monkeypatch.setattr(detached, "is_running", lambda identity: True)
    end_process(identity, 0.0)


# The record.


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, record: LocalRecord) -> None:
    write_local_record(tmp_path, replace(record, engine="microsam"))
    write_local_record(tmp_path, record)
    assert read_local_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_NAME]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_record_and_token_are_private_with_any_umask(
    tmp_path: Path, record: LocalRecord, umask: int
) -> None:
    (tmp_path / TOKEN_NAME).write_text("older and open")
    (tmp_path / TOKEN_NAME).chmod(0o644)
    before = os.umask(umask)
    try:
        write_local_record(tmp_path, record)
        write_private(tmp_path / TOKEN_NAME, "secret")
    finally:
        os.umask(before)
    for name in (RECORD_NAME, TOKEN_NAME):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert (tmp_path / TOKEN_NAME).read_text() == "secret"


def test_a_private_file_replaces_a_symbolic_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    (tmp_path / TOKEN_NAME).symlink_to(elsewhere)
    (tmp_path / f".{TOKEN_NAME}.{os.getpid()}.part").symlink_to(elsewhere)
    write_private(tmp_path / TOKEN_NAME, "secret")
    assert elsewhere.read_text() == "untouched"
    assert (tmp_path / TOKEN_NAME).read_text() == "secret"


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{", "[]", "null", "3", '{"process": "1-1"}', '{"unknown": 1}', "\x00", "é"),
        # Complete, but for a number where the process is named; and nested too deep for json.
        '{"process": 7, "server_url": "", "workspace": "", "service_id": "",'
        ' "rtc_service_id": "", "engine": "", "engine_options": {}}',
        "[" * 100_000,
    ],
    ids=lambda text: str(text)[:20],
)
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / RECORD_NAME).write_bytes(text.encode("latin-1"))
    assert read_local_record(tmp_path) is None
    stop_local_service(tmp_path)


@pytest.mark.parametrize(
    ("change", "engine", "options", "serves"),
    [
        ({}, "watershed", {"sigma": 2}, True),
        ({}, "microsam", {"sigma": 2}, False),
        ({}, "watershed", {"sigma": 3}, False),
        ({}, "watershed", {}, False),
        ({"engine_options": {}}, "watershed", {}, True),
        ({"process": f"{os.getpid()}-1"}, "watershed", {"sigma": 2}, False),
        ({"process": ""}, "watershed", {"sigma": 2}, False),
    ],
)
def test_a_record_serves_its_own_engine_while_its_process_lives(
    record: LocalRecord, change: dict[str, Any], engine: str, options: dict[str, Any], serves: bool
) -> None:
    assert replace(record, **change).serves(engine, options) is serves


def test_a_record_of_another_process_with_its_pid_is_not_stopped(
    tmp_path: Path, child: subprocess.Popen[bytes], record: LocalRecord
) -> None:
    write_local_record(tmp_path, replace(record, process=f"{child.pid}-1"))
    stop_local_service(tmp_path)
    assert child.poll() is None


def test_a_service_that_serves_is_found_and_not_started(
    tmp_path: Path, record: LocalRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> LocalRecord:
        raise AssertionError("there is one already")

    monkeypatch.setattr(local, "_start", never)
    monkeypatch.delenv(OWNER_VARIABLE, raising=False)
    write_local_record(tmp_path, record)
    write_private(tmp_path / TOKEN_NAME, "secret")
    endpoint = ensure_local_service(tmp_path, "watershed", {"sigma": 2})
    assert (endpoint.server_url, endpoint.token) == (record.server_url, "secret")
    assert (endpoint.workspace, endpoint.service_id) == (record.workspace, record.service_id)
    assert "secret" not in repr(endpoint)
    assert living_owners(tmp_path / OWNERS_NAME) == [own_identity()]


def test_the_run_named_in_the_environment_owns_the_service_too(
    tmp_path: Path,
    record: LocalRecord,
    child: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OWNER_VARIABLE, str(child.pid))
    write_local_record(tmp_path, record)
    write_private(tmp_path / TOKEN_NAME, "secret")
    ensure_local_service(tmp_path, "watershed", {"sigma": 2})
    living = {process_identity(pid) for pid in (os.getpid(), child.pid)}
    assert set(living_owners(tmp_path / OWNERS_NAME)) == living


@pytest.mark.parametrize("stale", [False, True], ids=["no record", "a dead one's record"])
def test_a_missing_or_dead_service_is_started(
    tmp_path: Path, record: LocalRecord, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    started: list[tuple[str, dict[str, Any]]] = []

    def start(
        directory: Path, engine: str, engine_options: dict[str, Any], _max_stage_s: float | None
    ) -> LocalRecord:
        started.append((engine, engine_options))
        write_private(directory / TOKEN_NAME, "new")
        return record

    if stale:
        write_local_record(tmp_path, replace(record, process=f"{os.getpid()}-1"))
        write_private(tmp_path / TOKEN_NAME, "old")
    monkeypatch.setattr(local, "_start", start)
    assert ensure_local_service(tmp_path, "watershed", {"sigma": 2}).token == "new"
    assert started == [("watershed", {"sigma": 2})]


@pytest.mark.parametrize(
    ("script", "last_words"),
    [
        ("echo first; echo 'port in use' >&2; echo; exit 1", "port in use"),
        ("exit 1", "its log is empty"),
    ],
)
def test_a_service_that_does_not_start_reports_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, last_words: str
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(ServiceFailed, match=last_words):
        ensure_local_service(tmp_path / "service", "watershed", {})
    log = tmp_path / "service" / "service.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


# The token, and where somebody else's service is.


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (None, 0o600, "No such file"),
        ("", 0o600, "is empty"),
        (" \n", 0o600, "is empty"),
        ("secret", 0o640, "accessible to other users, expected mode 0600"),
        ("secret", 0o604, "accessible to other users"),
        ("secret", 0o620, "accessible to other users"),
        ("secret", 0o666, "accessible to other users"),
        ("", 0o644, "accessible to other users"),
    ],
)
def test_a_token_file_is_refused_in_words_that_do_not_tell_it(
    tmp_path: Path, content: str | None, mode: int, message: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(Denied, match=message) as caught:
        read_token(path)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_or_bytes_in_place_of_a_token_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    binary.chmod(0o600)
    for path in (folder, binary):
        with pytest.raises(Denied, match=path.name):
            read_token(path)


@pytest.mark.parametrize(
    ("file", "variable", "token"),
    [
        ("of the file\n", None, "of the file"),
        ("of the file", "of the variable", "of the file"),
        (None, "of the variable", "of the variable"),
        (None, " \n", None),
        (None, "padded\n", "padded"),
        (None, "", None),
        (None, None, None),
    ],
)
def test_the_token_of_the_file_comes_before_that_of_the_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str | None,
    variable: str | None,
    token: str | None,
) -> None:
    monkeypatch.delenv("HYPHA_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("HYPHA_TOKEN", variable)
    path = None
    if file is not None:
        path = tmp_path / "token"
        path.write_text(file)
        path.chmod(0o600)
    assert read_token(path) == token


PLAIN_NETWORK = NetworkSettings()


def existing(network: NetworkSettings = PLAIN_NETWORK, **address: Any) -> RunSettings:
    service = ServiceSettings(target="existing", **address)
    return RunSettings(dataset="cells", service=service, network=network)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "service.server_url, service.service_id"),
        ({"server_url": "https://h"}, "service.service_id"),
        ({"service_id": "s", "workspace": "w"}, "service.server_url"),
    ],
)
def test_an_existing_service_needs_its_full_address(
    tmp_path: Path, given: dict[str, str], missing: str
) -> None:
    with pytest.raises(InputError) as caught:
        find_service(existing(**given), tmp_path)
    assert str(caught.value) == f"service.target existing needs {missing}"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_service_is_found_where_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPHA_TOKEN", "secret")
    address = {"server_url": "https://h", "workspace": "w", "service_id": "w/c:s"}
    bundle = tmp_path / "site.pem"
    bundle.touch()
    settings = existing(NetworkSettings(ca_bundle=str(bundle)), **address)
    endpoint = find_service(settings, tmp_path)
    assert endpoint == Endpoint(
        **address, rtc_service_id="w/c:s-rtc", token="secret", network=Network(ca_bundle=bundle)
    )
    assert "secret" not in repr(endpoint)


def test_a_record_is_plain_json(tmp_path: Path, record: LocalRecord) -> None:
    write_local_record(tmp_path, record)
    assert json.loads((tmp_path / RECORD_NAME).read_text()) == to_builtins(record)


@pytest.mark.parametrize("missing", ["hypha", "scipy", "skimage"])
def test_without_the_extra_a_local_service_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(InputError, match=rf"needs the extra \[local\] \({missing} "):
        local.ensure_local_service(tmp_path, "watershed", {})
    assert list(tmp_path.iterdir()) == []
