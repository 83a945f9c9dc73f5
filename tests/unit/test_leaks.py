"""The leak detector of tests/conftest.py fails a test that leaves something behind, no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

PLANTED = """
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
kept = []


def test_child():
    kept.append(subprocess.Popen(SLEEP))


def test_daemon():
    start = f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", start], check=True)


def test_listening_port():
    kept.append(socket.create_server(("127.0.0.1", 0)))


def test_udp_socket():
    kept.append(socket.socket(type=socket.SOCK_DGRAM))
    kept[-1].bind(("127.0.0.1", 0))


def test_temporary_directory():
    tempfile.mkdtemp(prefix="samcourier-")


async def watch_for_ever():
    await asyncio.sleep(60)


async def test_task():
    kept.append(asyncio.create_task(watch_for_ever()))


@pytest.fixture
async def careless():
    kept.append(asyncio.create_task(watch_for_ever()))
    yield


async def test_task_of_a_fixture(careless):
    pass


async def test_timer_of_hypha_rpc():
    from hypha_rpc.rpc import Timer

    Timer(60, print).start()


async def test_all_cleaned_up():
    task = asyncio.create_task(asyncio.sleep(0.01))
    child = subprocess.Popen(SLEEP)
    with socket.create_server(("127.0.0.1", 0)), tempfile.TemporaryDirectory(prefix="samcourier"):
        child.kill()
        child.wait()
    await task


def end(child):
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


@pytest.fixture(scope="session")
def service():
    program = f"import subprocess; input(); print(1, flush=True); subprocess.run({SLEEP!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    yield child
    end(child)


def test_session_service_starts_a_child(service):
    service.stdin.write(b"go on\\n")
    service.stdin.flush()
    service.stdout.readline()
    time.sleep(0.3)


@pytest.fixture(scope="session")
def children():
    started = []
    yield started
    for child in started:
        end(child)


def test_allowed_process(children, allow_process):
    children.append(subprocess.Popen(SLEEP, start_new_session=True))
    allow_process(children[-1].pid)
"""

COMPLAINTS = [
    ("test_child", "left behind by this test: process "),
    ("test_daemon", "left behind by this test: process "),
    ("test_listening_port", "left behind by this test: socket tcp 127.0.0.1:"),
    ("test_udp_socket", "left behind by this test: socket udp 127.0.0.1:"),
    ("test_temporary_directory", "left behind by this test: temporary samcourier-"),
    ("test_task", "tasks left behind by this test: <coroutine object watch_for_ever"),
    ("test_task_of_a_fixture", "tasks left behind by this test: <coroutine object watch_for_ever"),
    ("test_timer_of_hypha_rpc", ""),
    ("test_all_cleaned_up", ""),
    ("test_session_service_starts_a_child", ""),
    ("test_allowed_process", ""),
]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the planted tests in one session of their own; return {test: what failed it, or ""}."""
    home = tmp_path_factory.mktemp("planted")
    conftest = CONFTEST.read_text()
    assert "GRACE_S = 20.0" in conftest
    (home / "conftest.py").write_text(conftest.replace("GRACE_S = 20.0", "GRACE_S = 0.3"))
    (home / "test_planted.py").write_text(PLANTED)
    (home / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp=inner"]
    # Not through a pipe: a planted process would hold it open.
    with (home / "output").open("w") as output:
        subprocess.run(
            [*command, "--junitxml=results.xml"],
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
    left = [process for process in psutil.process_iter() if str(home) in _temporary(process)]
    assert not left, "a planted process outlived its test session"
    results: dict[str, str] = {}
    for case in ElementTree.parse(home / "results.xml").iter("testcase"):
        said = " ".join(entry.get("message", "") + (entry.text or "") for entry in case)
        results[case.get("name", "")] = results.get(case.get("name", ""), "") + said
    return results


def _temporary(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:
        return ""


def test_every_planted_test_is_judged(complaints: dict[str, str]) -> None:
    assert complaints.keys() == {name for name, _ in COMPLAINTS}


@pytest.mark.parametrize(("planted", "complaint"), COMPLAINTS)
def test_a_leak_fails_the_test_that_left_it(
    planted: str, complaint: str, complaints: dict[str, str]
) -> None:
    if complaint:
        assert complaint in complaints[planted]
    else:
        assert complaints[planted] == ""
