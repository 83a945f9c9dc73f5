"""Who may call what: the rules alone, the service under them, and its WebRTC offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import NotAuthorized, parse_service_error
from samservice.engines.watershed import WatershedEngine
from samservice.server.access import AccessRules
from samservice.server.app import SegmentationService
from samservice.webrtc.endpoint import RtcEndpoint

ANN = {"user": {"id": "ann", "email": "ann@example.org"}}
BOB = {"user": {"id": "bob", "email": "bob@example.org"}}
NOBODY: list[Any] = [None, {}, {"user": None}, {"user": {}}, {"user": "ann"}]


@pytest.mark.parametrize("context", [ANN, BOB, *NOBODY])
@pytest.mark.parametrize("users", [(), ("*",), ("ann", "*")])
def test_everyone_may_call_an_open_service(users: tuple[str, ...], context: Any) -> None:
    rules = AccessRules.for_users(users)
    rules.check("probe", context)
    rules.check_any(context)


@pytest.mark.parametrize(
    ("users", "context", "allowed"),
    [
        (["ann"], ANN, True),
        (["ann@example.org"], ANN, True),
        (["bob", "ann"], ANN, True),
        (["ann"], BOB, False),
        (["ann@example.org"], BOB, False),
        (["ANN"], ANN, False),
        (["ann"], {"user": {"id": "*", "email": "*"}}, False),
        (["ann"], {"user": {"id": ["ann"], "email": {"ann": 1}}}, False),
        (["ann", ""], {"user": {"id": "", "email": ""}}, False),
        *[(["ann"], context, False) for context in NOBODY],
    ],
)
def test_a_restricted_service_knows_its_users(
    users: list[str], context: Any, allowed: bool
) -> None:
    rules = AccessRules.for_users(users)
    if allowed:
        rules.check("probe", context)
        rules.check_any(context)
        return
    for check in (lambda: rules.check("probe", context), lambda: rules.check_any(context)):
        with pytest.raises(NotAuthorized):
            check()


@pytest.mark.parametrize(
    ("rules", "method", "allowed"),
    [
        ({"*": ["ann"]}, "probe", True),
        ({"*": ["ann"], "probe": ["bob"]}, "probe", False),
        ({"*": ["bob"], "probe": ["ann"]}, "probe", True),
        ({"*": ["bob"], "probe": ["ann"]}, "describe", False),
        ({"describe": ["ann"]}, "probe", False),
        ({"*": ["ann"], "probe": []}, "probe", False),
        ({}, "probe", False),
    ],
)
def test_a_method_s_own_rule_comes_first(
    rules: dict[str, list[str]], method: str, allowed: bool
) -> None:
    if allowed:
        AccessRules(rules).check(method, ANN)
    else:
        with pytest.raises(NotAuthorized, match=rf"ann@example.org may not call {method}"):
            AccessRules(rules).check(method, ANN)


@pytest.fixture
def restricted() -> Iterator[SegmentationService]:
    service = SegmentationService(WatershedEngine(), access=AccessRules.for_users(["ann"]))
    yield service
    service.close()


CALLS = {
    "segment_all": {"image_or_embedding": np.zeros((8, 8), np.uint8)},
    "describe": {},
    "probe": {"payload": b"1"},
}


@pytest.mark.parametrize("context", [BOB, *NOBODY])
@pytest.mark.parametrize("method", [*CALLS, "encode_image"])
async def test_the_service_itself_refuses(
    restricted: SegmentationService, method: str, context: Any
) -> None:
    arguments = CALLS.get(method, {"image": np.zeros((8, 8), np.uint8)})
    with pytest.raises(NotAuthorized) as caught:
        await getattr(restricted, method)(**arguments, context=context)
    # The class survives a way that carries text alone.
    assert isinstance(parse_service_error(str(caught.value)), NotAuthorized)


@pytest.mark.parametrize("method", CALLS)
async def test_the_service_serves_its_users(restricted: SegmentationService, method: str) -> None:
    assert await getattr(restricted, method)(**CALLS[method], context=ANN) is not None


async def test_new_rules_hold_from_the_next_call_on(restricted: SegmentationService) -> None:
    restricted.access = AccessRules.for_users(["bob"])
    await restricted.probe(b"1", context=BOB)
    with pytest.raises(NotAuthorized):
        await restricted.probe(b"1", context=ANN)


@pytest.mark.parametrize("context", [BOB, *NOBODY])
async def test_a_stranger_gets_no_webrtc_peer(context: Any) -> None:
    rules = AccessRules.for_users(["ann"])
    endpoint = RtcEndpoint(object(), {}, [{"urls": []}], authorize=rules.check_any)
    with pytest.raises(NotAuthorized):
        await endpoint.offer({"sdp": "", "type": "offer"}, context)
