"""An app whose users change while it runs, and one that is deployed in another way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from samcourier.errors import Denied
from samcourier.transports import HyphaSession, WebSocketTransport

from .real_worker import (
    OWNER_EMAIL,
    STRANGER_EMAIL,
    Worker,
    connected,
    deploy,
    until,
    until_direct,
    until_running,
)

pytestmark = [pytest.mark.bioengine, pytest.mark.timeout(900)]

TIMEOUT_S = 60.0
CHANGING = "changing"


async def caller(worker: Worker, service_id: str, token: str) -> str:
    """Return who the app takes the holder of ``token`` for."""
    opened = WebSocketTransport(HyphaSession(worker.endpoint(service_id, token)))
    try:
        await opened.open(TIMEOUT_S)
        answer = await opened.call("probe", {"payload": b"1"}, TIMEOUT_S)
    finally:
        await opened.close()
    return str(answer["caller"])


async def test_who_is_authorized_may_change_while_the_app_runs(
    worker: Worker, artifact_id: str
) -> None:
    async with connected(worker, worker.owner_token) as server:
        bioengine = await server.get_service(worker.service_id)
        # An app of its own: a change may give it new replicas, and those new ids.
        await deploy(bioengine, artifact_id, CHANGING, worker.owner_token, [OWNER_EMAIL], 1, {})
        await until_running(bioengine, CHANGING)
        for users, lets_in in (([OWNER_EMAIL, STRANGER_EMAIL], True), ([OWNER_EMAIL], False)):
            begun = time.monotonic()
            await bioengine.deploy_app(
                artifact_id=artifact_id,
                application_id=CHANGING,
                authorized_users={"*": users},
            )

            async def is_so(expected: bool = lets_in) -> None:
                proxy_id = (await until_running(bioengine, CHANGING))["service_ids"]
                ids = await until_direct(server, proxy_id["websocket_service_id"])
                try:
                    known = await caller(worker, ids["service_id"], worker.stranger_token)
                except Denied:
                    known = ""
                if (known == STRANGER_EMAIL) != expected:
                    raise LookupError(f"{known!r} is let in")

            await until(is_so, 120.0)
            print(f"authorized_users changed, holds after {time.monotonic() - begun:.0f} s")
        await bioengine.stop_app(application_id=CHANGING)


async def test_without_a_token_of_its_own_and_with_a_proxy_that_is_trusted(
    worker: Worker, artifact_id: str
) -> None:
    async with (
        connected(worker, worker.owner_token) as server,
        connected(worker, worker.stranger_token) as stranger,
    ):
        bioengine = await server.get_service(worker.service_id)
        await deploy(
            bioengine,
            artifact_id,
            "tokenless",
            None,
            [OWNER_EMAIL],
            1,
            {},
            trust_proxy_identity=True,
        )
        proxy_id = (await until_running(bioengine, "tokenless"))["service_ids"][
            "websocket_service_id"
        ]

        async def probed() -> Any:
            return await (await server.get_service(proxy_id)).probe(b"12")

        answer = await until(probed, 90.0)
        assert answer["caller"] == OWNER_EMAIL
        told = await (await server.get_service(proxy_id)).direct_ids()
        print(f"without hypha_token: {told}")
        with pytest.raises(Exception, match=r"not authorized|Unauthorized"):
            await (await stranger.get_service(proxy_id)).probe(b"12")
        await bioengine.stop_app(application_id="tokenless")
