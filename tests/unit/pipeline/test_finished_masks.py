"""Which finished masks a run would replace, by their logs, and what it says or refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samcourier.errors import InputError
from samcourier.pipeline.finished_masks import (
    FinishedMasks,
    check_replacement,
    find_finished_masks,
)
from samcourier.results.image_log import ImageLog, ImageSeconds, write_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.samples.sheet import ImageRow
from samcourier.settings.run_settings import RunSettings

SERVICE = {
    "engine": "watershed",
    "model": None,
    "model_sha256": None,
    "segmentation_version": 3,
    "versions": {"scikit-image": "0.25"},
    "device": "cpu",
}
CELLS = SERVICE | {"distribution": {"name": "cells", "version": "1.10"}}
NONE = FinishedMasks((), ())
OTHER = FinishedMasks(("a",), ())
OLDER = FinishedMasks((), ("a",))


def leave_log(dataset_dir: Path, status: Any = "done", **changed: Any) -> None:
    path = log_path(dataset_dir, "a")
    path.parent.mkdir(parents=True)
    log = ImageLog(
        image="a",
        path="a.tif",
        status=status,
        finished_at="2026-03-01T10:00:00.000+00:00",
        seconds=ImageSeconds(total=1.0),
        parameters=changed.pop("parameters", {"sigma_px": 1}),
        service=SERVICE | changed,
    )
    write_image_log(path, log)


@pytest.mark.parametrize(
    ("log", "has_mask", "parameters", "row", "service", "expected"),
    [
        ({}, True, {"sigma_px": 1}, {}, SERVICE, NONE),
        ({}, True, {"sigma_px": 1.0}, {}, SERVICE, NONE),
        ({}, True, {"sigma_px": 2}, {}, SERVICE, OTHER),
        ({}, True, {"sigma_px": 2}, {}, None, OTHER),
        ({}, True, {}, {}, None, OTHER),
        ({}, True, {"sigma_px": 2}, {"sigma_px": 1}, SERVICE, NONE),
        ({}, False, {"sigma_px": 2}, {}, SERVICE, NONE),
        ({"status": "failed"}, True, {"sigma_px": 2}, {}, SERVICE, NONE),
        ({"segmentation_version": 2}, True, {"sigma_px": 1}, {}, SERVICE, OLDER),
        ({"segmentation_version": 2}, True, {"sigma_px": 1}, {}, None, NONE),
        ({"segmentation_version": 2}, True, {"sigma_px": 2}, {}, SERVICE, OTHER),
        ({"segmentation_version": 4}, True, {"sigma_px": 1}, {}, SERVICE, NONE),
        ({"engine": "microsam"}, True, {"sigma_px": 1}, {}, SERVICE, OTHER),
        ({}, True, {"sigma_px": 1}, {}, CELLS, OLDER),
        (
            {"distribution": {"name": "cells", "version": "1.9"}},
            *(True, {"sigma_px": 1}, {}, CELLS, OLDER),
        ),
        (
            {"distribution": {"name": "cells", "version": "1.10"}},
            *(True, {"sigma_px": 1}, {}, CELLS, NONE),
        ),
        (
            {"distribution": {"name": "cells", "version": "1.11"}},
            *(True, {"sigma_px": 1}, {}, CELLS, OTHER),
        ),
        (
            {"distribution": {"name": "nuclei", "version": "1.9"}},
            *(True, {"sigma_px": 1}, {}, CELLS, OTHER),
        ),
        (
            {"distribution": {"name": "cells", "version": "1.10"}},
            *(True, {"sigma_px": 1}, {}, SERVICE, OTHER),
        ),
        ({"model_sha256": "1" * 64}, True, {"sigma_px": 1}, {}, SERVICE, OTHER),
        ({"versions": {}, "device": "cuda"}, True, {"sigma_px": 1}, {}, SERVICE, NONE),
    ],
)
def test_a_log_tells_whether_its_mask_is_of_other_settings_or_an_older_version(
    tmp_path: Path,
    log: dict[str, Any],
    has_mask: bool,
    parameters: dict[str, Any],
    row: dict[str, Any],
    service: dict[str, Any] | None,
    expected: FinishedMasks,
) -> None:
    leave_log(tmp_path, **log)
    if has_mask:
        mask_path(tmp_path, "a").mkdir(parents=True)
    rows = [ImageRow("a", Path("a.tif"), parameters=row), ImageRow("new", Path("new.tif"))]
    settings = RunSettings(dataset="cells", parameters=parameters)
    assert find_finished_masks(rows, tmp_path, settings, service) == expected


@pytest.mark.parametrize(
    ("finished", "images", "replaces", "lines"),
    [
        (NONE, ("a",), False, []),
        (OLDER, ("a",), False, []),
        (OLDER, None, False, []),
        (
            OLDER,
            None,
            True,
            ["1 finished mask of an older version of the engine will be made again: a"],
        ),
        (OTHER, None, False, ["1 finished mask with other settings will be made again: a"]),
        (OTHER, ("a",), True, ["1 finished mask with other settings will be made again: a"]),
        (
            FinishedMasks(tuple("abcdefg"), ()),
            None,
            False,
            ["7 finished masks with other settings will be made again: a, b, c, d, e and 2 more"],
        ),
    ],
)
def test_masks_that_a_run_would_replace_are_listed(
    finished: FinishedMasks, images: tuple[str, ...] | None, replaces: bool, lines: list[str]
) -> None:
    settings = RunSettings(dataset="cells", images=images, replace=replaces)
    assert check_replacement(finished, settings) == lines


def test_a_run_of_a_subset_replaces_no_mask_of_other_settings_unasked() -> None:
    settings = RunSettings(dataset="cells", images=("a", "b"))
    with pytest.raises(InputError, match=r"images: a, b already have masks .* replace: true"):
        check_replacement(FinishedMasks(("a", "b"), ()), settings)
