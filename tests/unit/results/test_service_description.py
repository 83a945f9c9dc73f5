"""What a service says of itself is its word alone: odd parts are left out, unknown ones ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from samcourier.errors import ServiceFailed
from samcourier.results.service_description import (
    CallLimits,
    Gpu,
    RecentWork,
    ServiceDescription,
    checked_description,
    is_older_version,
    version_text,
)
from samservice.engines.watershed import WatershedEngine
from samservice.server.app import SegmentationService


def described(**answer: Any) -> ServiceDescription:
    return ServiceDescription.of(checked_description(answer))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([1], "by list"),
        ("text", "by str"),
        (None, "by NoneType"),
        ({"engine": float("nan")}, "not JSON"),
        ({"engine": b"bytes"}, "not JSON"),
        ({"engine": "x" * (1 << 20)}, "expected a mapping of at most 1048576"),
    ],
)
def test_an_odd_description_is_the_services_failure(answer: Any, problem: str) -> None:
    with pytest.raises(ServiceFailed, match=problem):
        checked_description(answer)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"limits": {"in_parallel": 2, "max_queue": 0, "max_pixels": "9"}}, {"in_parallel": 2}),
        ({"limits": {"max_image_bytes": True, "max_pixels": -1}}, {}),
        ({"limits": 7}, None),
    ],
)
def test_odd_limits_are_left_out(said: dict[str, Any], kept: object) -> None:
    assert checked_description(said).get("limits") == kept


def test_limits_that_are_left_out_are_those_of_an_older_service() -> None:
    odd = {"in_parallel": 0, "max_queue": -1, "max_pixels": 1.5, "max_image_bytes": True}
    assert described(limits=odd | {"max_probe_bytes": 7}).limits == CallLimits(max_probe_bytes=7)
    assert described(limits={"max_queue": 1 << 63}).limits == CallLimits()
    assert described(limits=7).limits == described().limits == CallLimits()


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("parameters", {"a": 1}),
        ("parameters", ["a"]),
        ("image_statistics", {"a": 1}),
        ("image_statistics", "levels"),
        ("image_statistics", [1]),
        ("embedding_parameters", "sigma"),
        ("embedding_bytes", {"a": 1}),
        ("embedding_bytes", 0),
        ("embedding_bytes", 10**400),
        ("embeddings", 1),
        ("gpu", {"memory_bytes": 1}),
        ("gpu", {"name": "L4", "memory_bytes": 0}),
        ("gpu", {"name": "L4", "memory_bytes": 1, "\ud800": 1}),
        ("model_cache", ["folder"]),
        ("recent", {"images": 0, "pixels": 0, "seconds": 0}),
        ("recent", {"images": 1, "pixels": 9, "seconds": 0}),
        ("recent", {"images": 1, "pixels": 9}),
        *((name, None) for name in ("parameters", "image_statistics", "gpu", "recent", "limits")),
    ],
)
def test_what_has_another_form_is_left_out(name: str, odd: object) -> None:
    assert checked_description({"engine": "x", name: odd}) == {"engine": "x"}
    assert described(engine="x", **{name: odd}) == ServiceDescription(engine="x")


def test_what_has_its_form_is_typed() -> None:
    found = described(
        gpu={"name": "L4", "memory_bytes": 9, "clock_hz": 1},
        recent={"images": 2, "pixels": 50, "seconds": 3},
        parameters={"sigma": {"type": "number"}},
        image_statistics=["levels"],
    )
    assert found.gpu == Gpu("L4", 9)
    assert found.recent == RecentWork(2, 50, 3.0)
    assert found.parameters == {"sigma": {"type": "number"}}
    assert found.image_statistics == ("levels",)


@pytest.mark.parametrize("name", ["engine", "model", "model_sha256", "segmentation_version"])
@pytest.mark.parametrize("value", [None, 7, "x", ["a"], {"b": 1}])
def test_what_decides_the_labels_is_kept_as_it_came(name: str, value: object) -> None:
    """It goes into the keys of masks, whatever it is."""
    assert described(**{name: value}).identity[name] == value


def cells(version: Any, name: str = "cells", segmentation_version: Any = 2) -> dict[str, Any]:
    """Return a service whose engine is of a distribution; without one for None."""
    service = {"engine": "e", "model": "m", "model_sha256": None}
    service |= {"segmentation_version": segmentation_version}
    named = {"distribution": {"name": name, "version": version}}
    return service if version is None else service | named


@pytest.mark.parametrize(
    ("service", "current", "is_older"),
    [
        (cells("1.0"), cells("1.0"), False),
        (cells("1.9"), cells("1.10"), True),
        (cells("1.10"), cells("1.9"), False),
        (cells("1.0rc1"), cells("1.0"), True),
        (cells("1.0"), cells("1.0+local"), True),
        (cells("1.0"), cells("1.0.0"), False),
        (cells("1.0"), cells("2.0", "other"), False),
        (cells("old"), cells("1.0"), False),
        (cells("1.0"), cells("new"), False),
        (cells(1), cells("2.0"), True),
        (cells(None), cells("1.0"), True),
        (cells("1.0"), cells(None), False),
        (cells(None, segmentation_version=3), cells("1.0"), False),
        (cells("1.0", segmentation_version=1), cells("1.0"), True),
        (cells("1.0", segmentation_version=1), cells("1.1"), True),
        # One of the two rose while the other fell: neither is the older one.
        (cells("1.0", segmentation_version=3), cells("1.1"), False),
        (cells("1.1", segmentation_version=1), cells("1.0"), False),
        (cells("1.0") | {"model": "n"}, cells("1.1"), False),
        (cells("1.0") | {"distribution": "cells 1.0"}, cells("1.1"), False),
    ],
)
def test_a_service_is_older_by_its_version_or_that_of_its_distribution(
    service: dict[str, Any], current: dict[str, Any], is_older: bool
) -> None:
    assert is_older_version(service, current) is is_older


def test_the_version_of_a_service_names_its_distribution() -> None:
    assert version_text(cells(None)) == "2"
    assert version_text(cells("1.0")) == "2 (cells 1.0)"


@pytest.mark.parametrize("value", ["cells 1.0", ["cells", "1.0"], {"name": "cells", "version": 1}])
def test_a_distribution_of_another_form_is_ignored(value: object) -> None:
    assert described(engine="x", distribution=value) == described(engine="x")


def test_what_a_newer_service_tells_is_ignored_but_kept_for_the_records() -> None:
    answer = {"engine": "x", "colour": {"of": "night"}, "\ud800": 1, "limits": {"max_depth": 3}}
    assert checked_description(answer) == answer
    assert described(**answer) == ServiceDescription(engine="x")


def test_a_service_that_says_nothing_known_is_as_one_without_describe() -> None:
    assert described().is_empty
    assert described(colour="red", gpu=None).is_empty
    assert not described(engine="x").is_empty


async def test_the_service_of_this_repository_says_all_of_it() -> None:
    service = SegmentationService(WatershedEngine())
    try:
        answer = json.loads(json.dumps(await service.describe()))
    finally:
        service.close()
    found = described(**answer)
    assert checked_description(answer) == {k: v for k, v in answer.items() if k != "recent"}
    assert found.engine == "watershed"
    assert found.limits.max_pixels == answer["limits"]["max_pixels"]
    assert found.wire == answer["wire"]
    assert list(found.parameters or ()) == list(answer["parameters"])
    assert set(found.image_statistics) == set(answer["image_statistics"])
