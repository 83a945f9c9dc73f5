"""Check that the STUN and TURN servers of the config answer, with the requests of WebRTC."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import parse_qs

from aioice import stun, turn

from .network import IceServer

ANSWER_TIMEOUT_S = 5.0
#: The default ports of ``stun`` and ``turn``, and of both over TLS (RFC 7064, RFC 7065).
_PORTS = {"stun": 3478, "turn": 3478, "stuns": 5349, "turns": 5349}


@dataclass(frozen=True)
class IceAnswer:
    """The result for one URL of the config; ``failure`` is None for a server that answers."""

    url: str
    failure: str | None = None


async def ask_ice_servers(servers: tuple[IceServer, ...]) -> tuple[IceAnswer, ...]:
    """Ask all servers at once: a STUN server for our address, a TURN server for a relay.

    Each answer is awaited for ``ANSWER_TIMEOUT_S`` seconds. The function raises nothing: failures
    are part of the result.
    """
    checks = [_check_url(server, url) for server in servers for url in server.urls]
    return tuple(await asyncio.gather(*checks))


async def _check_url(server: IceServer, url: str) -> IceAnswer:
    try:
        scheme, host, port, transport = parse_ice_url(url)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            if scheme.startswith("turn"):
                await _allocate(server, host, port, transport, is_tls=scheme == "turns")
            elif scheme == "stuns":
                _, writer = await asyncio.open_connection(host, port, ssl=True)
                writer.transport.abort()
            else:
                await _bind(host, port)
    except TimeoutError:
        return IceAnswer(url, f"no answer within {ANSWER_TIMEOUT_S:g} s")
    # ValueError and OverflowError come from a port that is not a number or out of range.
    except (OSError, stun.TransactionError, ValueError, OverflowError) as error:
        return IceAnswer(url, _failure_text(error))
    return IceAnswer(url)


def parse_ice_url(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and transport of an ICE server's URL, e.g. ``turn:host:3478``."""
    scheme, _, rest = url.partition(":")
    rest, _, query = rest.partition("?")
    host, separator, port = rest.rpartition(":")
    if not separator or not port.isdigit():
        host, port = rest, str(_PORTS[scheme])
    default = "tcp" if scheme.endswith("s") else "udp"
    (transport,) = parse_qs(query).get("transport", [default])[:1]
    return scheme, host.strip("[]"), int(port), transport


def _failure_text(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        code, reason = response.attributes.get("ERROR-CODE", (0, "refused"))
        return f"the server refuses: {code} {reason}"
    return str(error) or type(error).__name__


async def _allocate(server: IceServer, host: str, port: int, transport: str, is_tls: bool) -> None:
    # aioice needs an address, not a host name.
    address = await _resolve(host, port)
    relay, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=address,
        username=server.username,
        password=server.credential,
        ssl=is_tls,
        transport=transport,
    )
    relay.close()


async def _resolve(host: str, port: int) -> tuple[str, int]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port)
    return str(found[0][4][0]), port


class _Binding(asyncio.DatagramProtocol):
    """Waits for the answer to one STUN binding request (RFC 8489)."""

    def __init__(self, transaction_id: bytes) -> None:
        self._transaction_id = transaction_id
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, address: object) -> None:
        try:
            message = stun.parse_message(data)
        except ValueError:
            return
        if message.transaction_id == self._transaction_id and not self.answered.done():
            self.answered.set_result(None)

    def error_received(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


async def _bind(host: str, port: int) -> None:
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    address = await _resolve(host, port)
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Binding(request.transaction_id), remote_addr=address
    )
    try:
        while True:
            transport.sendto(bytes(request))
            done, _ = await asyncio.wait({protocol.answered}, timeout=stun.RETRY_RTO)
            if done:
                return protocol.answered.result()
    finally:
        transport.close()
