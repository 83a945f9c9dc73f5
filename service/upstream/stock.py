"""A Hypha server and two ends of stock hypha-rpc, on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hypha_rpc.rpc
from hypha_rpc import connect_to_server, get_rtc_service, register_rtc_service

START_TIMEOUT_S = 90.0
#: For an answer, which a busy machine may take long to give.
ANSWER_TIMEOUT_S = 25.0
#: For what never comes.
SILENCE_S = 5.0

#: One entry without urls: host candidates only. An empty list asks a public STUN server.
HOST_CANDIDATES_ONLY: list[dict[str, Any]] = [{"urls": []}]

#: Fits into one message of every SCTP implementation, so that D3 does not hide what comes after.
SMALL_CHUNK_BYTES = 60 * 1024


@asynccontextmanager
async def hypha_server() -> AsyncIterator[str]:
    """Run a Hypha server; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="hypha-") as directory:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hypha.server", "--host=127.0.0.1", f"--port={port}"),
            cwd=directory,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.to_thread(_wait_until_ready, url)
            yield url
        finally:
            process.kill()
            await process.wait()


def _wait_until_ready(url: str) -> None:
    os.environ["NO_PROXY"] = "127.0.0.1"
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/health/readiness", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@asynccontextmanager
async def connections(url: str) -> AsyncIterator[tuple[Any, Any]]:
    """Connect twice to one workspace; yield the serving and the calling connection."""
    before = asyncio.all_tasks()
    serving = await connect_to_server({"server_url": url})
    token = await serving.generate_token()
    calling = await connect_to_server(
        {"server_url": url, "token": token, "workspace": serving.config["workspace"]}
    )
    try:
        yield serving, calling
    finally:
        await calling.disconnect()
        await serving.disconnect()
        # hypha-rpc leaves tasks of peers and of lost connections running.
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)


@asynccontextmanager
async def stock_peer(
    url: str, *, chunk_bytes: int = SMALL_CHUNK_BYTES, tells_user: bool = True
) -> AsyncIterator[Any]:
    """Register two services behind hypha-rpc's own WebRTC endpoint; yield the caller's peer.

    ``easy`` needs no context, ``careful`` does. ``tells_user`` gives the calling side a context
    with its user, without which D4 shows.
    """
    stock_chunk_bytes, hypha_rpc.rpc.CHUNK_SIZE = hypha_rpc.rpc.CHUNK_SIZE, chunk_bytes
    try:
        async with connections(url) as (serving, calling):
            config = {"visibility": "protected", "require_context": True}
            await serving.register_service({"id": "easy", "count": count, "fill": bytes})
            await serving.register_service(
                {"id": "careful", "config": config, "who": who, "who_must": who_must}
            )
            await register_rtc_service(
                serving, "stock-rtc", {**config, "ice_servers": HOST_CANDIDATES_ONLY}
            )
            settings: dict[str, Any] = {"ice_servers": HOST_CANDIDATES_ONLY}
            if tells_user:
                settings["context"] = {"user": calling.config["user"]}
            peer = await get_rtc_service(
                calling,
                f"{serving.config['workspace']}/{serving.rpc._client_id}:stock-rtc",
                {**settings, "long_message_chunk_size": SMALL_CHUNK_BYTES},
            )
            try:
                yield peer
            finally:
                await peer.rpc.disconnect()
                await peer.close()
    finally:
        hypha_rpc.rpc.CHUNK_SIZE = stock_chunk_bytes


def count(payload: bytes) -> int:
    """Return how many bytes came."""
    return len(payload)


def who(context: dict[str, Any] | None = None) -> Any:
    """Return the caller that the context names."""
    return (context or {}).get("user", {}).get("id")


def who_must(*, context: dict[str, Any]) -> Any:
    """As ``who``, and cannot be called without a context: so are the methods of BioEngine."""
    return who(context)


async def call(
    peer: Any,
    service_id: str,
    method: str,
    *arguments: Any,
    timeout_s: float = ANSWER_TIMEOUT_S,
    **keywords: Any,
) -> Any:
    """Call over the data channel; raise TimeoutError for an answer that does not come."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        service = await peer.get_service(service_id)
    async with asyncio.timeout(timeout_s):
        return await service[method](*arguments, **keywords)
