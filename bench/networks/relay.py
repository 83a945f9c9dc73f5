"""The relay host: a Hypha server that can be restarted, and a gate in front that only does HTTP.

Prints ``ready`` when the server answers. ``restart`` on standard input kills it and starts it
again on the same port with the same secrets, and ``ready`` is printed again. Ends with its
standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import httpx

START_TIMEOUT_S = 90
POLL_S = 0.05
HEAD_MAX_BYTES = 64 * 1024
READ_BYTES = 256 * 1024

#: What a proxy says that does not know how to upgrade.
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Hypha:
    """The server's process. Its secrets come from this process's environment."""

    def __init__(self, address: str, port: int, directory: Path) -> None:
        self._url = f"http://{address}:{port}"
        self._directory = directory
        self._arguments = ("--from-env", f"--host={address}", f"--port={port}")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError when it ends instead."""
        command = (sys.executable, "-m", "samcourier.deploy.local.hypha_server", *self._arguments)
        self._process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self._directory,
            env=os.environ | {"TMPDIR": str(self._directory), "HYPHA_LOGLEVEL": "ERROR"},
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr,
        )
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient() as client:
            while self._process.returncode is None:
                with suppress(httpx.HTTPError):
                    answer = await client.get(f"{self._url}/health/readiness")
                    if answer.status_code == 200:
                        print("ready", flush=True)
                        return
                await asyncio.sleep(POLL_S)
        raise RuntimeError(f"Hypha ended with status {self._process.returncode}")

    async def restart(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        await self.start()


class Gate:
    """Passes HTTP connections on as they are, unless they begin by asking for an upgrade."""

    def __init__(self, address: str, target_port: int) -> None:
        self._target = (address, target_port)

    async def serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        """Handle one connection of a client."""
        try:
            head = await from_client.readuntil(b"\r\n\r\n")
            if b"\r\nupgrade: websocket" in head.lower():
                to_client.write(REFUSED)
                return
            from_hypha, to_hypha = await asyncio.open_connection(*self._target)
            to_hypha.write(head)
            await asyncio.gather(_pump(from_client, to_hypha), _pump(from_hypha, to_client))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            to_client.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def main(address: str, port: int, gate_port: int, directory: Path) -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    hypha = Hypha(address, port, directory)
    await hypha.start()
    gate = Gate(address, port)
    async with await asyncio.start_server(gate.serve, address, gate_port, limit=HEAD_MAX_BYTES):
        while command := await commands.readline():
            if command.strip() == b"restart":
                await hypha.restart()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("gate_port", type=int)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    asyncio.run(main(options.address, options.port, options.gate_port, options.directory))
