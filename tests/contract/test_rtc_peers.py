"""Two ends of a data channel, over every pair of libraries, and the endpoint that answers."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from samcourier.errors import CourierError
from samcourier.transports import Endpoint, HyphaSession, WebRTCTransport
from samservice.hypha.connection import connect
from samservice.webrtc import endpoint as rtc
from samservice.webrtc import peer as rtc_peer
from samservice.webrtc.endpoint import HOST_CANDIDATES_ONLY, RtcEndpoint, register_rtc_endpoint
from samservice.webrtc.open import open_peer
from samservice.webrtc.peer import Channel, Implementation, Peer, chunk_bytes

TIMEOUT_S = 20.0
KIB = 1024


@dataclass
class End:
    """One peer, what came out of it, and whether it knows that the other is gone."""

    peer: Peer = field(init=False)
    opened: asyncio.Future[Channel]
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def over(cls, implementation: Implementation) -> End:
        end = cls(asyncio.get_running_loop().create_future())
        end.peer = open_peer(
            HOST_CANDIDATES_ONLY,
            on_channel=end.opened.set_result,
            on_lost=end.lost.set,
            implementation=implementation,
        )
        return end


@pytest.fixture
async def pair(
    calling: Implementation, answering: Implementation
) -> AsyncIterator[tuple[End, End]]:
    caller, answerer = End.over(calling), End.over(answering)
    async with asyncio.timeout(TIMEOUT_S):
        offer = await caller.peer.offer("a label")
        await caller.peer.accept(await answerer.peer.answer(offer))
        await asyncio.gather(caller.opened, answerer.opened)
    yield caller, answerer
    await caller.peer.close()
    await answerer.peer.close()


async def send_all(sender: Channel, receiver: Channel, messages: list[bytes]) -> int:
    """Send, wait until all has arrived as it was sent; return the most that was buffered."""
    arrived: list[bytes] = []
    done = asyncio.Event()

    def take(message: bytes) -> None:
        arrived.append(message)
        if len(arrived) == len(messages):
            done.set()

    receiver.on_message(take)
    most_bytes = 0
    async with asyncio.timeout(TIMEOUT_S):
        for message in messages:
            await sender.emit_message(message)
            most_bytes = max(most_bytes, sender.buffered_bytes())
        await done.wait()
    assert arrived == messages
    return most_bytes


async def test_messages_arrive_both_ways_and_the_buffer_stays_small(
    pair: tuple[End, End],
) -> None:
    caller, answerer = pair
    largest = rtc_peer.MAX_MESSAGE_BYTES
    messages = [os.urandom(size) for size in (1, 60 * KIB, *[largest] * 12)]
    for sender, receiver in ((caller, answerer), (answerer, caller)):
        moved = [end.peer.progress() for end in pair]
        most_bytes = await send_all(sender.opened.result(), receiver.opened.result(), messages)
        assert most_bytes <= rtc_peer.SEND_BUFFER_BYTES + largest
        assert receiver.peer.progress() >= moved[pair.index(receiver)] + sum(map(len, messages))
        assert sender.peer.progress() > moved[pair.index(sender)]
    assert [end.peer.state() for end in pair] == ["connected", "connected"]
    assert answerer.opened.result().label == "a label"


@pytest.mark.parametrize("closing", [0, 1], ids=["caller", "answerer"])
async def test_the_other_side_notices_a_close(pair: tuple[End, End], closing: int) -> None:
    gone, left = pair[closing], pair[1 - closing]
    told: list[str] = []
    left.opened.result().on_disconnected(told.append)
    await gone.peer.close()
    async with asyncio.timeout(TIMEOUT_S):
        await left.lost.wait()
    assert left.peer.state() != "connected"
    assert told
    with pytest.raises(ConnectionError, match="closed"):
        await left.opened.result().emit_message(b"anybody?")


async def test_a_sender_that_waits_for_room_is_let_go_by_a_close(pair: tuple[End, End]) -> None:
    caller, _ = pair
    channel = caller.opened.result()
    senders = [
        asyncio.ensure_future(channel.emit_message(bytes(rtc_peer.MAX_MESSAGE_BYTES)))
        for _ in range(20)
    ]
    await asyncio.wait(senders, return_when=asyncio.FIRST_COMPLETED)
    await caller.peer.close()
    async with asyncio.timeout(TIMEOUT_S):
        results = await asyncio.gather(*senders, return_exceptions=True)
    assert {type(result) for result in results} == {type(None), ConnectionError}


async def test_only_the_hosts_own_candidates_are_offered(calling: Implementation) -> None:
    caller = End.over(calling)
    offer = await caller.peer.offer("x")
    await caller.peer.close()
    assert set(re.findall(r"^a=candidate:.* typ (\w+)", offer["sdp"], re.M)) == {"host"}


@pytest.mark.parametrize(
    ("sdp", "expected"),
    [
        ("", 60 * KIB),
        ("a=max-message-size:65536\r\n", 60 * KIB),
        ("a=max-message-size:1\r\n", 60 * KIB),
        ("a=mid:0\r\na=max-message-size:131072\r\n", 124 * KIB),
        ("a=max-message-size:262144\r\n", 252 * KIB),
        ("a=max-message-size:1073741823\r\n", 252 * KIB),
        ("a=max-message-size:0\r\n", 252 * KIB),
    ],
)
def test_chunks_are_as_large_as_the_other_side_takes(sdp: str, expected: int) -> None:
    assert chunk_bytes(sdp) == expected


@asynccontextmanager
async def endpoint_over(
    live_endpoint: Endpoint, answering: Implementation
) -> AsyncIterator[RtcEndpoint]:
    server: Any = await connect(live_endpoint.server_url, token=live_endpoint.token)
    try:
        shared = {"id": "shared", "config": {"require_context": True}}
        endpoint = await register_rtc_endpoint(
            server, "shared-rtc", shared, visibility="protected", implementation=answering
        )
        # A connection that is closed while hypha-rpc still registers itself leaves a task.
        await server.get_service("shared-rtc")
        try:
            yield endpoint
        finally:
            await endpoint.close()
    finally:
        await server.disconnect()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest.mark.live
async def test_the_endpoint_limits_peers_and_removes_closed_ones(
    live_endpoint: Endpoint, answering: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtc, "MAX_PEERS", 1)
    async with endpoint_over(live_endpoint, answering) as endpoint:
        first, second = End.over(answering), End.over(answering)
        offers = [await end.peer.offer("x") for end in (first, second)]
        answer = await endpoint.offer(offers[0])
        assert answer["implementation"] == answering
        await first.peer.accept(answer)
        async with asyncio.timeout(TIMEOUT_S):
            await first.opened
        with pytest.raises(RuntimeError, match="too many WebRTC peers"):
            await endpoint.offer(offers[1])
        await first.peer.close()
        await until(lambda: not endpoint._peers)
        assert (await endpoint.offer(offers[1]))["type"] == "answer"
        await second.peer.close()


@pytest.mark.live
async def test_the_endpoint_removes_peers_that_never_connect(
    live_endpoint: Endpoint, answering: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtc, "OPEN_TIMEOUT_S", 0.1)
    async with endpoint_over(live_endpoint, answering) as endpoint:
        caller = End.over(answering)
        await endpoint.offer(await caller.peer.offer("x"))
        assert len(endpoint._peers) == 1
        await until(lambda: not endpoint._peers)
        await caller.peer.close()


@pytest.mark.live
async def test_an_offer_that_is_none_leaves_no_peer(
    live_endpoint: Endpoint, answering: Implementation
) -> None:
    async with endpoint_over(live_endpoint, answering) as endpoint:
        with pytest.raises(KeyError, match="sdp"):
            await endpoint.offer({"type": "offer"})
        assert not endpoint._peers


@pytest.mark.live
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.1])
async def test_a_cancelled_opening_leaves_nothing_and_can_be_repeated(
    live_endpoint: Endpoint, calling: Implementation, after_s: float
) -> None:
    session = HyphaSession(live_endpoint)
    transport = WebRTCTransport(session, implementation=calling)
    try:
        await (await session.server(TIMEOUT_S, session)).get_service(live_endpoint.service_id)
        opening = asyncio.ensure_future(transport.open(TIMEOUT_S))
        await asyncio.wait({opening}, timeout=after_s)
        opening.cancel()
        await asyncio.wait({opening})
        assert transport.state() in ("closed", "connected")
        await transport.close()
        await transport.open(TIMEOUT_S)
        assert transport.state() == "connected"
        before = transport.progress()
        await transport.call("probe", {"payload": bytes(1_000_000)}, TIMEOUT_S)
        assert transport.progress() > before
    finally:
        await transport.close()
        await session.release(session)
    assert transport.state() == "closed"


@pytest.mark.live
async def test_a_close_ends_an_opening(live_endpoint: Endpoint, calling: Implementation) -> None:
    """As when a batch ends while WebRTC is still on its way up."""
    session = HyphaSession(live_endpoint)
    transport = WebRTCTransport(session, implementation=calling)
    try:
        opening = asyncio.ensure_future(transport.open(TIMEOUT_S))
        await until(lambda: transport.state() != "closed")
        await transport.close()
        async with asyncio.timeout(TIMEOUT_S / 2):
            with pytest.raises(CourierError):
                await opening
    finally:
        await session.release(session)
