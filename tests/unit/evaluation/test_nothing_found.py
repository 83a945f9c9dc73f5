"""The sentence about images without an object, by the counts and engines of a run."""

from __future__ import annotations

import pytest

from samcourier.evaluation.nothing_found import has_found_little, nothing_found_sentence
from samcourier.evaluation.outcome import Outcome
from samcourier.results.image_log import ImageLog, ImageSeconds


def outcome(object_count: int | None, engine: str = "watershed") -> Outcome:
    """An image with ``object_count`` objects, None for one that failed."""
    status = "failed" if object_count is None else "done"
    log = ImageLog(
        image="a",
        path="a.tif",
        status=status,  # type: ignore[arg-type]
        finished_at="2026-03-01T10:00:00.000+00:00",
        seconds=ImageSeconds(total=1.0),
        object_count=object_count,
        service={"engine": engine},
    )
    return Outcome("a", "0001", status, None, None, None, log)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "engine", "sentence", "is_little"),
    [
        ([], "watershed", None, False),
        ([3, 1], "watershed", None, False),
        ([None, None], "watershed", None, False),
        ([0, 2, 2], "watershed", "1 of 3 images have no object", False),
        (
            [0, 2],
            "watershed",
            "1 of 2 images have no object; the engine watershed is for bright nuclei on a dark"
            " ground",
            True,
        ),
        (
            [0] * 6,
            "watershed",
            "6 of 6 images have no object; the engine watershed is for bright nuclei on a dark"
            " ground",
            True,
        ),
        ([0, None], "microsam", "1 of 1 images have no object", True),
        ([0], "of_another_package", "1 of 1 images have no object", True),
    ],
)
def test_images_without_an_object_are_counted(
    counts: list[int | None], engine: str, sentence: str | None, is_little: bool
) -> None:
    outcomes = [outcome(count, engine) for count in counts]
    assert nothing_found_sentence(outcomes) == sentence
    assert has_found_little(outcomes) is is_little
