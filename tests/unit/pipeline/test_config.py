"""A config becomes settings, or one line that names the key, its value and what was expected."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest

from samcourier.errors import InputError
from samcourier.pipeline.config import read_config
from samcourier.settings.run_settings import RunSettings

NAMED = {"dataset": "cells", "sheet": "images.tsv"}


def test_a_config_of_two_keys_has_every_default() -> None:
    assert read_config(NAMED) == RunSettings(**NAMED)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("ome_zarr", 0.5, "0.5"),
        ("ome_zarr", "0.5", "0.5"),
        ("retry_failed", "true", True),
        ("retry_failed", False, False),
        ("images", "a, b", ("a", "b")),
        ("images", ["a", 7], ("a", "7")),
        ("images", 7, ("7",)),
        ("images", None, None),
        ("outputs", "tiff,preview", ("tiff", "preview")),
        ("outputs", [], ()),
        ("parameters", {"sigma_px": 2}, {"sigma_px": 2}),
        ("embeddings_max_gb", 3, 3.0),
    ],
)
def test_the_forms_of_the_command_line_mean_the_same(key: str, given: Any, expected: Any) -> None:
    assert getattr(read_config({**NAMED, key: given}), key) == expected


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch_size": 2.0}, "config.batch_size: Expected `int`, got `float`"),
        ({"batch_size": True}, "config.batch_size: True, expected: a whole number of images"),
        ({"outputs": ["tif"]}, "config.outputs: 'tif', did you mean 'tiff'? expected tiff, "),
        ({"service": 3}, "config.service: 3, expected: the service to use, a mapping of keys"),
        (
            {"network": {"ice_servers": [{"urls": 3}]}},
            "config.network.ice_servers.0.urls: 3, expected: e.g. turn:",
        ),
        ({"parameters": {"when": datetime.date(2026, 1, 1)}}, "config.parameters: {'when': dat"),
        ({"parameters": {"sigma_px": float("nan")}}, "config.parameters: {'sigma_px': nan}, exp"),
        ({"service": {"slurm": {"time_min": 0}}}, "config.service.slurm.time_min: 0, expected: w"),
        ({"sheet": None}, "config.sheet: None, expected: path of the sample sheet"),
    ],
)
def test_what_is_refused_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as refused:
        read_config({**NAMED, **changes})
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_settings_cannot_be_changed() -> None:
    settings = read_config(NAMED)
    with pytest.raises(AttributeError):
        settings.dataset = "others"  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"dataset": "cells", "unknown": 1}, RunSettings)
