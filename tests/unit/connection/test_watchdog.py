"""A transport is lost when neither bytes nor heartbeats move, never because of slow work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from samcourier.connection.deadline import Deadline
from samcourier.connection.link import Link
from samcourier.connection.liveness import Liveness
from samcourier.connection.throughput import Payload
from samcourier.connection.time_limits import Policy
from samcourier.connection.watchdog import Watchdog, loss_reason
from samcourier.errors import CourierError, Overloaded, ServiceGone, TransportFailed
from samcourier.results.connection_log import ConnectionJournal
from samcourier.testing.fake import FakeTransport, Scripted

POLICY = Policy(
    heartbeat_s=0.05,
    silence_s=0.15,
    silence_unmeasured_s=0.15,
    silence_alone_s=5.0,
    open_timeout_s=1.0,
)
FOREVER = Scripted(delay_s=60.0)


@pytest.mark.parametrize(
    ("silence_s", "silence_limit_s", "evidence", "lost"),
    [
        (1, 2, "the service is heard over http", None),
        (
            3,
            2,
            "the service is heard over http",
            "silent for 3.0 s, while the service is heard over http",
        ),
        (3, 2, "http reports it", "silent for 3.0 s, while http reports it"),
        # The service thinks: nobody hears it.
        (99, 2, None, None),
        (100, 2, None, "silent for 100 s"),
        (100, 200, "the service is heard over http", "silent for 100 s"),
    ],
)
def test_what_counts_as_lost(
    silence_s: float, silence_limit_s: float, evidence: str | None, lost: str | None
) -> None:
    assert loss_reason(silence_s, silence_limit_s, evidence, alone_s=100) == lost


def test_heartbeats_become_rarer_while_the_service_computes() -> None:
    now_s = 0.0
    transport = FakeTransport(object())
    liveness = Liveness(transport, Policy(), lambda: now_s)
    liveness.note_opened()
    asked_s = [0.0]
    for quarter in range(1, 4 * 600):
        now_s = quarter / 4
        liveness.check_bytes()
        if liveness.is_heartbeat_due():
            liveness.note_heartbeat_sent()
            asked_s.append(now_s)
            # A question that is not answered is what silence is counted from.
            assert liveness.silence_s() == Policy.heartbeat_s
            # Its own bytes do not count, however many they become.
            transport.moved_bytes += 1000
            liveness.note_heartbeat_answered()
    pauses_s = [after - before for before, after in pairwise(asked_s)]
    assert pauses_s[:5] == [Policy.heartbeat_s] * 5
    assert max(pauses_s) == Policy.heartbeat_max_s
    assert len(asked_s) < 100
    liveness.note_payload()
    now_s += Policy.heartbeat_s
    assert liveness.is_heartbeat_due()


def test_time_in_which_the_process_was_stopped_before_a_heartbeat_does_not_excuse_it() -> None:
    now_s = 0.0
    liveness = Liveness(FakeTransport(object()), Policy(), lambda: now_s)
    liveness.note_opened()
    now_s = 60.0
    liveness.exclude_silence(50.0)
    liveness.note_heartbeat_sent()
    now_s += 3.0
    assert liveness.silence_s() == 3.0 + Policy.heartbeat_s
    liveness.exclude_silence(2.0)
    assert liveness.silence_s() == 1.0 + Policy.heartbeat_s


def test_waiting_calls_learn_the_progress_of_the_service_over_a_busy_transport() -> None:
    now_s = 0.0
    transport = FakeTransport(object())
    liveness = Liveness(transport, Policy(), lambda: now_s)
    liveness.note_opened()
    with liveness.extending(Deadline(now_s, timeout_s=600)):
        for second in range(1, 10):
            now_s = float(second)
            transport.moved_bytes += 1_000_000
            liveness.check_bytes()
            assert not liveness.is_heartbeat_due()
            assert not liveness.is_progress_probe_due()
        now_s = Policy.heartbeat_max_s
        assert liveness.is_progress_probe_due()
        liveness.note_probe_answer({"images_finished": 1})
        assert not liveness.is_progress_probe_due()
    with liveness.extending(Deadline(now_s, timeout_s=8)):
        now_s += 2
        assert liveness.is_progress_probe_due()
    assert not liveness.is_progress_probe_due()


@pytest.mark.parametrize(
    ("counts", "got_on"),
    [
        ([5], False),
        ([5, 6], True),
        ([5, 5], False),
        # Two that stand still behind one name, or one that was started anew.
        ([31, 45, 31, 45], True),
        ([45, 31, 45], False),
        (["6", 7.5, None, {}, True], False),
    ],
)
def test_progress_is_a_count_of_finished_images_above_all_earlier_counts(
    counts: list[Any], got_on: bool
) -> None:
    liveness = Liveness(FakeTransport(object()), Policy(), lambda: 1.0)
    liveness.note_opened()
    for count in counts:
        liveness.note_probe_answer({"images_finished": count})
    assert (liveness.last_progress_s == 1.0) is got_on


class Thinker:
    """A service whose ``segment`` takes as long as a test wants."""

    def __init__(self) -> None:
        self.thinks = asyncio.Event()

    async def segment(self) -> str:
        await self.thinks.wait()
        return "done"

    async def probe(self, payload: bytes, reply_bytes: int) -> dict[str, Any]:
        return {"data": bytes(reply_bytes), "received_unix_s": 0.0, "sent_unix_s": 0.0}


class Pair:
    """A busy WebSocket beside an idle HTTP, both open and watched."""

    def __init__(
        self, journal: Path, used: Iterable[Scripted], witness: Iterable[Scripted]
    ) -> None:
        self.path = journal
        self.journal = ConnectionJournal(journal)
        self.service = Thinker()
        self.transports = [
            # Each is asked first what it is.
            FakeTransport(self.service, name="websocket", manager_calls=[Scripted(), *used]),
            FakeTransport(self.service, name="http", manager_calls=[Scripted(), *witness]),
        ]
        self.used, self.witness = (
            Link(each, self.journal, POLICY, time.monotonic) for each in self.transports
        )
        self._watching: asyncio.Task[None] | None = None

    async def call(self) -> Any:
        """Call over the WebSocket until answered, watched."""
        for link in (self.used, self.witness):
            await link.open()
        watch = Watchdog([self.used, self.witness], POLICY, time.monotonic)
        self._watching = asyncio.ensure_future(watch.run())
        return (await self.used.call("segment", {}, Payload(10, 10), 60.0))[0]

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for link in (self.used, self.witness):
            await link.close()
        self.journal.close()


Make = Callable[..., Pair]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Pair] = []

    def make(used: Iterable[Scripted] = (), witness: Iterable[Scripted] = ()) -> Pair:
        made.append(Pair(tmp_path / "journal.jsonl", used, witness))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_a_silent_transport_is_lost_while_another_one_hears_the_service(pair: Make) -> None:
    with pytest.raises(TransportFailed, match="heard over http") as caught:
        await pair(used=[FOREVER]).call()
    assert caught.value.name == "Silent"


async def test_a_silent_transport_is_lost_if_the_server_reports_the_service_gone(
    pair: Make,
) -> None:
    gone = Scripted(error=ServiceGone("client not found"))
    with pytest.raises(TransportFailed, match="http reports that the service is not available"):
        await pair(used=[FOREVER], witness=[gone]).call()


@pytest.mark.parametrize(
    ("used", "witness"),
    [
        ([], []),
        # Signs of life that are refused come from the far side all the same.
        ([Scripted(error=Overloaded("full"))] * 99, []),
        # Nobody is heard: the service itself is busy.
        ([FOREVER], [FOREVER]),
    ],
    ids=["answers", "refuses", "silent everywhere"],
)
async def test_a_service_may_compute_without_a_time_limit(
    pair: Make, used: list[Scripted], witness: list[Scripted]
) -> None:
    made = pair(used, witness)
    calling = asyncio.ensure_future(made.call())
    await asyncio.sleep(6 * POLICY.silence_s)
    assert not calling.done()
    made.service.thinks.set()
    assert await calling == "done"


async def test_moving_bytes_count_as_liveness(pair: Make) -> None:
    made = pair(used=[FOREVER])
    calling = asyncio.ensure_future(made.call())
    for _ in range(12):
        await asyncio.sleep(POLICY.silence_s / 2)
        made.transports[0].moved_bytes += 100_000
    assert not calling.done()
    made.service.thinks.set()
    assert await calling == "done"


@pytest.mark.parametrize("error", [TransportFailed("reset"), ServiceGone("client not found")])
async def test_a_failed_heartbeat_ends_the_call_at_once(pair: Make, error: CourierError) -> None:
    with pytest.raises(type(error), match=str(error)):
        await pair(used=[Scripted(error=error)], witness=[FOREVER]).call()


async def test_time_in_which_this_process_was_stopped_is_no_silence(pair: Make) -> None:
    made = pair(used=[Scripted(delay_s=0.3)])
    calling = asyncio.ensure_future(made.call())
    await asyncio.sleep(2.5 * POLICY.heartbeat_s)
    time.sleep(2 * POLICY.silence_s)
    await asyncio.sleep(0)
    made.service.thinks.set()
    assert await calling == "done"


async def test_the_journal_records_the_health_of_each_transport(pair: Make) -> None:
    made = pair()
    made.service.thinks.set()
    await made.call()
    await made.used.close()
    lines = [json.loads(line) for line in made.path.read_text().splitlines()]
    health = next(line for line in lines if line["event"] == "health")
    assert {name: health[name] for name in ("transport", "state", "calls", "in_flight")} == {
        "transport": "websocket",
        "state": "open",
        "calls": 1,
        "in_flight": 0,
    }
    assert health["heard_s"] >= 0
    assert (health["bytes_up"], health["reconnects"]) == (10, 0)
