"""Tests of the time by stage, and of the advice that makes a run faster."""

from __future__ import annotations

from typing import Any

import pytest

from samcourier.failure import Failure
from samcourier.report.charts import STAGE_COLOURS, TRANSPORT_COLOURS
from samcourier.report.stages import (
    SERVICE_STAGES,
    STAGES,
    StageUse,
    advise,
    stage_seconds,
    summarise_stages,
)
from samcourier.results.image_log import Attempt, CallBytes, CallSeconds, ImageLog, ImageSeconds


def attempt(outcome: Any = "ok", **seconds: float) -> Attempt:
    error = None if outcome == "ok" else Failure("transport", "TransportFailed", "channel closed")
    return Attempt(
        transport="http",
        reason="",
        started_at="2026-03-01T10:00:00Z",
        outcome=outcome,
        error=error,
        seconds=CallSeconds(**{"total": 4.0, **seconds}),
        bytes=CallBytes(1, 1),
    )


def log(*attempts: Attempt, note: str | None = None, **seconds: float) -> ImageLog:
    return ImageLog(
        image="a",
        path="a.tif",
        status="done",
        finished_at="2026-03-01T10:00:10Z",
        seconds=ImageSeconds(total=10, **seconds),
        attempts=attempts,
        note=note,
    )


def test_the_stages_of_the_service_make_up_its_seconds() -> None:
    found = stage_seconds(log(attempt(send=1.0, service=2.0, prepare=0.25, infer=1.0, finish=0.5)))
    parts = {stage: found[stage] for stage in SERVICE_STAGES}
    assert list(parts.values()) == [0.25, 0.25, 1.0, 0.5]
    assert sum(found.values()) == 3.0


def test_each_second_counts_in_exactly_one_stage() -> None:
    complete = attempt(send=1.0, queue=0.5, service=2.0, receive=0.5)
    found = stage_seconds(
        log(attempt("failed", send=1.0), complete, read=1, pack=2, unpack=3, write=4, outputs=5)
    )
    assert found == {
        "read": 1,
        "pack": 2,
        "send": 1.0,
        "queue": 0.5,
        "service": 2.0,
        "service: prepare": 0,
        "service: model": 0,
        "service: finish": 0,
        "receive": 0.5,
        "unpack": 3,
        "write": 9,
        "calls without stage times": 0,
        "failed calls": 4.0,
    }


def test_a_call_without_stage_times_has_its_own_row() -> None:
    assert stage_seconds(log(attempt()))["calls without stage times"] == 4.0


def test_reused_masks_do_not_count_in_the_shares() -> None:
    reused = log(note="mask reused: a whole mask was there", read=100)
    uses = summarise_stages([log(attempt(service=3.0), read=1), reused])
    assert uses == [
        StageUse("read", 1, 0.25, 1),
        StageUse("service", 3.0, 0.75, 3.0),
    ]


def test_every_stage_and_transport_has_its_own_colour() -> None:
    assert tuple(STAGE_COLOURS) == STAGES
    assert len(set(STAGE_COLOURS.values())) == len(STAGES)
    assert len(set(TRANSPORT_COLOURS.values())) == len(TRANSPORT_COLOURS)


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ({}, "This run segmented no image"),
        (
            {"service": 0.6, "send": 0.4},
            "60% of the images' time was spent at the service. A faster GPU",
        ),
        (
            {"queue": 0.5, "service": 0.2, "send": 0.3},
            "70% of the images' time was spent at the service, 50% in the service's queue. A",
        ),
        (
            {"send": 0.5, "queue": 0.2, "service": 0.2},
            "50% of the images' time was spent in the stage 'send'. A faster connection to",
        ),
        (
            {"receive": 0.9, "service": 0.1},
            "90% of the images' time was spent in the stage 'receive'.",
        ),
        ({"read": 0.9, "service": 0.1}, "Put the images on a faster or local disk"),
        ({"write": 0.9, "service": 0.1}, "Put the results on a faster disk"),
        ({"pack": 0.9, "service": 0.1}, "give it more processor cores"),
        ({"unpack": 0.9, "service": 0.1}, "give it more processor cores"),
        ({"calls without stage times": 1.0}, "deploy the service that comes with samcourier"),
        ({"failed calls": 0.2, "service": 0.8}, "Failed calls took 20% of the images' time"),
        ({"failed calls": 0.1, "service": 0.9}, "90% of the images' time was spent at the service"),
        ({"failed calls": 1.0}, "Failed calls took 100% of the images' time"),
    ],
)
def test_the_advice_is_about_the_stage_with_most_of_the_time(
    shares: dict[str, float], text: str
) -> None:
    assert text in advise([StageUse(stage, share, share, share) for stage, share in shares.items()])
