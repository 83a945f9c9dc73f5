"""Which replicas a name has, as a server that lists its services tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from samcourier.diagnostics.doctor import gather
from samcourier.errors import CourierError, Denied, InputError, ServiceGone, TransportFailed
from samcourier.testing.fake import FakeTransport
from samcourier.transports import Endpoint, Replicas, build_transports, pick_replica, replicas

from ..installed import Install

ENDPOINT = Endpoint("https://hypha.example.org", "lab", "sam", "sam-rtc", "token")
TWO = ["lab/sam-b:sam", "lab/sam-a:sam"]


class Session:
    """A connection to a server that lists ``registered``, or says why not."""

    registered: list[str]
    refusal: CourierError | None
    opened = 0
    released = 0

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def server(self, timeout_s: float, user: object) -> Any:
        Session.opened += 1
        if self.refusal is not None:
            raise self.refusal

        async def list_services(query: dict[str, str]) -> list[dict[str, str]]:
            assert query == {"workspace": "lab", "service_id": "sam"}
            return [{"id": each} for each in self.registered]

        return SimpleNamespace(config={"workspace": "lab"}, list_services=list_services)

    async def release(self, user: object) -> None:
        Session.released += 1


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    monkeypatch.setattr(replicas, "HyphaSession", Session)
    Session.registered, Session.refusal, Session.opened, Session.released = TWO, None, 0, 0
    return Session


async def test_each_replica_of_a_name_is_found(session: type[Session]) -> None:
    assert list(await Replicas(ENDPOINT).find()) == ["sam-a", "sam-b"]
    session.registered = []
    with pytest.raises(ServiceGone, match="no service 'sam'"):
        await Replicas(ENDPOINT).find()


async def test_of_several_replicas_one_is_picked_by_its_full_id(session: type[Session]) -> None:
    one, count = await pick_replica(ENDPOINT)
    assert (one.service_id, one.rtc_service_id, count) == (
        "lab/sam-a:sam",
        "lab/sam-a:sam-rtc",
        2,
    )
    assert (one.server_url, one.token) == (ENDPOINT.server_url, ENDPOINT.token)
    assert session.released == 1


@pytest.mark.parametrize("registered", [[], TWO[:1]])
@pytest.mark.parametrize("refusal", [None, TransportFailed("no way"), Denied("expired")])
async def test_without_a_known_replica_the_endpoint_stays_unchanged(
    session: type[Session], registered: list[str], refusal: CourierError | None
) -> None:
    session.registered, session.refusal = registered, refusal
    assert await pick_replica(ENDPOINT) == (ENDPOINT, 1)
    assert session.released == 1


@pytest.mark.parametrize(
    ("service_id", "wanted"), [("lab/sam-a:sam", "auto"), ("sam", "http")], ids=["full", "http"]
)
async def test_a_full_id_or_http_needs_no_request_for_replicas(
    session: type[Session], service_id: str, wanted: str
) -> None:
    endpoint = Endpoint(ENDPOINT.server_url, "lab", service_id, f"{service_id}-rtc")
    assert await pick_replica(endpoint, wanted) == (endpoint, 1)
    assert list(await Replicas(endpoint, wanted).find()) == [None]
    assert session.opened == 0


async def test_the_doctor_proves_a_replica_that_hypha_can_resolve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proved: list[str] = []

    def build(endpoint: Endpoint, wanted: str) -> list[FakeTransport]:
        proved.append(endpoint.service_id)
        return []

    monkeypatch.setattr(gather, "build_transports", build)
    await gather._verdicts(ENDPOINT, "auto", 10.0)
    assert proved == ["lab/sam-a:sam"]


TRANSPORT = """
from samcourier.transports.description import TransportDescription

PIGEON = TransportDescription("pigeon", "carries letters", "pigeon_transport:build", False)
"""
BUILD = """
from samcourier.testing.fake import FakeTransport

def build(endpoint, session):
    return FakeTransport(object(), name="pigeon")
"""


async def test_a_transport_of_another_package_is_built_where_it_is_named(
    session: type[Session], install: Install
) -> None:
    entry = "[samcourier.transports]\npigeon = pigeon_door:PIGEON\n"
    install("courier-pigeon", entry, pigeon_door=TRANSPORT, pigeon_transport=BUILD)
    assert [each.name for each in build_transports(ENDPOINT, "pigeon")] == ["pigeon"]
    built_in = ["websocket", "webrtc", "http"]
    assert [each.name for each in build_transports(ENDPOINT)] == built_in
    (transports,) = (await Replicas(ENDPOINT, "pigeon").find()).values()
    assert [each.name for each in transports] == ["pigeon"]
    # It says that it does not need Hypha.
    assert session.opened == 0


@pytest.mark.parametrize("wanted", ["pigeons", "pigeon"])
def test_a_transport_that_cannot_be_built_is_named(install: Install, wanted: str) -> None:
    entry = "[samcourier.transports]\npigeon = pigeon_door:PIGEON\n"
    install("courier-pigeon", entry, pigeon_door=TRANSPORT, pigeon_transport="import no_such")
    with pytest.raises(InputError, match=f"transport '{wanted}' (is unknown|cannot be imported)"):
        build_transports(ENDPOINT, wanted)
