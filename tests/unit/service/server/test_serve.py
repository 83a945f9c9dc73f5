"""What a service does when its Hypha server goes away, refuses it, and comes back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypha_rpc import websocket_client
from websockets.exceptions import ConnectionClosedError
from websockets.protocol import State

from samservice.contract.errors import NotConnected
from samservice.hypha import connection as hypha
from samservice.hypha.connection import UncompressedConnection, end_connection
from samservice.hypha.refusals import is_final
from samservice.server import serve

#: A test that would hang fails instead.
PATIENCE_S = 5.0


def server(state: str, *, closed: bool = False, refusal: str | None = None) -> Any:
    """Return as much of hypha-rpc's server object as tells how its connection is."""
    websocket = SimpleNamespace(state=SimpleNamespace(name=state))
    connection = SimpleNamespace(
        _websocket=websocket, _closed=closed, refusal=refusal, is_reopening=state != "OPEN"
    )
    return SimpleNamespace(rpc=SimpleNamespace(_connection=connection))


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():
            await asyncio.sleep(0.001)


async def test_a_server_that_is_lost_and_back_is_told_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "CONNECTION_CHECK_S", 0.01)
    stop, connected = asyncio.Event(), server("OPEN")
    connection = connected.rpc._connection
    with caplog.at_level(logging.WARNING):
        watching = asyncio.create_task(serve.watch_connection(connected, "http://hypha", stop))
        steps: tuple[tuple[bool, str | None], ...] = ((True, None), (True, BUSY), (False, None))
        for connection.is_reopening, connection.refusal in steps:
            told = len(caplog.messages)
            await until(lambda told=told: len(caplog.messages) > told)  # type: ignore[misc]
        # Said once, however often it is looked at and whatever else is said.
        connection.is_reopening, connection.refusal = True, BUSY
        await until(lambda: len(caplog.messages) == 5)
        connection.refusal = "Failed to establish connection: try again"
        await asyncio.sleep(0.05)
        assert not watching.done()
        stop.set()
        await watching
    lost, refused, back, *again = caplog.messages
    assert lost == "the connection to http://hypha is lost, trying again"
    assert back == "the connection to http://hypha is restored"
    assert refused == f"http://hypha does not accept the service again yet, trying again: {BUSY}"
    assert again == [lost, refused]


async def test_a_server_that_refuses_the_service_for_good_ends_it_with_its_reason() -> None:
    refused = server("CLOSED", closed=True, refusal=EXPIRED)
    with pytest.raises(
        NotConnected, match=r"does not accept the service again: the token of .* has expi"
    ):
        await serve.watch_connection(refused, "http://hypha", asyncio.Event(), "a.b.c")


@pytest.mark.parametrize(
    ("goes_on", "failures", "attempts", "ends"),
    [
        (False, ["Connection refused"], 1, "cannot serve through http://hypha: .*refused"),
        (True, ["Connection refused", "Client already exists and is active: lab/c-1"], 3, None),
        (
            True,
            ["Server busy, please retry", "Authentication error: Signature verification failed."],
            2,
            "cannot serve",
        ),
    ],
)
async def test_a_service_that_goes_on_waits_for_its_server(
    monkeypatch: pytest.MonkeyPatch,
    goes_on: bool,
    failures: list[str],
    attempts: int,
    ends: str | None,
) -> None:
    asked: list[str] = []

    async def connect(url: str, *, client_id: str, **_: Any) -> str:
        asked.append(client_id)
        if len(asked) <= len(failures):
            raise ConnectionAbortedError(failures[len(asked) - 1])
        return "connected"

    monkeypatch.setattr(serve, "connect", connect)
    monkeypatch.setattr(serve, "RECONNECT_PAUSE_S", 0.0)
    settings = serve.ServeSettings("http://hypha", goes_on=goes_on)
    if ends is None:
        assert await serve._connect(settings, "c-1", asyncio.Event()) == "connected"
    else:
        with pytest.raises(NotConnected, match=ends):
            await serve._connect(settings, "c-1", asyncio.Event())
    assert asked == ["c-1"] * attempts


async def test_a_service_that_goes_on_stops_waiting_when_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect(url: str, **_: Any) -> None:
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(serve, "connect", connect)
    stop = asyncio.Event()
    settings = serve.ServeSettings("http://hypha", goes_on=True)
    waiting = asyncio.ensure_future(serve._connect(settings, "c-1", stop))
    await asyncio.sleep(0.05)
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting is None


# The connection itself, to a server that says what it is told to.

BUSY = "Server busy, please retry"
EXPIRED = "Authentication error: The token has expired. Please fetch a new one"


class Socket:
    """A WebSocket whose other end answers the first message with ``answer``."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer, self.state, self.sent = answer, State.OPEN, list[Any]()
        self.close_code, self.close_reason = 1006, "gone"
        self.transport = SimpleNamespace(abort=self.lose)
        self._answered = False
        self._lost = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.sent.append(json.loads(message))

    async def recv(self) -> str:
        if not self._answered:
            self._answered = True
            return json.dumps(self.answer)
        await self._lost.wait()
        raise ConnectionClosedError(None, None)

    async def close(self, code: int = 1000) -> None:
        self.lose()

    def lose(self) -> None:
        self.state = State.CLOSED
        self._lost.set()


class Server:
    """Answers connection after connection by its script, then takes every one."""

    def __init__(self) -> None:
        self.script: list[str | Exception] = []
        self.sockets: list[Socket] = []

    async def connect(self, url: str, **_: Any) -> Socket:
        said = self.script.pop(0) if self.script else None
        if isinstance(said, Exception):
            raise said
        taken = {"type": "connection_info", "workspace": "lab", "reconnection_token": "theirs"}
        self.sockets.append(Socket({"type": "error", "message": said} if said else taken))
        return self.sockets[-1]


@pytest.fixture
def hypha_server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(websocket_client.websockets, "connect", made.connect)
    monkeypatch.setattr(hypha, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(hypha, "LONGEST_PAUSE_S", 0.002)
    return made


@pytest.fixture
async def connection(hypha_server: Server) -> AsyncIterator[UncompressedConnection]:
    made = UncompressedConnection("ws://hypha.example.org/ws", "sam-1", token="ours")
    registered: list[Socket] = []

    async def register(_: Any) -> None:
        registered.append(made._websocket)

    made.on_connected(register)
    made.registered = registered
    yield made
    await end_connection(made, wait_s=0)
    for task in asyncio.all_tasks():
        # It lingers a while after a success, to see whether that lasts.
        if "reconnect_with_retry" in str(task.get_coro()):
            task.cancel()


async def test_what_may_pass_is_asked_again_until_all_is_registered_as_before(
    hypha_server: Server, connection: UncompressedConnection
) -> None:
    await connection.open()
    hypha_server.script = [
        BUSY,
        ConnectionRefusedError(111, "refused"),
        "Failed to establish connection: Redis is loading the dataset in memory",
        *(BUSY for _ in range(20)),
    ]
    hypha_server.sockets[0].lose()
    await until(lambda: connection.refusal is not None)
    assert connection.refusal == BUSY
    await until(lambda: not connection.is_reopening)
    assert (connection.refusal, connection._closed) == (None, False)
    assert hypha_server.script == []
    # Under the same name, and with all that was registered.
    assert {socket.sent[0]["client_id"] for socket in hypha_server.sockets} == {"sam-1"}
    assert connection.registered == [hypha_server.sockets[0], hypha_server.sockets[-1]]


async def test_hypha_rpc_itself_gives_up_at_what_may_pass(hypha_server: Server) -> None:
    """Once it does not, samservice.hypha.connection.UncompressedConnection.open can go."""
    stock = websocket_client.WebsocketRPCConnection("ws://hypha.example.org/ws", "sam-1")
    await stock.open()
    hypha_server.script = [BUSY]
    hypha_server.sockets[0].lose()
    await until(lambda: stock._closed)
    await end_connection(stock, wait_s=0)


async def test_a_server_that_does_not_take_the_services_back_is_connected_to_anew(
    hypha_server: Server, connection: UncompressedConnection
) -> None:
    async def register(_: Any) -> None:
        connection._services_registered_ok = len(hypha_server.sockets) != 2

    connection.on_connected(register)
    await connection.open()
    hypha_server.sockets[0].lose()
    await until(lambda: len(hypha_server.sockets) == 3 and not connection.is_reopening)
    states = [socket.state for socket in hypha_server.sockets]
    assert states == [State.CLOSED, State.CLOSED, State.OPEN]


async def test_a_refusal_of_the_servers_own_token_is_answered_with_ours(
    hypha_server: Server, connection: UncompressedConnection
) -> None:
    await connection.open()
    hypha_server.script = [EXPIRED]
    hypha_server.sockets[0].lose()
    await until(lambda: len(hypha_server.sockets) == 3 and not connection.is_reopening)
    shown = [socket.sent[0]["reconnection_token"] for socket in hypha_server.sockets]
    assert shown == [None, "theirs", None]


async def test_a_refusal_of_our_token_is_final(
    hypha_server: Server, connection: UncompressedConnection
) -> None:
    await connection.open()
    hypha_server.script = [EXPIRED, EXPIRED]
    hypha_server.sockets[0].lose()
    await until(lambda: connection._closed)
    assert connection.refusal == EXPIRED
    assert len(hypha_server.sockets) == 3


async def test_closing_ends_the_pause_between_two_attempts(
    hypha_server: Server, connection: UncompressedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypha, "FIRST_PAUSE_S", 60.0)
    await connection.open()
    hypha_server.script = [BUSY]
    hypha_server.sockets[0].lose()
    await until(lambda: connection.refusal is not None)
    async with asyncio.timeout(PATIENCE_S):
        await end_connection(connection, wait_s=0)
    # What is left behind is found by the watch over every test.
    assert len(hypha_server.sockets) == 2


async def test_the_first_connection_is_judged_by_who_asked_for_it(
    hypha_server: Server, connection: UncompressedConnection
) -> None:
    hypha_server.script = [BUSY]
    with pytest.raises(ConnectionAbortedError, match=BUSY):
        await connection.open()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (EXPIRED, True),
        ("Authentication error: Signature verification failed.", True),
        ("Authentication error: Error decoding token headers.", True),
        ("Authentication error: Invalid algorithm: none", True),
        ("Failed to establish connection: Permission denied for workspace: ws-1", True),
        (
            "Failed to establish connection: Failed to authenticate user: Current workspace encoded"
            " in the token (ws-a) does not match the specified workspace (ws-b)",
            True,
        ),
        (
            "Failed to establish connection: Failed to authenticate user: Token has been revoked",
            True,
        ),
        (BUSY, False),
        ("Authentication error: <urlopen error [Errno -3] name resolution>", False),
        ("Failed to establish connection: Failed to authenticate user: Connection lost", False),
        ("Failed to establish connection: Client already exists and is active: lab/sam-1", False),
        ("Connection limit exceeded: user u has 200/200 connections", False),
    ],
)
def test_only_what_a_new_token_alone_can_mend_is_final(said: str, expected: bool) -> None:
    assert is_final(said) == expected
