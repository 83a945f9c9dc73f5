"""The real service with orders to misbehave, as a process of its own in the service's namespace.

One JSON line on standard input says where Hypha is, and names the files of orders and of calls.
Standard output gets a line ``address JSON`` once it is registered. After that each line
``token SECONDS`` on standard input is answered by ``token TOKEN``, fresh and of that lifetime.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from samservice.contract.wire import MASK_CODEC, pack_array, unpack_array
from samservice.engines.base import build_engine
from samservice.hypha.connection import connect
from samservice.server.app import SegmentationService
from samservice.server.serve import Address, ServeSettings, serve_through

#: What an image takes, so that a run of a dozen is long enough to be hit.
WORK_S = 0.25
#: Later than the run's deadline for one call.
LATE_S = 6.0
POLL_S = 0.05
#: A call whose connection is lost may never end.
TOKEN_TIMEOUT_S = 5.0
MASK_MAX_BYTES = 1 << 28


class Orders:
    """What the file of orders says: a way to misbehave, and until when."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def current(self) -> str:
        try:
            orders = json.loads(self._path.read_text())
        except FileNotFoundError:
            return "behave"
        return str(orders["mode"]) if time.time() < orders["until_unix_s"] else "behave"


class FaultyService(SegmentationService):
    """Answers wrong, late or never when it is told to; writes down every call."""

    def __init__(self, orders: Orders, calls: Path) -> None:
        super().__init__(build_engine("watershed"))
        self._orders = orders
        self._calls = calls
        self._wrong_count = 0

    async def segment_all(self, *arguments: Any, **options: Any) -> Any:
        with self._calls.open("a") as calls:
            calls.write(f"{time.time()}\n")
        order = self._orders.current()
        if order == "late":
            await asyncio.sleep(LATE_S)
        while order == "never" and self._orders.current() == "never":
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(WORK_S)
        answer = await super().segment_all(*arguments, **options)
        return self._spoiled(answer) if order == "wrong" else answer

    def _spoiled(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return a mask of another shape, then one of floats, then one of negative labels."""
        mask = unpack_array(answer["mask"], MASK_MAX_BYTES)
        wrong = (mask[:-1], mask.astype(np.float32), -mask.astype(np.int32) - 1)
        self._wrong_count += 1
        spoiled = np.ascontiguousarray(wrong[self._wrong_count % len(wrong)])
        return answer | {"mask": pack_array(spoiled, MASK_CODEC)}


async def new_token(server_url: str, root_token: str, lifetime_s: int) -> str:
    """Ask Hypha, which may just be starting again, until it gives one.

    Over a connection of its own: after a restart an older one's methods lead nowhere.
    """
    while True:
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                server = await connect(server_url, token=root_token)
                asked = {"permission": "read_write", "expires_in": lifetime_s}
                token = str(await server.generate_token(asked))
                await server.disconnect()
                return token
        except Exception:
            await asyncio.sleep(POLL_S)


async def main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    given = json.loads(await reader.readline())
    orders = Orders(Path(given["orders"]))
    stop = asyncio.Event()

    async def ready(address: Address, server: Any) -> None:
        emit = server.rpc._emit_message

        async def emit_twice(data: bytes) -> None:
            await emit(data)
            if orders.current() == "twice":
                await emit(data)

        server.rpc._emit_message = emit_twice
        print(f"address {json.dumps(asdict(address))}", flush=True)
        asking.append(asyncio.ensure_future(give_tokens()))

    async def give_tokens() -> None:
        while line := await reader.readline():
            lifetime_s = int(line.split()[1])
            token = await new_token(given["server_url"], given["token"], lifetime_s)
            print(f"token {token}", flush=True)
        stop.set()

    asking: list[asyncio.Future[None]] = []
    settings = ServeSettings(given["server_url"], given["token"], service_id="faulty")
    service = FaultyService(orders, Path(given["calls"]))
    await serve_through(service, settings, on_ready=ready, stop=stop)


if __name__ == "__main__":
    uvloop.run(main())
