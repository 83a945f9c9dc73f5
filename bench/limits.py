"""How near raw bytes over WebSocket through the Hypha server come to a TCP echo on this machine.

The echo is asyncio's streams on uvloop in a process of its own. WebSocket carries the bytes over
two hops each way: client, server, service and back.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from canned_service import running_canned_service
from figures import Figures
from naive import make_images

from samcourier.transports import Endpoint, HyphaSession, WebSocketTransport

RUNS = 9
PAYLOAD_BYTES = 16 << 20
TIMEOUT_S = 60.0


async def serve_echo(port: Connection) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, limit=1 << 22)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_echo(port: Connection) -> None:
    uvloop.run(serve_echo(port))


async def echo_s(port: int, payload: bytes) -> float:
    """Return the seconds until the payload is back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)

    async def send() -> None:
        writer.write(payload)
        await writer.drain()

    start_s = time.perf_counter()
    _, answer = await asyncio.gather(send(), reader.readexactly(len(payload)))
    seconds = time.perf_counter() - start_s
    assert answer == payload
    writer.close()
    await writer.wait_closed()
    return seconds


async def websocket_s(transport: WebSocketTransport, payload: bytes) -> float:
    """Return the seconds for the payload there and as many bytes back."""
    arguments = {"payload": payload, "reply_bytes": len(payload)}
    start_s = time.perf_counter()
    answer = await transport.call("probe", arguments, TIMEOUT_S)
    seconds = time.perf_counter() - start_s
    made_s = float(answer["sent_unix_s"]) - float(answer["received_unix_s"])
    return seconds - made_s


async def measure(endpoint: Endpoint, port: int) -> Figures:
    payload = os.urandom(PAYLOAD_BYTES)
    transport = WebSocketTransport(HyphaSession(endpoint))
    await transport.open(TIMEOUT_S)
    echo, websocket = [], []
    for run in range(RUNS + 1):
        pair = await echo_s(port, payload), await websocket_s(transport, payload)
        if run:
            echo.append(pair[0])
            websocket.append(pair[1])
    await transport.close()
    figures = Figures("limits")
    carried_mb = 2 * PAYLOAD_BYTES / 1e6
    figures.add("tcp_echo", carried_mb / statistics.median(echo), "MB/s")
    figures.add("websocket_through_hypha", carried_mb / statistics.median(websocket), "MB/s")
    share = statistics.median(e / w for e, w in zip(echo, websocket, strict=True))
    figures.add("websocket_share_of_echo", 100 * share, "%")
    return figures


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=run_echo, args=(theirs,))
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
            scratch = Path(name)
            _, mask = make_images(scratch, image_count=1)
            with running_canned_service(mask, scratch) as endpoint:
                uvloop.run(measure(endpoint, ours.recv())).publish()
    finally:
        server.kill()
        server.join()


if __name__ == "__main__":
    main()
