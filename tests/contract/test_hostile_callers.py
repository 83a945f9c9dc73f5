"""Strangers who write their messages by hand: who they say they are, and what they reach for.

What the service was told of its callers is read where it decides, in its access rules.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from samcourier.transports import Endpoint
from samservice.engines.watershed import WatershedEngine
from samservice.hypha.connection import connect
from samservice.server.access import AccessRules
from samservice.server.app import SegmentationService
from samservice.server.serve import Address, ServeSettings, serve_through

from .raw_caller import OVER, RawCaller, Refused, offered, over_websocket

pytestmark = pytest.mark.live

SERVICE = "guarded"
PROBE = f"services.{SERVICE}.probe"
#: ICE between two ends of one machine takes a tenth of it.
NO_CHANNEL_S = 2.0
RUN_A_SHELL = "__globals__.asyncio.subprocess.subprocess.getoutput"


class RecordingRules(AccessRules):
    """Rules that remember whom they were asked about."""

    def __init__(self, users_by_method: Mapping[str, list[str]]) -> None:
        super().__init__(users_by_method)
        self.asked: list[dict[str, Any]] = []

    def check(self, method: str, context: Mapping[str, Any] | None) -> None:
        self.asked.append(dict(context or {}))
        super().check(method, context)


@dataclass
class Host:
    """A service run by this test, public as a rule, with a private one beside it."""

    address: Address
    server: Any
    service: SegmentationService
    token: str = field(repr=False)
    trapped: list[Any] = field(default_factory=list)

    @property
    def user(self) -> dict[str, Any]:
        return dict(self.server.config["user"])

    def allow(self, *users: str) -> None:
        self.service.access = RecordingRules({"*": list(users)})

    def callers(self) -> set[str]:
        """Return the ids of all whom the service was called by."""
        rules = self.service.access
        assert isinstance(rules, RecordingRules)
        return {each["user"]["id"] for each in rules.asked}


@pytest.fixture
def visibility() -> str:
    return "public"


@pytest.fixture
async def host(live_endpoint: Endpoint, visibility: str) -> AsyncIterator[Host]:
    service = SegmentationService(WatershedEngine(), access=RecordingRules({"*": ["*"]}))
    token = str(live_endpoint.token)
    settings = ServeSettings(
        live_endpoint.server_url, token, live_endpoint.workspace, SERVICE, visibility=visibility
    )
    ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def share_more(address: Address, server: Any) -> None:
        made = Host(address, server, service, token)

        def trap(*given: Any) -> str:
            made.trapped.append(given)
            return "the secret"

        await server.register_service({"id": "private", "trap": trap})
        ready.set_result(made)

    serving = asyncio.ensure_future(
        serve_through(service, settings, on_ready=share_more, stop=stop)
    )
    await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
    yield ready.result()
    stop.set()
    await serving
    service.close()


@pytest.fixture(params=OVER)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stranger(host: Host, way: str) -> AsyncIterator[RawCaller]:
    async with OVER[way](host.address) as caller:
        yield caller
        # Whatever was tried, the service goes on and knows who calls.
        answer = await caller.call(PROBE, b"still here")
        assert (answer["received_bytes"], answer["caller"]) == (10, caller.user_id)


def lies(host: Host) -> dict[str, Any]:
    """Return, by key, what a message would have to say to be taken for the host's own."""
    own = f"{host.address.workspace}/someone"
    context = {"user": host.user, "ws": host.address.workspace, "from": own, "to": own}
    return {
        "ctx": context,
        "context": context,
        "user": host.user,
        "ws": host.address.workspace,
        "from": own,
        "scope": host.user.get("scope"),
        "email": host.user.get("email"),
        "parent": f"services.{SERVICE}",
        "_enc": {"v": 2, "pub": b"", "nonce": b""},
    }


@pytest.mark.parametrize("part", ["first", "second"])
@pytest.mark.parametrize("carried", ["whole", "in chunks"])
async def test_a_forged_message_is_ignored(
    host: Host, stranger: RawCaller, part: str, carried: str
) -> None:
    for name, lie in [*lies(host).items(), ("to", "someone")]:
        first, second = stranger.message(PROBE, [b"12"])
        (first if part == "first" else second)[name] = lie
        if carried == "whole":
            await stranger.send(first, second)
        else:
            await stranger.call_in_chunks(first, second)
    answer = await stranger.call(PROBE, b"12")
    assert answer["caller"] == stranger.user_id != host.user["id"]
    assert host.callers() == {stranger.user_id}


async def test_a_forged_keyword_is_ignored(host: Host, stranger: RawCaller) -> None:
    answer = await stranger.call(PROBE, b"12", context=lies(host)["ctx"])
    assert answer["caller"] == stranger.user_id
    assert host.callers() == {stranger.user_id}


@pytest.mark.parametrize("name", ["context", "ctx", "user", "ws", "from"])
@pytest.mark.parametrize("said_in", ["body", "query", "header"])
async def test_a_forged_http_request_is_ignored(host: Host, name: str, said_in: str) -> None:
    url = f"{host.address.server_url}/{host.address.workspace}/services/{SERVICE}/probe"
    lie = lies(host)[name]
    headers = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(
            url,
            params={name: json.dumps(lie)} if said_in == "query" else {},
            headers=headers | ({name: json.dumps(lie)} if said_in == "header" else {}),
            content=msgpack.packb({"payload": b"12"} | ({name: lie} if said_in == "body" else {})),
        )
    if said_in == "body" and name != "context":
        # The method has no such parameter.
        assert response.status_code >= 400
        assert not host.callers()
    else:
        assert msgpack.unpackb(response.content)["received_bytes"] == 2
        assert host.callers() == {"anonymouz-http"}


async def test_an_unauthorized_caller_gets_nothing(host: Host, way: str) -> None:
    host.allow(host.user["id"])
    if way == "webrtc":
        with pytest.raises(Exception, match=r"samservice\.NotAuthorized"):
            async with OVER[way](host.address):
                pass
        way = "websocket"
    async with OVER[way](host.address) as caller, offered() as peer:
        for method, given in ((PROBE, b"12"), (f"services.{SERVICE}-rtc.offer", peer.offer)):
            for forged in ({}, {"ctx": lies(host)["ctx"]}):
                first, second = caller.message(method, [given])
                await caller.send(first | forged, second | forged)
                with pytest.raises(Refused, match=r"samservice\.NotAuthorized"):
                    await caller.answer(first["session"])


@pytest.mark.parametrize("way", ["websocket"], indirect=True)
async def test_large_messages_of_unauthorized_callers_are_not_kept(host: Host, way: str) -> None:
    host.allow(host.user["id"])
    cache = "services.built-in.message_cache"
    async with OVER[way](host.address) as caller:
        with pytest.raises(Refused, match=r"samservice\.NotAuthorized"):
            await caller.call(f"{cache}.create", "key", False)
        with pytest.raises(Refused, match=r"message_cache|does not exist"):
            await caller.call(f"{cache}.set", "key", 0, b"12", False)
    async with OVER[way](host.address, host.token) as caller:
        await caller.call_in_chunks(*caller.message(PROBE, [b"12"]))
        assert (await caller.call(PROBE, b"12"))["caller"] == host.user["id"]


async def test_rules_count_from_the_next_call_on(host: Host, way: str) -> None:
    async with OVER[way](host.address) as caller:
        for users, allowed in (("*", True), (host.user["id"], False), (caller.user_id, True)):
            host.allow(users)
            if allowed:
                await caller.call(PROBE, b"12")
                continue
            with pytest.raises(Refused, match=r"samservice\.NotAuthorized"):
                await caller.call(PROBE, b"12")


@pytest.mark.parametrize("name", ["private", f"{SERVICE}-rtc", "default", "*", "", "manager"])
@pytest.mark.parametrize("way", ["webrtc"], indirect=True)
async def test_a_peer_is_given_the_shared_service_alone(stranger: RawCaller, name: str) -> None:
    with pytest.raises(Refused, match=r"Service not found|NoneType"):
        await stranger.call("services.built-in.get_service", name)


@pytest.mark.parametrize(
    "path",
    [
        "services.private.trap",
        "services.built-in.get_service.__self__.close",
        f"services.built-in.ping.__func__.{RUN_A_SHELL}",
        f"{PROBE}.__func__.{RUN_A_SHELL}",
        f"{PROBE}.__self__.close",
        f"services.{SERVICE}.config.clear",
        f"services.{SERVICE}.clear",
        "services.clear",
        "services",
        "message_cache.clear",
        "no-session.resolve",
        "",
    ],
)
async def test_no_path_leads_elsewhere(host: Host, stranger: RawCaller, path: str) -> None:
    first, second = stranger.message(path, ["echo got in"])
    for method in (path, path.split(".")):
        first |= {"method": method, "session": f"{type(method).__name__}"}
        await stranger.send(first, second)
        with pytest.raises(Refused):
            await stranger.answer(first["session"])
    assert not host.trapped


@pytest.mark.parametrize("callback", ["resolve", "reject", "heartbeat"])
async def test_answers_go_to_the_caller_alone(
    host: Host, stranger: RawCaller, callback: str
) -> None:
    """A service that answers whom it is told to would call them in its own name."""
    owner = await connect(host.address.server_url, token=host.token)
    await owner.register_service({"id": "inner", "trap": host.trapped.append})
    inside = f"{owner.config['workspace']}/{owner.rpc._client_id}"
    first, second = stranger.message(PROBE, ["refused" if callback == "reject" else b"12"])
    honest = {
        name: {
            "_rtype": "method",
            "_rtarget": stranger.me,
            "_rmethod": f"{first['session']}.{name}",
        }
        for name in ("resolve", "reject", "heartbeat")
    }
    elsewhere = {"_rtype": "method", "_rtarget": inside, "_rmethod": "services.inner.trap"}
    # Asked for a promise of its own, the service would open a session to the stranger.
    forged = honest | {callback: elsewhere | {"_rpromise": True}, "interval": 5}
    await stranger.send(first, second | {"promise": forged})
    async with asyncio.timeout(10):
        while not any(got["method"] == "services.inner.trap" for got, _ in stranger.received):
            await asyncio.sleep(0.01)
    assert not any("session" in got for got, _ in stranger.received)
    await owner.rpc.ping(inside, 5)
    await owner.disconnect()
    assert not host.trapped


ENCODED: dict[str, Any] = {
    "method": {"_rtype": "method", "_rtarget": "*/x", "_rmethod": "services.x.y", "_rpromise": "*"},
    "generator": {"_rtype": "generator", "_rtarget": "*/x", "_rmethod": "services.x.y"},
    "iostream": {"_rtype": "iostream", "_rnative": "a", "name": "x", "read": b""},
    "error": {"_rtype": "error", "_rvalue": "x", "_rtrace": ""},
    "interface": {"_rintf": True, "get": b"", "shape": [1 << 40]},
    "object array": {
        "_rtype": "ndarray",
        "_rvalue": bytes(64),
        "_rshape": [8],
        "_rdtype": "O",
    },
    "huge array": {
        "_rtype": "ndarray",
        "_rvalue": b"",
        "_rshape": [1 << 40, 1 << 20],
        "_rdtype": "uint16",
    },
    "unknown": {"_rtype": "no such type", "x": 1},
}


@pytest.mark.parametrize("encoded", ENCODED.values(), ids=ENCODED)
async def test_encoded_objects_are_no_images(stranger: RawCaller, encoded: dict[str, Any]) -> None:
    for method in ("probe", "segment_all", "encode_image"):
        with pytest.raises(Refused):
            await stranger.call(f"services.{SERVICE}.{method}", encoded)
    # None of them was asked for anything.
    assert all(got["method"].endswith((".reject", ".heartbeat")) for got, _ in stranger.received)


@pytest.mark.parametrize(
    "event",
    ["peer_not_found", "client_disconnected", "manager_refreshed", "force-exit", "error", "method"],
)
async def test_events_are_accepted_from_the_server_only(
    host: Host, stranger: RawCaller, event: str
) -> None:
    told: list[Any] = []
    rpc = host.server.rpc
    if event != "method":
        rpc.on(event, told.append)
    first, _ = stranger.message(PROBE, [])
    said = {"peer_id": "*/x", "id": "x", "workspace": "x", "manager": {}, "message": "x"}
    for sender in (stranger.me, "*/manager"):
        await stranger.send({**first, "type": event, "from": sender, "method": None}, said)
    await stranger.call(PROBE, b"12")
    assert told == []


MISSING = object()
BROKEN: list[tuple[str, Any]] = [
    *((name, MISSING) for name in ("method", "from", "session", "args", "promise", "t")),
    *((name, 7) for name in ("method", "session", "parent", "type", "args", "promise", "to")),
    ("type", ["method"]),
    ("session", ["services"]),
    ("args", {"a": 1}),
    ("args", []),
    ("with_kwargs", True),
    ("promise", {}),
    ("promise", {"resolve": 7}),
    ("promise", {"resolve": {"_rtype": "method"}, "reject": None}),
    ("t", "soon"),
    ("t", float("nan")),
]


async def test_a_broken_message_affects_no_other_caller(host: Host, stranger: RawCaller) -> None:
    for name, value in BROKEN:
        first, second = stranger.message(PROBE, [b"12"])
        part = first if name in first else second
        part[name] = value
        if value is MISSING:
            del part[name]
        await stranger.send(first, second)
    assert host.callers() <= {stranger.user_id}


@pytest.mark.parametrize("visibility", ["protected"])
async def test_another_workspace_cannot_reach_a_protected_service(host: Host) -> None:
    offer = f"services.{SERVICE}-rtc.offer"
    async with over_websocket(host.address) as caller, offered() as peer:
        asked = ((PROBE, b"12"), (offer, peer.offer), ("services.built-in.get_service", SERVICE))
        for method, given in asked:
            for name, lie in lies(host).items():
                for part in (0, 1):
                    message = caller.message(method, [given])
                    message[part][name] = lie
                    await caller.send(*message)
            with pytest.raises(Refused, match="Permission denied"):
                await caller.call(method, given)
    with pytest.raises(Exception, match="Permission denied"):
        async with OVER["webrtc"](host.address):
            pass
    url = f"{host.address.server_url}/{host.address.workspace}/services/{SERVICE}/probe"
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(url, json={"payload": "12", "context": lies(host)["ctx"]})
    assert response.status_code in (401, 403), response.text
    assert not host.callers()


# Over WebSocket it does not get past the Hypha server.
@pytest.mark.parametrize("way", ["webrtc"], indirect=True)
@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x01", b"\x80", b"\x81\xa4type\xa1x" * 2])
async def test_garbage_is_dropped(stranger: RawCaller, garbage: bytes) -> None:
    await stranger.send_bytes(garbage)


async def test_the_callee_reaches_only_the_answer_of_the_call(host: Host, tmp_path: Path) -> None:
    """A service, too, may be hostile: the caller's session is open to it while it is asked."""
    proof = tmp_path / "shell"
    client = await connect(host.address.server_url, token=host.token)
    async with over_websocket(host.address, host.token) as service:
        target = {"_rtarget": service.me, "_rmethod": "services.any.thing", "_rpromise": "*"}
        asking = asyncio.ensure_future(client.rpc._generate_remote_method(target)())
        async with asyncio.timeout(10):
            while not service.received:
                await asyncio.sleep(0.01)
        (asked, _), *_ = service.received
        service.target = asked["from"]
        for name in ("resolve", "reject", "heartbeat", "timer.callback", "_promise_manager.settle"):
            path = f"{asked['session']}.{name}.{RUN_A_SHELL}"
            with pytest.raises(Refused):
                await service.call(path, f"touch {proof}")
        first, second = service.message(f"{asked['session']}.resolve", ["the answer"])
        await service.send(first, {"args": second["args"]})
        assert await asyncio.wait_for(asking, 10) == "the answer"
    await client.disconnect()
    assert not proof.exists()


async def test_a_replayed_offer_is_answered_to_its_sender(host: Host) -> None:
    """The channel belongs to who sent the offer to the service, not to who made it."""
    owner = await connect(host.address.server_url, token=host.token)
    thief = await connect(host.address.server_url)
    try:
        by_owner, by_thief = [
            await each.get_service(host.address.rtc_service_id) for each in (owner, thief)
        ]
        async with offered() as peer:
            await by_owner.offer(peer.offer)
            await by_owner.offer(peer.offer)
            await peer.accept(await by_thief.offer(peer.offer))
            assert await peer.is_open_within(10)
            caller = peer.caller(host.address.workspace, "")
            thief_id = thief.config["user"]["id"]
            assert (await caller.call(PROBE, b"12"))["caller"] == thief_id != host.user["id"]
            assert host.callers() == {thief_id}
    finally:
        await thief.disconnect()
        await owner.disconnect()


async def test_a_stolen_answer_opens_no_channel(host: Host) -> None:
    owner = await connect(host.address.server_url, token=host.token)
    try:
        endpoint = await owner.get_service(host.address.rtc_service_id)
        async with offered() as own, offered() as thief:
            answer = await endpoint.offer(own.offer)
            await thief.accept(answer)
            assert not await thief.is_open_within(NO_CHANNEL_S)
            await own.accept(answer)
            assert await own.is_open_within(60)
            caller = own.caller(host.address.workspace, "")
            assert (await caller.call(PROBE, b"12"))["caller"] is not None
    finally:
        await owner.disconnect()
    assert host.callers() == {host.user["id"]}


@pytest.mark.parametrize("flood", ["bytes", "messages"])
async def test_a_flood_of_chunks_is_refused(
    host: Host, stranger: RawCaller, monkeypatch: pytest.MonkeyPatch, flood: str
) -> None:
    cache = "services.built-in.message_cache"
    monkeypatch.setattr("samservice.hypha.guarded_rpc.MAX_CACHED_BYTES", 100_000)
    monkeypatch.setattr("samservice.hypha.guarded_rpc.MAX_CACHED_MESSAGES", 3)

    async def pour() -> None:
        for number in range(20):
            key = str(number) if flood == "messages" else "one"
            if number == 0 or flood == "messages":
                await stranger.call(f"{cache}.create", key, False)
            await stranger.call(f"{cache}.set", key, number, bytes(10_000), False)

    with pytest.raises(Refused, match=r"samservice\.ServiceBusy"):
        await pour()
    monkeypatch.setattr("samservice.hypha.guarded_rpc.ABANDONED_AFTER_S", 0.05)
    await asyncio.sleep(0.1)
    await stranger.call_in_chunks(*stranger.message(PROBE, [b"12"]))
