"""The local service: a Hypha server on loopback, and the segmentation service.

It runs detached as ``python -m samcourier.deploy.local.supervisor DIRECTORY --engine NAME
--engine-options JSON``, and ends when the last process that needs it has ended (see
:mod:`samcourier.deploy.owners`), on SIGTERM, or with its Hypha server.
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


@asynccontextmanager
async def running_hypha(directory: Path, root_token: str) -> AsyncIterator[tuple[str, Any]]:
    """Start Hypha's server on a free loopback port; yield its URL and process.

    The server does not remove its database, a temporary file. So it gets its own folder for such
    files, which is removed after it or, after a kill, at the next start. Raises ServiceFailed when
    the server does not start.
    """
    # In a shared folder, one of each user.
    scratch = directory / f"{SCRATCH_NAME}-{os.getuid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    # Secrets are passed in the environment, which only the owner of a process can read.
    environment = without_proxy_for_loopback(os.environ) | {
        "HYPHA_ROOT_TOKEN": root_token,
        "HYPHA_JWT_SECRET": secrets.token_urlsafe(32),
        "HYPHA_LOGLEVEL": "ERROR",
        "TMPDIR": str(scratch),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "samcourier.deploy.local.hypha_server",
        "--from-env",
        "--host=127.0.0.1",
        f"--port={port}",
        cwd=directory,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        await _wait_until_ready(url, process)
        yield url, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


async def _wait_until_ready(url: str, process: asyncio.subprocess.Process) -> None:
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


async def supervise(directory: Path, engine_name: str, engine_options: dict[str, Any]) -> None:
    """Serve until no process needs the service, then remove record and token."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = await asyncio.to_thread(build_engine, engine_name, engine_options)
    root_token = secrets.token_urlsafe(48)

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

    async with running_hypha(directory, root_token) as (url, hypha):
        watch = asyncio.ensure_future(_stop_when_unneeded(directory / OWNERS_NAME, hypha, stop))
        try:
            await serve(engine, ServeSettings(url, token=root_token), on_ready=publish, stop=stop)
            if watch.done():
                watch.result()
        finally:
            watch.cancel()
            for name in (RECORD_NAME, TOKEN_NAME):
                if is_own_file(directory / name):
                    with suppress(OSError):
                        (directory / name).unlink(missing_ok=True)


async def _stop_when_unneeded(
    owners: Path, hypha: asyncio.subprocess.Process, stop: asyncio.Event
) -> None:
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
    options = parser.parse_args()
    log_to_stderr()
    try:
        uvloop.run(supervise(options.directory.resolve(), options.engine, options.engine_options))
    except Exception as error:
        if isinstance(error, CourierError) or type(error).__module__.startswith("samservice"):
            sys.exit(f"error: {getattr(error, 'message', error)}")
        raise


if __name__ == "__main__":
    main()
