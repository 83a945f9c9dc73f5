"""How many calls are kept in flight, from what the service reports."""

from __future__ import annotations

from typing import Any

import pytest

from samcourier.connection.flow import ServiceLoad, calls_at_once


@pytest.mark.parametrize(
    ("depth", "max_queue", "in_flight", "caller_images", "expected"),
    [
        # Two more than the pipeline needs are travelling.
        (1, 32, 0, None, 3),
        (9, 32, 4, None, 11),
        (9, 8, 4, None, 8),
        (9, None, 4, None, 11),
        (1000, 2000, 4, None, 64),
        # Alone: the images at the service are its own.
        (9, 32, 5, 5, 11),
        (9, 32, 5, 3, 11),
        # Half of the user's images are of other jobs.
        (8, 32, 5, 10, 5),
        # Eight jobs with three each, of which all together need three.
        (1, 32, 3, 24, 1),
        (4, 32, 1, 8, 1),
        (22, 64, 3, 24, 3),
    ],
)
def test_jobs_of_one_user_share_the_depth(
    depth: int, max_queue: int | None, in_flight: int, caller_images: int | None, expected: int
) -> None:
    assert calls_at_once(depth, max_queue, in_flight, caller_images) == expected


@pytest.mark.parametrize("jobs", [1, 2, 5, 8, 20])
def test_jobs_together_come_to_the_depth_and_each_keeps_one(jobs: int) -> None:
    depth = 14
    limits = [calls_at_once(depth, 64)] * jobs
    for _ in range(10):
        limits = [calls_at_once(depth, 64, limit, sum(limits)) for limit in limits]
    assert max(depth + 2, jobs) <= sum(limits) <= max(depth + 2, jobs) + jobs


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, ServiceLoad()),
        ([], ServiceLoad()),
        ({}, ServiceLoad()),
        ({"pipeline_depth": 9, "caller_images": 0, "callers": 2}, ServiceLoad(9, 0, 2)),
        ({"pipeline_depth": 0, "callers": 0}, ServiceLoad()),
        (
            {"pipeline_depth": 9, "device_busy": 0.5, "images_per_s": 12},
            ServiceLoad(9, device_busy=0.5, images_per_s=12.0),
        ),
        *(
            ({"device_busy": odd, "images_per_s": odd}, ServiceLoad())
            for odd in (-0.1, float("nan"), float("inf"), 1e9, 10**400, "1", True, None, [1])
        ),
        ({"pipeline_depth": True, "caller_images": -1, "callers": 1.0}, ServiceLoad()),
        ({"pipeline_depth": 10**9, "caller_images": "3", "callers": None}, ServiceLoad()),
    ],
)
def test_only_plausible_counts_are_believed(answer: Any, expected: ServiceLoad) -> None:
    assert ServiceLoad.of(answer) == expected
