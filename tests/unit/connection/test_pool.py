"""Several replicas of one service share the work by speed, come, and go."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samcourier.connection import ConnectionManager
from samcourier.connection.call import Answer, Call, CallFailed
from samcourier.connection.throughput import Payload
from samcourier.connection.time_limits import Policy
from samcourier.errors import CourierError, Denied, Overloaded, ServiceGone, TransportFailed
from samcourier.results.connection_log import ConnectionJournal
from samcourier.testing.fake import FakeTransport, Scripted
from samcourier.transports.base import Endpoint, Transport
from samcourier.transports.session import list_services

POLICY = Policy(open_timeout_s=1.0, outage_pause_s=0.01, outage_limit_s=1.0)
HASTY = replace(POLICY, outage_limit_s=0.05)
ANSWERS = Payload(10, 10)


class Replica:
    """One replica: how long it works on a call, and how many calls it takes."""

    def __init__(self, work_s: float = 0.0, max_queue: int = 3, model: str = "m") -> None:
        self.work_s = work_s
        self.max_queue = max_queue
        self.model = model
        self.calls = 0
        self.at_once = self.most_at_once = 0
        self._engine = asyncio.Lock()

    async def describe(self) -> dict[str, Any]:
        limits = {"max_queue": self.max_queue, "in_parallel": 1}
        return {"engine": "e", "model": self.model, "limits": limits}

    async def probe(self, payload: bytes, reply_bytes: int) -> dict[str, Any]:
        return {"data": bytes(reply_bytes), "received_unix_s": 0.0, "sent_unix_s": 0.0}

    async def segment(self) -> dict[str, Any]:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        async with self._engine:
            await asyncio.sleep(self.work_s)
        self.at_once -= 1
        return {"received_unix_s": 0.0, "sent_unix_s": self.work_s}


class Found:
    """A registry whose content a test changes."""

    def __init__(self, **replicas: Replica) -> None:
        self.replicas = replicas
        self.scripts: dict[str, list[Scripted]] = {}
        self.opens: dict[str, list[Scripted]] = {}
        #: What the next looks into the registry end with.
        self.failures: list[CourierError] = []

    async def find(self) -> Mapping[str | None, Sequence[Transport]]:
        if self.failures:
            raise self.failures.pop(0)
        return {
            name: [
                FakeTransport(
                    each, calls=self.scripts.get(name, ()), opens=self.opens.get(name, ())
                )
            ]
            for name, each in self.replicas.items()
        }

    async def close(self) -> None:
        pass


async def anything(_: Any) -> bool:
    return True


class Bench:
    def __init__(self, journal: Path, found: Found, policy: Policy) -> None:
        self.path = journal
        self.journal = ConnectionJournal(journal)
        self.manager = ConnectionManager(found, self.journal, policy)

    async def call(self, replica: str | None = None) -> Answer[bool]:
        return await self.manager.call(Call("segment", {}, ANSWERS, anything, replica))

    async def calls(self, count: int) -> list[Answer[bool]]:
        return await asyncio.gather(*(self.call() for _ in range(count)))

    def events(self) -> Counter[tuple[str, str]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return Counter((line["event"], line.get("replica")) for line in lines)


Make = Callable[..., Bench]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Bench] = []

    def make(found: Found, policy: Policy = POLICY) -> Bench:
        made.append(Bench(tmp_path / "journal.jsonl", found, policy))
        return made[-1]

    yield make
    for each in made:
        await each.manager.close()
        each.journal.close()


async def started(made: Bench, replicas: int) -> None:
    await made.manager.start(99)
    while made.manager.capacity < 3 * replicas:
        await asyncio.sleep(0.005)


async def test_replicas_share_the_work_by_speed(bench: Make) -> None:
    found = Found(slow=Replica(work_s=0.06), fast=Replica(work_s=0.02))
    made = bench(found)
    await started(made, 2)
    await made.calls(24)
    slow, fast = (found.replicas[name].calls for name in ("slow", "fast"))
    assert slow + fast == 24
    assert slow < fast
    assert slow > 0


@pytest.mark.parametrize(("max_queue", "expected"), [(1, 1), (2, 2), (99, 3)])
async def test_a_copy_gets_no_more_calls_at_once_than_it_takes(
    bench: Make, max_queue: int, expected: int
) -> None:
    found = Found(only=Replica(work_s=0.01, max_queue=max_queue))
    made = bench(found)
    await made.manager.start(99)
    assert made.manager.capacity == expected
    await made.calls(9)
    assert found.replicas["only"].most_at_once == expected


async def test_a_copy_that_dies_costs_only_its_calls_under_way(bench: Make) -> None:
    found = Found(dying=Replica(work_s=0.02), living=Replica(work_s=0.02))
    gone = Scripted(error=ServiceGone("client not found"))
    found.scripts["dying"] = [Scripted()] * 2 + [gone] * 99
    found.opens["dying"] = [Scripted()] + [gone] * 99
    made = bench(found)
    await started(made, 2)
    answers = await made.calls(20)
    attempts = Counter(
        (attempt.replica, attempt.outcome) for each in answers for attempt in each.attempts
    )
    assert attempts["dying", "ok"] == 2
    assert attempts["living", "ok"] == 18
    # Those that were under way, and none after them.
    assert 1 <= attempts["dying", "failed"] <= 3


async def test_a_copy_that_comes_up_later_joins(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcourier.connection.pool.UPDATE_INTERVAL_S", 0.02)
    found = Found(first=Replica(work_s=0.01))
    made = bench(found)
    await started(made, 1)
    found.replicas["second"] = Replica(work_s=0.01)
    async with asyncio.timeout(5):
        while made.manager.capacity < 6:
            await asyncio.sleep(0.01)
    await made.calls(12)
    assert found.replicas["second"].calls > 0
    del found.replicas["second"]
    async with asyncio.timeout(5):
        while made.manager.capacity > 3:
            await asyncio.sleep(0.01)
    assert made.events()["replica_left", "second"] == 1


@pytest.mark.parametrize("turns_of_the_loop", range(12))
async def test_a_run_may_end_while_a_replica_is_removed(
    bench: Make, monkeypatch: pytest.MonkeyPatch, turns_of_the_loop: int
) -> None:
    monkeypatch.setattr("samcourier.connection.pool.UPDATE_INTERVAL_S", 0.001)
    found = Found(stays=Replica(), leaves=Replica())
    made = bench(found)
    await started(made, 2)
    del found.replicas["leaves"]
    async with asyncio.timeout(5):
        while not made.events()["replica_left", "leaves"]:
            await asyncio.sleep(0)
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        await made.manager.close()


async def test_when_all_replicas_die_a_new_one_is_looked_for_at_once(bench: Make) -> None:
    gone = Scripted(error=ServiceGone("client not found"))
    found = Found(old=Replica())
    found.scripts["old"], found.opens["old"] = [gone] * 99, [Scripted()] + [gone] * 99
    made = bench(found)
    await started(made, 1)
    found.replicas = {"new": Replica()}
    answer = await made.call()
    assert answer.attempts[-1].replica == "new"


async def test_a_copy_of_another_model_gets_no_work(bench: Make) -> None:
    found = Found(first=Replica(work_s=0.01), other=Replica(model="another"))
    found.opens["other"] = [Scripted(delay_s=0.05)]
    made = bench(found)
    await made.manager.start(99)
    await made.calls(12)
    assert found.replicas["other"].calls == 0
    assert made.events()["replica_refused", "other"] == 1


@pytest.mark.parametrize(
    "error", [TransportFailed("the connection is closed"), ServiceGone("client not found")]
)
async def test_a_service_that_came_back_with_another_model_gets_no_work(
    bench: Make, error: CourierError
) -> None:
    found = Found(only=Replica())
    made = bench(found, HASTY)
    found.scripts["only"] = [Scripted(error=error)]
    await made.manager.start(99)
    found.replicas["only"].model = "another"
    with pytest.raises(CallFailed, match=r"it is another service: .*'another'.*, expected .*'m'"):
        await made.call()
    assert found.replicas["only"].calls == 0


@pytest.mark.parametrize("error", [Denied("token expired"), ServiceGone("not registered")])
async def test_when_no_copy_opens_the_reason_is_said(bench: Make, error: CourierError) -> None:
    found = Found(only=Replica())
    found.opens["only"] = [Scripted(error=error)] * 9
    made = bench(found, HASTY)
    with pytest.raises(type(error), match=str(error)):
        await made.manager.start(1)
    assert (made.events()["replica_refused", "only"] == 1) == isinstance(error, Denied)


async def test_an_empty_registry_is_in_the_end_a_service_that_is_gone(bench: Make) -> None:
    with pytest.raises(ServiceGone, match="no replica of the service is registered"):
        await bench(Found(), HASTY).manager.start(1)


async def test_a_copy_that_is_registered_in_time_is_waited_for(bench: Make) -> None:
    found = Found()
    starting = asyncio.ensure_future(bench(found).manager.start(1))
    await asyncio.sleep(0.05)
    assert not starting.done()
    found.replicas = {"late": Replica()}
    assert (await starting).model == "m"


@pytest.mark.parametrize(
    "error", [TransportFailed("closed"), Overloaded("HTTP 429"), ServiceGone("not registered")]
)
async def test_a_registry_that_cannot_be_asked_is_asked_again(
    bench: Make, error: CourierError
) -> None:
    found = Found(only=Replica())
    found.failures = [error] * 3
    assert (await bench(found).manager.start(1)).model == "m"
    found.failures = [error] * 99
    with pytest.raises(type(error), match=str(error)):
        await bench(found, HASTY).manager.start(1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Remote error: KeyError: 'services'", TransportFailed),
        ("server rejected WebSocket connection: HTTP 429", Overloaded),
        ("Permission denied for workspace w", Denied),
    ],
)
async def test_a_server_that_cannot_list_services_is_no_failure_of_the_service(
    said: str, expected: type[CourierError]
) -> None:
    class Server:
        async def list_services(self, query: dict[str, str]) -> list[dict[str, str]]:
            raise RuntimeError(said)

    with pytest.raises(expected) as caught:
        await list_services(Server(), Endpoint("https://h", "w", "s", "s-rtc"))
    assert type(caught.value) is expected


async def test_a_call_that_needs_one_replica_goes_to_it(bench: Make) -> None:
    found = Found(a=Replica(), b=Replica(work_s=0.02), c=Replica())
    made = bench(found)
    await started(made, 3)
    # It waits for the slow one, whose capacity is 3.
    answers = await asyncio.gather(*(made.call("b") for _ in range(8)))
    assert {answer.attempts[-1].replica for answer in answers} == {"b"}
    assert found.replicas["b"].most_at_once <= 3


@pytest.mark.parametrize("failure", [TransportFailed("cut"), ServiceGone("gone")])
async def test_another_replica_is_called_when_the_needed_one_is_lost(
    bench: Make, failure: CourierError
) -> None:
    found = Found(a=Replica(), b=Replica())
    found.scripts["b"] = [Scripted(error=failure)]
    made = bench(found)
    await started(made, 2)
    assert [each.replica for each in (await made.call("b")).attempts] == ["b", "a"]
    assert (await made.call("never known")).value
