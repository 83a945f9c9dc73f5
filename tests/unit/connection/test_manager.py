"""The connection manager over scripted transports: who carries the call, what follows a failure."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samcourier.connection import ConnectionManager, OnlyReplica
from samcourier.connection.call import Answer, Call, CallFailed
from samcourier.connection.prober import FIRST_HOLD_S
from samcourier.connection.retry import OutageWait, what_next
from samcourier.connection.shared_measurements import Measurements
from samcourier.connection.throughput import Estimate, Pace, Payload
from samcourier.connection.time_limits import Policy
from samcourier.errors import (
    CourierError,
    Denied,
    ImageUnfit,
    InputError,
    Overloaded,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
    TransportFailed,
)
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.service_description import ServiceDescription
from samcourier.testing.fake import FakeTransport, Scripted

#: A testing switch without waiting: pauses of nothing.
PATIENT = Policy(
    overload_wait_s=0.0, webrtc_open_timeout_s=0.2, open_timeout_s=0.5, outage_pause_s=0.01
)
IMPATIENT = replace(PATIENT, outage_limit_s=0.0)


def now() -> dict[str, float]:
    return {"received_unix_s": time.time(), "sent_unix_s": time.time()}


class Echo:
    """A service that answers at once."""

    async def describe(self) -> dict[str, Any]:
        return {"engine": "echo"}

    async def probe(self, payload: bytes, reply_bytes: int) -> dict[str, Any]:
        return {"data": bytes(reply_bytes), **now()}

    async def shout(self, word: str) -> dict[str, Any]:
        return {"word": word.upper(), **now()}


async def take_word(value: Any) -> str:
    return str(value["word"])


HELLO = Call("shout", {"word": "hello"}, Payload(5, 5), take_word)

ok = Scripted()


def failing(error: CourierError) -> Scripted:
    return Scripted(error=error)


class Bench:
    """A manager over scripted transports; the scripts of calls begin after start()."""

    def __init__(
        self, journal: Path, policy: Policy, **transports: dict[str, list[Scripted]]
    ) -> None:
        self.journal = ConnectionJournal(journal)
        self.path = journal
        self.fakes = {
            name: FakeTransport(Echo(), name=name, **script)  # type: ignore[arg-type]
            for name, script in transports.items()
        }
        self.manager = ConnectionManager(
            OnlyReplica(list(self.fakes.values())), self.journal, policy
        )

    async def hello(self) -> Answer[str]:
        return await self.manager.call(HELLO)

    def events(self) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [(line["event"], line.get("transport", "")) for line in lines]


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    made: list[Bench] = []

    def make(policy: Policy = PATIENT, **transports: dict[str, list[Scripted]]) -> Bench:
        made.append(Bench(tmp_path / "journal.jsonl", policy, **transports))
        return made[-1]

    yield make
    for each in made:
        await each.manager.close()
        each.journal.close()


Make = Callable[..., Bench]


async def test_the_first_transport_carries_the_first_call(bench: Make) -> None:
    slow_webrtc = {"opens": [Scripted(delay_s=0.1)]}
    made = bench(websocket={}, webrtc=slow_webrtc)
    assert await made.manager.start(5) == ServiceDescription(engine="echo")
    answer = await made.hello()
    assert answer.value == "HELLO"
    assert [attempt.transport for attempt in answer.attempts] == ["websocket"]


@pytest.mark.parametrize(
    ("calls", "carried_by", "outcomes"),
    [
        ([failing(TransportFailed("closed"))], "http", ["failed", "ok"]),
        ([failing(ServiceGone("not found"))], "http", ["failed", "ok"]),
        ([failing(Overloaded("full"))] * 3, "websocket", ["failed"] * 3 + ["ok"]),
        ([failing(ServiceFailed("model"))], "websocket", ["failed", "ok"]),
    ],
)
async def test_a_failed_attempt_is_followed_by_the_right_one(
    bench: Make, calls: list[Scripted], carried_by: str, outcomes: list[str]
) -> None:
    made = bench(websocket={"calls": [*calls]}, http={})
    await made.manager.start(5)
    await asyncio.sleep(0.05)
    answer = await made.hello()
    assert [attempt.outcome for attempt in answer.attempts] == outcomes
    assert answer.attempts[-1].transport == carried_by
    for attempt in answer.attempts[:-1]:
        assert attempt.error is not None
        assert attempt.error.kind == calls[0].error.kind  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("calls", "cause", "attempt_count"),
    [
        ([failing(ImageUnfit("NaN"))], ImageUnfit, 1),
        ([failing(RequestRefused("sigma"))], RequestRefused, 1),
        ([failing(Denied("token"))], Denied, 1),
        ([failing(ServiceFailed("model"))] * 2, ServiceFailed, 2),
    ],
)
async def test_a_retry_that_cannot_help_is_not_made(
    bench: Make, calls: list[Scripted], cause: type[CourierError], attempt_count: int
) -> None:
    made = bench(websocket={"calls": [*calls]}, http={})
    await made.manager.start(5)
    with pytest.raises(CallFailed) as caught:
        await made.hello()
    assert type(caught.value.cause) is cause
    assert len(caught.value.attempts) == attempt_count


async def test_an_answer_that_does_not_fit_counts_as_a_failed_attempt(bench: Make) -> None:
    async def refuse(_: Any) -> str:
        raise ServiceFailed("wrong shape")

    made = bench(websocket={})
    await made.manager.start(5)
    with pytest.raises(CallFailed) as caught:
        await made.manager.call(Call("shout", {"word": "x"}, Payload(1, 1), refuse))
    assert [attempt.outcome for attempt in caught.value.attempts] == ["failed", "failed"]
    assert isinstance(caught.value.cause, ServiceFailed)


@pytest.mark.parametrize(("images", "more_calls"), [(99, 0), (1, 98)])
async def test_a_failed_transport_backs_off_and_is_probed_before_it_carries_an_image(
    bench: Make, monkeypatch: pytest.MonkeyPatch, images: int, more_calls: int
) -> None:
    monkeypatch.setattr("samcourier.connection.prober._TICK_S", 0.01)
    slow = [Scripted(delay_s=0.05)] * 99
    made = bench(
        replace(PATIENT, first_backoff_s=0.05),
        websocket={"calls": [failing(TransportFailed("closed"))]},
        http={"manager_calls": slow, "calls": slow},
    )
    await made.manager.start(images)
    made.manager.expect(more_calls)
    assert (await made.hello()).attempts[-1].transport == "http"
    assert (await made.hello()).attempts[0].transport == "http"
    async with asyncio.timeout(5):
        while (await made.hello()).attempts[0].transport == "http":
            await asyncio.sleep(0.01)
    history = made.fakes["websocket"].history
    again = history.index("open", 1)
    assert history[again : again + 3] == ["open", "describe", "probe"]
    assert made.events().count(("left", "websocket")) == 1


async def test_a_transport_that_opens_slowly_does_not_delay_the_next(bench: Make) -> None:
    made = bench(
        replace(PATIENT, head_start_s=0.05), websocket={"opens": [Scripted(delay_s=9)]}, http={}
    )
    await made.manager.start(9)
    assert made.manager.current == "http"
    assert ("left", "websocket") not in made.events()


@pytest.mark.parametrize(
    ("webrtc_opens_s", "carried_by"),
    [
        (0.05, ["webrtc", "webrtc", "webrtc"]),
        (FIRST_HOLD_S + 0.1, ["websocket", "webrtc", "webrtc"]),
    ],
)
async def test_images_wait_shortly_until_the_transports_are_compared(
    bench: Make, webrtc_opens_s: float, carried_by: list[str]
) -> None:
    slow = [Scripted(delay_s=0.6)] * 9
    made = bench(
        replace(PATIENT, webrtc_open_timeout_s=1),
        websocket={"calls": slow, "manager_calls": [ok, ok, *slow]},
        webrtc={"opens": [Scripted(delay_s=webrtc_opens_s)]},
    )
    await made.manager.start(9)
    big = Call("shout", {"word": "x"}, Payload(1_000_000, 10), take_word)
    answers = await asyncio.gather(*(made.manager.call(big) for _ in range(3)))
    assert [answer.attempts[0].transport for answer in answers] == carried_by


async def test_images_do_not_wait_if_transfers_are_fast(bench: Make) -> None:
    made = bench(websocket={}, webrtc={"opens": [Scripted(delay_s=9)]})
    await made.manager.start(9)
    await asyncio.sleep(0.05)
    start_s = time.monotonic()
    await asyncio.gather(*(made.hello() for _ in range(3)))
    assert time.monotonic() - start_s < FIRST_HOLD_S


async def test_transports_in_backoff_are_the_last_choice(bench: Make) -> None:
    made = bench(IMPATIENT, websocket={"calls": [failing(TransportFailed("closed"))]})
    await made.manager.start(5)
    with pytest.raises(CallFailed, match="no transport reaches the service"):
        await made.hello()
    assert (await made.hello()).value == "HELLO"


async def test_a_service_that_comes_back_in_time_loses_no_image(bench: Make) -> None:
    lost = failing(TransportFailed("server restarts"))
    made = bench(websocket={"calls": [lost], "opens": [ok, lost, lost]})
    await made.manager.start(5)
    answer = await made.hello()
    assert [attempt.outcome for attempt in answer.attempts] == ["failed"] * 3 + ["ok"]


async def test_an_image_that_times_out_over_the_only_transport_fails_alone(bench: Make) -> None:
    policy = replace(PATIENT, attempt_timeout_s=0.1, image_timeout_s=0.5, outage_limit_s=0.05)
    made = bench(policy, websocket={"calls": [Scripted(delay_s=9)] * 9})
    await made.manager.start(5)
    with pytest.raises(CallFailed) as caught:
        await made.hello()
    assert type(caught.value.cause) is TransportFailed
    assert len(caught.value.attempts) >= 2


async def test_an_image_that_is_lost_again_and_again_fails_alone(bench: Make) -> None:
    too_large = [failing(TransportFailed("413")) for _ in range(99)]
    made = bench(replace(PATIENT, loss_retries=2), websocket={"calls": too_large})
    await made.manager.start(5)
    with pytest.raises(CallFailed, match=r"^413$"):
        await made.hello()
    # It was not heard over the opening that was there, but over each one since.
    assert made.fakes["websocket"].history.count("shout") == 1 + 1 + 2


@pytest.mark.parametrize("error", [TransportFailed("refused"), Overloaded("HTTP 429")])
async def test_a_batch_that_starts_during_an_outage_waits_for_its_end(
    bench: Make, error: CourierError
) -> None:
    outage = [failing(error)] * 3
    made = bench(websocket={"opens": [*outage]}, http={"opens": [*outage]})
    assert await made.manager.start(5) == ServiceDescription(engine="echo")
    assert (await made.hello()).value == "HELLO"


@pytest.mark.parametrize(
    "error", [Denied("expired"), RequestRefused("no probe"), InputError("no such file")]
)
async def test_a_permanent_failure_is_not_retried(bench: Make, error: CourierError) -> None:
    made = bench(websocket={"opens": [failing(error)] * 9})
    with pytest.raises(type(error), match=str(error)):
        await made.manager.start(5)
    assert made.fakes["websocket"].history.count("open") == 1


async def test_when_nothing_opens_every_reason_is_named(bench: Make) -> None:
    made = bench(
        IMPATIENT,
        websocket={"opens": [failing(TransportFailed("refused"))]},
        webrtc={"opens": [Scripted(delay_s=9)]},
    )
    with pytest.raises(ServiceGone, match=r"websocket: refused; webrtc: .*Timeout"):
        await made.manager.start(1)


async def test_a_denied_token_stops_at_once(bench: Make) -> None:
    made = bench(websocket={"opens": [failing(Denied("expired"))]}, http={})
    with pytest.raises(Denied):
        await made.manager.start(1)
    assert "open" not in made.fakes["http"].history


async def test_udp_closed_costs_nothing_but_a_line(bench: Make) -> None:
    made = bench(websocket={}, webrtc={"opens": [Scripted(delay_s=9)]})
    await made.manager.start(9)
    for _ in range(3):
        assert (await made.hello()).attempts[0].transport == "websocket"
    await asyncio.sleep(PATIENT.webrtc_open_timeout_s + 0.1)
    assert ("left", "webrtc") in made.events()


async def test_a_call_has_a_deadline_of_its_own(bench: Make) -> None:
    policy = Policy(attempt_timeout_s=0.1, first_backoff_s=60)
    made = bench(policy, websocket={"calls": [Scripted(delay_s=30)]}, http={})
    await made.manager.start(5)
    await asyncio.sleep(0.05)
    answer = await made.hello()
    assert [attempt.transport for attempt in answer.attempts] == ["websocket", "http"]


def seen(rate: float, age_s: float = 0.0, round_trip_s: float = 0.001) -> Estimate:
    """Return what a job knew ``age_s`` ago of a transport, ``rate`` in bytes/s."""
    return Estimate((round_trip_s,), (Pace(10**6, 10**6 / rate),) * 5, (), time.time() - age_s)


async def test_a_batch_starts_where_the_last_one_ended(bench: Make) -> None:
    made = bench(websocket={}, webrtc={}, http={})
    estimates = {"websocket": seen(1e6), "webrtc": seen(50e6), "http": seen(1e6)}
    await made.manager.start(9, Measurements("s", 0.0, "webrtc", estimates))
    await asyncio.sleep(0.05)
    assert (await made.hello()).attempts[0].transport == "webrtc"
    # Before its first call it opens nothing else, nor in a batch that soon ends.
    assert made.fakes["websocket"].history == made.fakes["http"].history == []


@pytest.mark.parametrize(
    ("expected_calls", "opening_costs_s", "is_opened"),
    [(999, 0.001, True), (999, 99.0, False), (2, 0.0, False)],
)
async def test_a_known_slower_transport_is_opened_beside_where_the_batch_is_long(
    bench: Make,
    monkeypatch: pytest.MonkeyPatch,
    expected_calls: int,
    opening_costs_s: float,
    is_opened: bool,
) -> None:
    monkeypatch.setattr("samcourier.connection.prober._TICK_S", 0.01)
    monkeypatch.setattr("samcourier.connection.prober.DEFAULT_PROBE_COST_S", opening_costs_s)
    made = bench(websocket={"calls": [Scripted(delay_s=0.02)] * 99}, webrtc={}, http={})
    slower = seen(5e6, round_trip_s=0.5)
    estimates = {"websocket": seen(50e6), "webrtc": slower, "http": slower}
    await made.manager.start(expected_calls, Measurements("s", 0.0, "websocket", estimates))
    for _ in range(9):
        await made.hello()
    assert made.fakes["webrtc"].history[:3] == (["open", "describe", "probe"] if is_opened else [])
    # HTTP needs the same server.
    assert made.fakes["http"].history == []


@pytest.mark.parametrize("other", ["webrtc", "http"])
async def test_a_transport_once_known_to_be_slower_is_taken_when_the_one_in_use_gets_slow(
    bench: Make, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr("samcourier.connection.prober._TICK_S", 0.01)
    slow, steady = [Scripted(delay_s=0.1)] * 999, [Scripted(delay_s=0.015)] * 999
    made = bench(websocket={"calls": slow}, **{other: {"calls": steady}})
    image = Call("shout", {"word": "x"}, Payload(5_000_000, 10), take_word)
    # Then they took 0.010 and 0.015 s.
    estimates = {"websocket": seen(500e6), other: seen(333e6, age_s=300)}
    await made.manager.start(999, Measurements("s", 0.0, "websocket", estimates))
    async with asyncio.timeout(5):
        while made.manager.current != other:
            await made.manager.call(image)
    assert ("probe", other) in made.events()


async def test_two_calls_that_fail_together_close_the_transport_once(bench: Make) -> None:
    lost = Scripted(delay_s=0.05, error=TransportFailed("closed"))
    made = bench(websocket={"calls": [lost, lost]}, http={})
    await made.manager.start(9)
    await asyncio.sleep(0.02)
    answers = await asyncio.gather(made.hello(), made.hello())
    assert {answer.attempts[-1].transport for answer in answers} == {"http"}
    assert made.events().count(("left", "websocket")) == 1


@pytest.mark.parametrize(
    ("expected_calls", "travel_s", "looks"),
    [
        # Nobody is left to profit, or nothing to gain, or not enough for what HTTP costs.
        (2, 0.05, {"webrtc": 0, "http": 0}),
        (9, 0.0, {"webrtc": 0, "http": 0}),
        (40, 0.1, {"webrtc": 1, "http": 0}),
        (999, 0.1, {"webrtc": 1, "http": 1}),
    ],
)
async def test_a_probe_is_sent_only_if_it_can_save_more_than_its_cost(
    bench: Make,
    monkeypatch: pytest.MonkeyPatch,
    expected_calls: int,
    travel_s: float,
    looks: dict[str, int],
) -> None:
    monkeypatch.setattr("samcourier.connection.prober._TICK_S", 0.01)
    slow = [Scripted(delay_s=travel_s)] * 9
    made = bench(
        websocket={"manager_calls": [ok, ok, *slow], "calls": slow},
        webrtc={"manager_calls": [ok, *slow]},
        http={},
    )
    await made.manager.start(expected_calls)
    await asyncio.sleep(0.02)
    await made.manager.call(Call("shout", {"word": "x"}, Payload(65536, 10), take_word))
    await asyncio.sleep(0.3)
    assert {name: made.events().count(("probe", name)) for name in looks} == looks
    # The one that needs no server is there in any case, should the other be lost.
    assert made.fakes["webrtc"].history[:3] == ["open", "describe", "probe"]
    assert ("open" in made.fakes["http"].history) == bool(looks["http"])


async def test_a_transport_that_probes_faster_is_tested_with_real_images(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcourier.connection.ranking.WAIT_MAX_S", 9)
    slow, fast = [Scripted(delay_s=0.2)] * 99, [Scripted(delay_s=0.02)] * 99
    made = bench(
        replace(PATIENT, webrtc_open_timeout_s=1),
        websocket={"manager_calls": [ok, ok, *slow], "calls": slow},
        webrtc={"opens": [Scripted(delay_s=0.3)], "manager_calls": fast, "calls": fast},
    )
    await made.manager.start(99)
    image = Call("shout", {"word": "x"}, Payload(65536, 10), take_word)
    await made.manager.call(image)
    answers = await asyncio.gather(*(made.manager.call(image) for _ in range(6)))
    attempts = [answer.attempts[0] for answer in answers]
    # One image at a time is on trial; the others stay on what is proved.
    assert any(each.transport == "webrtc" and "on trial" in each.reason for each in attempts)
    assert any(each.transport == "websocket" for each in attempts)
    assert (await made.manager.call(image)).attempts[0].transport == "webrtc"
    assert made.events().count(("probe", "webrtc")) == 1


async def test_a_transport_abandoned_after_a_slow_probe_is_used_again_if_images_are_fast(
    bench: Make,
) -> None:
    slow, fast = [Scripted(delay_s=0.4)] * 99, [Scripted(delay_s=0.02)] * 99
    made = bench(
        replace(PATIENT, webrtc_open_timeout_s=1),
        websocket={"manager_calls": [ok, ok, Scripted(delay_s=0.1), *fast], "calls": fast},
        webrtc={"manager_calls": [ok, ok, Scripted(delay_s=0.05), *slow], "calls": slow},
    )
    await made.manager.start(999)
    image = Call("shout", {"word": "x"}, Payload(524_288, 10), take_word)
    carried_by = [(await made.manager.call(image)).attempts[0].transport for _ in range(8)]
    assert "webrtc" in carried_by
    assert carried_by[-1] == "websocket"
    assert carried_by.count("webrtc") <= 5


@pytest.mark.parametrize(("calls_at_once", "most_share"), [(1, 1.0), (3, 0.5)])
async def test_the_log_has_the_transfer_time_without_concurrent_calls(
    bench: Make, calls_at_once: int, most_share: float
) -> None:
    made = bench(websocket={"calls": [Scripted(delay_s=0.2)] * 9})
    await made.manager.start(9)
    image = Call("shout", {"word": "x"}, Payload(65536, 10), take_word)
    answers = await asyncio.gather(*(made.manager.call(image) for _ in range(calls_at_once)))
    for attempt in (answer.attempts[0] for answer in answers):
        assert attempt.seconds.send is not None and attempt.seconds.receive is not None
        assert attempt.travel_alone_s is not None
        share = attempt.travel_alone_s / (attempt.seconds.send + attempt.seconds.receive)
        assert 0 < share <= most_share


async def test_a_service_without_describe_is_still_called(bench: Make) -> None:
    made = bench(
        websocket={"manager_calls": [failing(RequestRefused("none", name="NoSuchMethod"))]}
    )
    assert (await made.manager.start(5)).is_empty
    assert (await made.hello()).value == "HELLO"


@pytest.mark.parametrize(
    ("error", "failures", "step"),
    [
        (TransportFailed("x"), 0, "next_transport"),
        (ServiceGone("x"), 1, "next_transport"),
        (Overloaded("x"), 0, "wait"),
        (ServiceFailed("x"), 1, "retry"),
        (ServiceFailed("x"), 2, "give_up"),
        (ImageUnfit("x"), 0, "give_up"),
        (RequestRefused("x"), 0, "give_up"),
        (Denied("x"), 0, "give_up"),
    ],
)
def test_what_may_be_retried(error: CourierError, failures: int, step: str) -> None:
    assert what_next(error, failures, Policy()) == step


LOST, GONE = TransportFailed("lost"), ServiceGone("not found")


@pytest.mark.parametrize(
    ("rounds", "ending"),
    [
        # At which second a round failed, by what, and whether the far side was heard in it.
        ([(0, LOST, False), (29, LOST, False)], None),
        ([(0, LOST, False), (29, LOST, False), (31, LOST, False)], "gone"),
        # Images that take longer than the outage limit, or two short losses, are no service gone.
        ([(600, LOST, True), (1201, LOST, True), (1803, LOST, True)], None),
        ([(0, LOST, False), (20, LOST, False), (25, LOST, True), (40, LOST, False)], None),
        ([(0, LOST, True), (20, LOST, False), (29, LOST, False), (31, LOST, False)], "gone"),
        # A server that is there may say that the service is not.
        ([(0, GONE, True), (20, GONE, True), (31, GONE, True)], "gone"),
        ([(0, LOST, True), (2, LOST, True), (5, LOST, True), (10, LOST, True)], "lost"),
    ],
)
async def test_how_long_a_service_is_waited_for(
    rounds: list[tuple[int, CourierError, bool]], ending: str | None
) -> None:
    policy = Policy(outage_limit_s=30, outage_pause_s=0, loss_retries=3)
    now_s = 0.0
    outage_wait = OutageWait(policy, lambda: now_s)
    go_on = []
    for at_s, error, was_heard in rounds:
        now_s = at_s
        outage_wait.note(error, was_heard=was_heard)
        go_on.append(await outage_wait.pause())
    assert go_on == [True] * (len(rounds) - 1) + [ending is None]
    if ending is not None:
        assert str(outage_wait.ending(ServiceGone("gone"))) == ending


def test_pauses_until_a_service_is_back_double_up_to_a_bound() -> None:
    pauses = [Policy().pause_s(pauses) for pauses in (0, 1, 2, 3, 4, 5, 10_000)]
    assert pauses == [1, 2, 4, 8, 16, 16, 16]


def test_overload_pauses_double_up_to_a_bound() -> None:
    policy = Policy(overload_wait_s=0.5, overload_wait_max_s=20)
    pauses = [policy.overload_ceiling_s(waits) for waits in (0, 1, 2, 3, 10, 10_000)]
    assert pauses == [0.5, 1, 2, 4, 20, 20]
