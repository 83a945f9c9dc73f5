from __future__ import annotations

from typing import Any

import pytest

from samcourier.errors import ServiceFailed
from samcourier.results.service_description import ServiceDescription
from samcourier.segmentation.key import image_key, service_identity

SERVICE: dict[str, Any] = {
    "engine": "watershed", "model": "none", "model_sha256": None, "segmentation_version": 1,
    "versions": {"numpy": "2.0"}, "device": "cpu",
}  # fmt: skip
#: sha256 of the JSON of pixels, PARAMETERS and the first four fields of SERVICE.
KEY = "f8e27e632dc3b81436210982f1ede1d1ab018835ca0505f3355c17bb46afb6c8"
CELLS = {"distribution": {"name": "courier-cells", "version": "1.0"}}
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
        ("p", PARAMETERS, {"distribution": None}, True),
        ("p", PARAMETERS, CELLS, False),
    ],
)
def test_the_key_changes_exactly_with_the_inputs_of_the_labels(
    pixels: str, parameters: dict[str, Any], service: dict[str, Any], is_same: bool
) -> None:
    key = image_key("p", PARAMETERS, SERVICE)
    assert key == KEY
    assert (image_key(pixels, parameters, SERVICE | service) == key) is is_same


def test_each_version_of_an_engine_s_distribution_has_keys_of_its_own() -> None:
    def key(**distribution: str) -> str:
        named = {"name": "courier-cells", "version": "1.0"} | distribution
        return image_key("p", PARAMETERS, SERVICE | {"distribution": named})

    assert key() == image_key("p", PARAMETERS, SERVICE | CELLS)
    assert len({KEY, key(), key(version="1.1"), key(name="cells")}) == 4


def test_a_log_names_the_distribution_only_of_an_engine_that_is_not_built_in() -> None:
    built_in = ServiceDescription(**SERVICE)
    assert list(service_identity(built_in).items()) == list(SERVICE.items())
    assert service_identity(ServiceDescription(**SERVICE, **CELLS)) == SERVICE | CELLS


def test_a_service_that_does_not_say_its_model_has_no_key() -> None:
    with pytest.raises(ServiceFailed, match="lacks model, segmentation_version"):
        image_key("p", {}, {"engine": "watershed", "model_sha256": None})
