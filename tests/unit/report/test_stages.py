"""Where the time went, and what the report says would make a run faster."""

from __future__ import annotations

from typing import Any

import pytest

from samcourier.failure import Failure
from samcourier.report.charts import STAGE_COLOURS, TRANSPORT_COLOURS
from samcourier.report.stages import STAGES, StageUse, advise, stage_seconds, summarise_stages
from samcourier.results.image_log import Attempt, CallBytes, CallSeconds, ImageLog, ImageSeconds


def attempt(outcome: Any = "ok", **seconds: float) -> Attempt:
    error = None if outcome == "ok" else Failure("transport", "TransportFailed", "gone")
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


def test_each_second_counts_in_one_stage() -> None:
    whole = attempt(send=1.0, queue=0.5, service=2.0, receive=0.5)
    found = stage_seconds(
        log(attempt("failed", send=1.0), whole, read=1, pack=2, unpack=3, write=4, outputs=5)
    )
    assert found == {
        "read": 1,
        "pack": 2,
        "up": 1.0,
        "queue": 0.5,
        "service": 2.0,
        "down": 0.5,
        "unpack": 3,
        "write": 9,
        "undivided calls": 0,
        "failed calls": 4.0,
    }


def test_a_call_that_cannot_be_told_apart_is_no_stage_of_its_own() -> None:
    assert stage_seconds(log(attempt()))["undivided calls"] == 4.0


def test_shares_leave_out_masks_that_were_reused() -> None:
    reused = log(note="mask reused: a whole mask was there", read=100)
    uses = summarise_stages([log(attempt(service=3.0), read=1), reused])
    assert uses == [
        StageUse("read", 1, 0.25, 1),
        StageUse("service", 3.0, 0.75, 3.0),
    ]


def test_every_stage_and_transport_has_a_colour_of_its_own() -> None:
    assert tuple(STAGE_COLOURS) == STAGES
    assert len(set(STAGE_COLOURS.values())) == len(STAGES)
    assert len(set(TRANSPORT_COLOURS.values())) == len(TRANSPORT_COLOURS)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({}, "This run segmented no image"),
        ({"service": 0.6, "up": 0.4}, "60% of the images' time was spent at the service. A faster"),
        (
            {"queue": 0.5, "service": 0.2, "up": 0.3},
            "70% of the images' time was spent at the service, 50% waiting while it worked on",
        ),
        (
            {"up": 0.5, "queue": 0.2, "service": 0.2},
            "50% of the images' time went into up. A short",
        ),
        ({"down": 0.9, "service": 0.1}, "90% of the images' time went into down."),
        ({"read": 0.9, "service": 0.1}, "Put the images on a faster or nearer disk"),
        ({"write": 0.9, "service": 0.1}, "Put the results on a faster disk"),
        ({"pack": 0.9, "service": 0.1}, "give it more processor cores"),
        ({"unpack": 0.9, "service": 0.1}, "give it more processor cores"),
        ({"undivided calls": 1.0}, "deploy the one that comes with samcourier"),
        ({"failed calls": 0.2, "service": 0.8}, "20% of the images' time was lost in failed calls"),
        ({"failed calls": 0.1, "service": 0.9}, "90% of the images' time was spent at the service"),
        ({"failed calls": 1.0}, "100% of the images' time was lost in failed calls"),
    ],
)
def test_the_advice_names_what_costs_most(shares: dict[str, float], said: str) -> None:
    assert said in advise([StageUse(stage, share, share, share) for stage, share in shares.items()])
