"""What every test is held to: nothing it started is left behind.

After each test there is no new process, socket, asyncio task or temporary entry of ours. What
existed before the test is not its leak, so services of wider fixtures pass by themselves;
``allow_process`` is for one that is started while a test already runs and outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import re
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

#: How long what is ending on its own may take to be gone, on a busy machine too.
GRACE_S = 20.0
#: How temporary entries of the two packages are named.
TEMPORARY_PREFIXES = ("samcourier", "samservice")
#: hypha-rpc starts a call's timer once the request is sent, even when the answer was faster. Nobody
#: stops it then; it ends by itself, without effect, after the connection's method timeout (30 s).
TASKS_OF_OTHERS = {("hypha_rpc.rpc", "Timer._job")}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What samcourier logs during the test, as a program that asks for it gets it."""
    caplog.set_level(logging.INFO, logger="samcourier")
    return caplog


@dataclass
class Watch:
    """Finds what belongs to this test session, also once it is detached from it."""

    #: Handed down to every process as TMPDIR, by which a detached one is known.
    temporary: Path
    allowed: set[int] = field(default_factory=set)
    _inodes: set[str] | None = None
    _sockets: set[str] = field(default_factory=set)

    def is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.environ().get("TMPDIR") == str(self.temporary):
                return True
        except psutil.AccessDenied:
            pass
        return any(parent.pid == os.getpid() for parent in process.parents())

    def new_processes(self, before: set[int]) -> dict[int, str]:
        """Return {pid: command line} of our processes that are neither known nor a known's."""
        found = {}
        for pid in set(psutil.pids()) - before - self.allowed:
            try:
                process = psutil.Process(pid)
                if self.is_ours(process) and not self._is_of_a_known_one(process, before):
                    found[pid] = " ".join(process.cmdline()) or process.name()
            except psutil.NoSuchProcess:
                continue
        return found

    def _is_of_a_known_one(self, process: psutil.Process, before: set[int]) -> bool:
        for parent in process.parents():
            if parent.pid == os.getpid():
                return False
            if parent.pid in self.allowed or (parent.pid in before and self.is_ours(parent)):
                return True
        return False

    def sockets(self) -> set[str]:
        """Return the listening TCP and the bound UDP ports of this very process.

        The kernel's tables hold every connection of the machine and are slow to read, so they
        are read only when this process has other sockets than at the last look.
        """
        inodes = socket_inodes()
        if inodes is None or inodes != self._inodes:
            self._inodes, self._sockets = inodes, self._listed_sockets()
        return self._sockets

    def _listed_sockets(self) -> set[str]:
        found = set()
        for entry in psutil.Process().net_connections("inet"):
            if entry.type == socket.SOCK_DGRAM and entry.laddr:
                found.add(f"udp {entry.laddr.ip}:{entry.laddr.port}")
            elif entry.status == psutil.CONN_LISTEN:
                found.add(f"tcp {entry.laddr.ip}:{entry.laddr.port}")
        return found

    def entries(self) -> set[str]:
        names = {path.name for path in self.temporary.iterdir()}
        return {name for name in names if name.startswith(TEMPORARY_PREFIXES)}


def socket_inodes() -> set[str] | None:
    """Return the sockets this process holds open; None where /proc does not tell."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        return None
    found = set()
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(descriptor))
    return {target for target in found if target.startswith("socket:")}


@pytest.fixture(scope="session", autouse=True)
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """Give the session, and all it starts, a directory for temporary files of its own."""
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        yield Watch(temporary)


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """A shell starts what it puts in the background deaf to Ctrl-C, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def allow_process(watch: Watch) -> Callable[[int], None]:
    """Return a function that takes the pid of a process which a wider fixture will end."""
    return watch.allowed.add


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, watch: Watch) -> Iterator[None]:
    processes, sockets, entries = set(psutil.pids()), watch.sockets(), watch.entries()
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_is_left")
    yield

    def left() -> list[str]:
        return [
            *(f"process {pid}: {line}" for pid, line in watch.new_processes(processes).items()),
            *(f"socket {name}" for name in sorted(watch.sockets() - sockets)),
            *(f"temporary {name}" for name in sorted(watch.entries() - entries)),
        ]

    deadline = time.monotonic() + GRACE_S
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if found:
        for pid in watch.new_processes(processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail("left behind by this test: " + "; ".join(found), pytrace=False)


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Hold an async test, and its async fixtures, to ending every task they started."""
    before = asyncio.all_tasks()
    yield
    new = {
        task
        for task in asyncio.all_tasks() - before - {asyncio.current_task()}
        if where_from(task) not in TASKS_OF_OTHERS
    }
    if new:
        _, pending = await asyncio.wait(new, timeout=GRACE_S)
        if pending:
            names = "; ".join(sorted(repr(task.get_coro()) for task in pending))
            pytest.fail(f"tasks left behind by this test: {names}", pytrace=False)


def where_from(task: asyncio.Task[Any]) -> tuple[str, str]:
    """Return module and qualified name of the function that the task runs."""
    coroutine: Any = task.get_coro()
    frame = getattr(coroutine, "cr_frame", None)
    module = frame.f_globals["__name__"] if frame else ""
    return module, getattr(coroutine, "__qualname__", "")


def write_packages(page: str, folder: Path) -> None:
    """Write the packages of a page of docs/, each file as it stands there below its name."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    for name, content in re.findall(r"^`(\S+/\S+)`\n\n```\w+\n(.*?)^```$", text, re.S | re.M):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@dataclass(frozen=True)
class InstalledPackages:
    """The packages of a page of docs/: their folder, and a Python that has them installed."""

    folder: Path
    python: Path


@pytest.fixture(scope="session")
def install_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], InstalledPackages]:
    """Return a function that writes and installs the packages of a page of docs/."""

    def install(page: str) -> InstalledPackages:
        folder = tmp_path_factory.mktemp("packages")
        write_packages(page, folder)
        return InstalledPackages(folder, _python_with(folder, tmp_path_factory.mktemp("extended")))

    return install


@pytest.fixture(scope="session")
def documented_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of docs/extending.md."""
    folder = tmp_path_factory.mktemp("packages")
    write_packages("extending.md", folder)
    return folder


@pytest.fixture(scope="session")
def extended_python(documented_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment that sees the project and has these packages installed."""
    return _python_with(documented_packages, tmp_path_factory.mktemp("extended"))


def _python_with(documented_packages: Path, environment: Path) -> Path:
    pytest.importorskip("uv", reason="the Makefile's environments have uv")
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin/python"
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Through site, so that an editable installation of the project counts too.
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (site_packages / "project.pth").write_text("\n".join(lines) + "\n")
    packages = sorted(path.parent for path in documented_packages.glob("*/pyproject.toml"))
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", python, "--no-config"]
    command += ["--no-deps", "--no-build-isolation", "--offline", "--quiet"]
    command += ["--cache-dir", environment / "cache", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return python
