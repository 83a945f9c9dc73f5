"""The local service: a Hypha server on loopback, and the segmentation service.

It runs detached as ``python -m samcourier.deploy.local.supervisor DIRECTORY --engine NAME
--engine-options JSON``, and ends when the last process that needs it has ended (see
:mod:`samcourier.deploy.owners`), on SIGTERM, or with its Hypha server. When the engine hangs, it
replaces itself (see :mod:`samservice.server.restart`): the Hypha server, its tokens and the ids of
the service stay the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import uvloop

from samservice.engines.base import build_engine
from samservice.hypha.network import without_proxy_for_loopback
from samservice.server.app import Limits
from samservice.server.restart import replace_process, take_handover
from samservice.server.serve import Address, ServeSettings, serve

from ...errors import CourierError, ServiceFailed
from ...files.atomic import write_private
from ...processes import process_identity
from ..daemon import is_own_file, log_to_stderr
from ..owners import OwnerMonitor
from .record import (
    OWNERS_NAME,
    RECORD_NAME,
    SCRATCH_NAME,
    TOKEN_NAME,
    LocalRecord,
    write_local_record,
)

OWNER_POLL_S = 1.0
HYPHA_START_TIMEOUT_S = 90.0
#: The token is valid as long as the longest run; the service and its server end earlier.
TOKEN_LIFETIME_S = 14 * 24 * 3600


class HyphaServer:
    """A running Hypha server: a child of this process, which ends with it.

    Args:
        url: Its URL.
        root_token: The token with every right.
        pid: Its process.
        stdin: File descriptor; the server ends when it is closed.
    """

    def __init__(self, url: str, root_token: str, pid: int, stdin: int) -> None:
        self.url = url
        self.root_token = root_token
        self.pid = pid
        self.stdin = stdin
        self._returncode: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make this object again in a process that replaces this one."""
        return {
            "url": self.url,
            "root_token": self.root_token,
            "pid": self.pid,
            "stdin": self.stdin,
        }

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs."""
        if self._returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode

    def kill(self) -> None:
        """End the server."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> None:
        """Wait until it has ended."""
        while self.returncode is None:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_hypha(
    directory: Path, root_token: str, running: HyphaServer | None = None
) -> AsyncIterator[tuple[str, HyphaServer]]:
    """Start Hypha's server on a free loopback port, unless it is ``running``.

    The server does not remove its database, a temporary file. So it gets its own folder for such
    files, which is removed after it or, after a kill, at the next start.

    Yields its URL and the server. Raises ServiceFailed when it does not start.
    """
    # In a shared folder, one of each user.
    scratch = directory / f"{SCRATCH_NAME}-{os.getuid()}"
    server = running or _start_hypha(directory, scratch, root_token)
    try:
        if running is None:
            await _wait_until_ready(server.url, server)
        yield server.url, server
    finally:
        server.kill()
        await server.wait()
        os.close(server.stdin)
        shutil.rmtree(scratch, ignore_errors=True)


def _start_hypha(directory: Path, scratch: Path, root_token: str) -> HyphaServer:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    port = _free_port()
    # Secrets are passed in the environment, which only the owner of a process can read.
    environment = without_proxy_for_loopback(os.environ) | {
        "HYPHA_ROOT_TOKEN": root_token,
        "HYPHA_JWT_SECRET": secrets.token_urlsafe(32),
        "HYPHA_LOGLEVEL": "ERROR",
        "TMPDIR": str(scratch),
    }
    command = [sys.executable, "-m", "samcourier.deploy.local.hypha_server", str(directory)]
    command += ["--from-env", "--host=127.0.0.1", f"--port={port}"]
    stdin, kept_stdin = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
        pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
    finally:
        os.close(stdin)
    return HyphaServer(f"http://127.0.0.1:{port}", root_token, pid, kept_stdin)


async def _wait_until_ready(url: str, process: HyphaServer) -> None:
    try:
        async with (
            asyncio.timeout(HYPHA_START_TIMEOUT_S),
            # A proxy of the environment does not reach this machine.
            httpx.AsyncClient(trust_env=False) as client,
        ):
            while process.returncode is None:
                try:
                    answer = await client.get(f"{url}/health/readiness")
                    if answer.status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise ServiceFailed(
            f"the Hypha server at {url} was not ready within {HYPHA_START_TIMEOUT_S:g} s"
        ) from None
    raise ServiceFailed(f"the Hypha server ended with status {process.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def supervise(
    directory: Path, engine_name: str, engine_options: dict[str, Any], limits: Limits
) -> None:
    """Serve until no process needs the service, then remove record and token.

    Raises ServiceFailed and the service's errors; does not return when the engine hangs.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    handover = take_handover()
    running = HyphaServer(**handover.details) if handover.details else None
    try:
        engine = await asyncio.to_thread(build_engine, engine_name, engine_options)
    except BaseException:
        if running is not None:
            running.kill()
        raise
    root_token = running.root_token if running else secrets.token_urlsafe(48)

    async def publish(address: Address, server: Any) -> None:
        token = await server.generate_token(
            {"permission": "read_write", "expires_in": TOKEN_LIFETIME_S}
        )
        write_private(directory / TOKEN_NAME, token)
        write_local_record(
            directory,
            LocalRecord(
                process=str(process_identity(os.getpid())),
                server_url=address.server_url,
                workspace=address.workspace,
                service_id=address.service_id,
                rtc_service_id=address.rtc_service_id,
                engine=engine_name,
                engine_options=engine_options,
            ),
        )

    async with running_hypha(directory, root_token, running) as (url, hypha):
        settings = ServeSettings(
            url,
            token=root_token,
            client_id=handover.client_id,
            goes_on=handover.client_id is not None,
            ends_when_frozen=True,
            limits=handover.limits(limits),
        )
        watch = asyncio.ensure_future(_stop_when_unneeded(directory / OWNERS_NAME, hypha, stop))
        try:
            ending = await serve(engine, settings, on_ready=publish, stop=stop)
            if watch.done():
                watch.result()
            if ending is not None:
                replace_process(handover.after(ending, **hypha.arguments), kept_files=[hypha.stdin])
        finally:
            watch.cancel()
            for name in (RECORD_NAME, TOKEN_NAME):
                if is_own_file(directory / name):
                    with suppress(OSError):
                        (directory / name).unlink(missing_ok=True)


async def _stop_when_unneeded(owners: Path, hypha: HyphaServer, stop: asyncio.Event) -> None:
    """Set ``stop`` when the service is not needed, or on any error.

    Raises ServiceFailed when the owners cannot be read for too long.
    """
    watch = OwnerMonitor(owners)
    try:
        while watch.is_needed() and hypha.returncode is None:
            await asyncio.sleep(OWNER_POLL_S)
    finally:
        stop.set()


def main() -> None:
    """Parse the command line and supervise; an expected failure is one line on stderr."""
    parser = argparse.ArgumentParser(prog="samcourier.deploy.local.supervisor")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--engine-options", type=json.loads, default={})
    parser.add_argument("--max-stage-s", type=float, default=Limits.max_stage_s)
    options = parser.parse_args()
    log_to_stderr()
    directory, limits = options.directory.resolve(), Limits(max_stage_s=options.max_stage_s)
    try:
        uvloop.run(supervise(directory, options.engine, options.engine_options, limits))
    except Exception as error:
        if isinstance(error, CourierError) or type(error).__module__.startswith("samservice"):
            sys.exit(f"error: {getattr(error, 'message', error)}")
        raise


if __name__ == "__main__":
    main()
