"""What micro-sam's parameters are and what its encoder gets, without micro-sam."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import WrongAxes, WrongParameter
from samservice.contract.parameters import check_parameters
from samservice.engines.microsam_input import encoder_input, has_content
from samservice.engines.microsam_parameters import MODES, PARAMETERS, arguments_of

DOCS = Path(__file__).parents[4] / "docs/micro-sam.md"
RNG = np.random.default_rng(0)


def spot(side_px: int, height: float, noise: float, shape: tuple[int, int] = (200, 160)) -> Any:
    image = 40 + RNG.normal(0, noise, shape)
    image[70 : 70 + side_px, 50 : 50 + side_px] += height
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("plane", "expected"),
    [
        (np.full((50, 60), 9, np.uint8), False),
        (spot(0, 0, 0.4), False),
        (spot(0, 0, 5), False),
        (spot(0, 0, 40), False),
        (spot(1, 200, 5), False),
        (spot(0, 0, 5) + np.linspace(0, 3, 160).astype(np.uint8), False),
        (spot(10, 6, 0), True),
        (spot(10, 30, 5), True),
        (spot(10, -30, 5), True),
        (spot(40, 30, 30), True),
        (spot(10, 90, 30), True),
        (np.eye(3, dtype=np.uint8) * 200, True),
        (np.arange(50, dtype=np.uint8)[np.newaxis], True),
        (RNG.poisson(1, (300, 300)).astype(np.uint8) * 50, False),
    ],
)
def test_a_plane_of_noise_has_no_content_and_a_dim_object_is_content(
    plane: Any, expected: bool
) -> None:
    assert has_content(plane) is expected


@pytest.mark.parametrize("normalization", ["robust", "minmax", "none"])
@pytest.mark.parametrize(
    ("axes", "shape", "pixels_shape"),
    [
        ("YX", (20, 30), (20, 30)),
        ("CYX", (1, 20, 30), (20, 30)),
        ("CYX", (3, 20, 30), (20, 30, 3)),
        ("ZYX", (4, 20, 30), (4, 20, 30)),
        ("CZYX", (2, 4, 20, 30), (4, 20, 30)),
    ],
)
def test_the_input_has_a_flag_for_each_plane(
    normalization: str, axes: str, shape: Any, pixels_shape: Any
) -> None:
    image = RNG.integers(0, 200, shape).astype(np.uint8)
    image[..., 5:15, 10:20] += 50
    if "Z" in axes:
        image[..., 2, :, :] = 7
    prepared = encoder_input(image, axes, normalization)
    assert prepared.pixels.shape == pixels_shape
    planes = pixels_shape[0] if "Z" in axes else 1
    assert prepared.has_content.shape == (planes,)
    if "Z" in axes:
        assert not prepared.has_content[2]
    if normalization != "robust":
        assert prepared.has_content.sum() == planes - ("Z" in axes)


@pytest.mark.parametrize("normalization", ["robust", "minmax", "none"])
def test_wrong_axes_are_refused(normalization: str) -> None:
    for axes in ("XY", "CYX"):
        with pytest.raises(WrongAxes):
            encoder_input(np.zeros((4, 4), np.uint8), axes, normalization)


@pytest.mark.parametrize("mode", MODES)
def test_each_parameter_is_documented_and_its_default_accepted(mode: str) -> None:
    text = DOCS.read_text()
    for name, schema in PARAMETERS[mode].items():
        row = re.search(rf"^\| `{name}` \| [^|]*`{mode}`[^|]*\|", text, re.MULTILINE)
        assert row or re.search(rf"^\| `{name}` \| all", text, re.MULTILINE), name
        check_parameters({name: schema["default"]}, PARAMETERS[mode])


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"normalization": "percentile"}, "expected one of robust, minmax, none"),
        ({"normalization": None}, "expected one of robust, minmax, none"),
        ({"gap_closing": -1}, "expected integer from 0 to 1000"),
        ({"gap_closing": 1.5}, "expected integer from 0 to 1000"),
        ({"min_z_extent": True}, "expected integer from 0 to 1000"),
        ({"with_background": "no"}, "expected true or false"),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_value_is_refused(mode: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongParameter, match=says):
        check_parameters(parameters, PARAMETERS[mode])


@pytest.mark.parametrize(
    ("mode", "axes", "generate", "merging"),
    [
        ("ais", "YX", {"min_size": 3}, {}),
        ("ais", "ZYX", {"min_size": 3}, {"gap_closing": 1, "with_background": False}),
        ("amg", "YX", {"with_background": False}, {}),
        ("amg", "ZYX", {}, {"gap_closing": 1, "with_background": False}),
    ],
)
def test_arguments_go_where_micro_sam_takes_them(
    mode: str, axes: str, generate: dict[str, Any], merging: dict[str, Any]
) -> None:
    given = {"min_size": 3, "gap_closing": 1, "with_background": False, "normalization": "none"}
    assert arguments_of(given, mode, axes) == (generate, merging)
