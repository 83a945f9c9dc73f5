from __future__ import annotations

import re
from typing import Any

import pytest

from samcourier.errors import ServiceFailed
from samcourier.segmentation.key import image_key

SERVICE = {
    "engine": "watershed", "model": "none", "model_sha256": None, "segmentation_version": 1,
    "versions": {"numpy": "2.0"}, "device": "cpu",
}  # fmt: skip
PARAMETERS = {"sigma": 1.5, "mode": "fast"}


@pytest.mark.parametrize(
    ("pixels", "parameters", "service", "is_same"),
    [
        ("p", {"mode": "fast", "sigma": 1.5}, {}, True),
        ("p", PARAMETERS, {"versions": {"numpy": "2.1"}, "device": "cuda"}, True),
        ("q", PARAMETERS, {}, False),
        ("p", {"sigma": 1.5}, {}, False),
        ("p", PARAMETERS | {"sigma": 1.6}, {}, False),
        ("p", PARAMETERS, {"engine": "microsam"}, False),
        ("p", PARAMETERS, {"model": "vit_b_lm"}, False),
        ("p", PARAMETERS, {"model_sha256": "00"}, False),
        ("p", PARAMETERS, {"segmentation_version": 2}, False),
    ],
)
def test_the_key_changes_exactly_with_the_inputs_of_the_labels(
    pixels: str, parameters: dict[str, Any], service: dict[str, Any], is_same: bool
) -> None:
    key = image_key("p", PARAMETERS, SERVICE)
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert (image_key(pixels, parameters, SERVICE | service) == key) is is_same


def test_a_service_that_does_not_say_its_model_has_no_key() -> None:
    with pytest.raises(ServiceFailed, match="lacks model, segmentation_version"):
        image_key("p", {}, {"engine": "watershed", "model_sha256": None})
