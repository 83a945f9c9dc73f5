"""A service that misbehaves on request, as a process of its own: real, and killed for real.

Run as ``python scripted_service.py SERVER_URL CLIENT_ID`` with the token in SCRIPTED_TOKEN. It
prints its workspace on a line once it serves, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import hypha_rpc

from samservice.hypha.connection import connect
from samservice.webrtc.endpoint import RtcEndpoint, register_rtc_endpoint

#: The service's own chunk, above the caller's receive buffer of 1 000 000 B but below the
#: 1 048 576 B that `websockets` takes in one message.
OVER_THE_BUFFER_BYTES = 1_030_000
#: So large that no reply is cut into chunks.
NEVER_CHUNK_BYTES = 100_000_000

CONFIG = {"visibility": "protected", "require_context": True}


class Script:
    """The methods; ``hold`` keeps the caller waiting for as long as it is told."""

    def __init__(self) -> None:
        self.endpoints: list[RtcEndpoint] = []

    def methods(self) -> dict[str, Any]:
        names = ("describe", "probe", "hold", "answer", "fail", "unsendable", "drop_channels")
        return {name: getattr(self, name) for name in names}

    def describe(self, context: Any = None) -> dict[str, Any]:
        return {"engine": "scripted"}

    def probe(self, payload: bytes, reply_bytes: int = 0, context: Any = None) -> dict[str, Any]:
        return {"received_bytes": len(payload), "data": bytes(reply_bytes)}

    async def hold(self, seconds: float, context: Any = None) -> str:
        await asyncio.sleep(seconds)
        return f"held for {seconds:g} s"

    def answer(self, value: Any, context: Any = None) -> Any:
        return value

    def fail(self, said: str, context: Any = None) -> None:
        raise ArithmeticError(said)

    def unsendable(self, context: Any = None) -> object:
        return object()

    async def drop_channels(self, context: Any = None) -> None:
        for endpoint in self.endpoints:
            await endpoint.close()


async def register_misleading_offers(server: Any) -> None:
    """Register what looks like WebRTC endpoints but leads to no channel."""

    async def offer_without_route(params: Any, context: Any = None) -> dict[str, Any]:
        # Closed at once, the answering peer is what a firewall makes of it: its candidates
        # are known, and nothing that is sent to them is answered.
        endpoint = RtcEndpoint(server, {"id": "none", **CONFIG}, [{"urls": []}])
        answer = await endpoint.offer(params, context)
        await endpoint.close()
        return answer

    async def offer_too_late(params: Any, context: Any = None) -> None:
        await asyncio.sleep(3600)

    def offer_refused(params: Any, context: Any = None) -> None:
        raise RuntimeError("too many WebRTC peers (64), use WebSocket")

    def offer_nonsense(params: Any, context: Any = None) -> dict[str, Any]:
        return {"sdp": "v=nonsense", "type": "answer"}

    offers = {
        "no-route": offer_without_route,
        "too-late": offer_too_late,
        "refused": offer_refused,
        "nonsense": offer_nonsense,
    }
    for name, offer in offers.items():
        await server.register_service({"id": f"{name}-rtc", "config": CONFIG, "offer": offer})


async def serve(server_url: str, client_id: str, token: str) -> None:
    script = Script()
    shared = {"id": "scripted", "config": CONFIG, **script.methods()}
    server = await connect(server_url, token=token, client_id=client_id)
    await server.register_service(shared)
    script.endpoints.append(
        await register_rtc_endpoint(server, "scripted-rtc", shared, visibility="protected")
    )
    await register_misleading_offers(server)
    others = []
    for name, chunk_bytes in (
        ("stock", None),
        ("over-the-buffer", OVER_THE_BUFFER_BYTES),
        ("never-chunked", NEVER_CHUNK_BYTES),
    ):
        chunks = {} if chunk_bytes is None else {"long_message_chunk_size": chunk_bytes}
        other = await hypha_rpc.connect_to_server(
            {"server_url": server_url, "token": token, "client_id": f"{client_id}-{name}", **chunks}
        )
        await other.register_service({**shared, "id": name})
        others.append(other)
    print(server.config["workspace"], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for endpoint in script.endpoints:
        await endpoint.close()
    for each in (server, *others):
        await each.disconnect()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], os.environ["SCRIPTED_TOKEN"]))
