"""A config becomes settings, or one line that names the key, its value and what was expected."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml

from samcourier.errors import InputError
from samcourier.pipeline.config import (
    check_numbers,
    check_subset,
    read_config,
    with_names_as_typed,
)
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
        ({"batch_size": 2.5}, "config.batch_size: 2.5, expected: a whole number of images"),
        ({"batch_size": "two"}, "config.batch_size: 'two', expected: a whole number of images"),
        ({"batch_size": "0x10"}, "config.batch_size: '0x10', expected: a whole number of images"),
        ({"batch_size": "1e400"}, "config.batch_size: '1e400', expected: a whole number of images"),
        ({"service": {"cpus": "nan"}}, "config.service.cpus: 'nan', expected: CPUs above 0"),
        ({"service": {"cpus": "0,5"}}, "config.service.cpus: '0,5', expected: CPUs above 0"),
        ({"retry_failed": "maybe"}, "config.retry_failed: 'maybe', expected: true to try again"),
        ({"retry_failed": 1}, "config.retry_failed: 1, expected: true to try again"),
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
def test_a_refused_config_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as refused:
        read_config({**NAMED, **changes})
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def from_command_line(words: str) -> dict[str, Any]:
    """Return the config as Snakemake makes it of ``--config KEY=VALUE``, on top of NAMED."""
    from snakemake.cli import parse_config

    return {**NAMED, **parse_config([words])}


@pytest.mark.parametrize(
    ("words", "read", "expected"),
    [
        ("batch_size=1e1", lambda each: each.batch_size, 10),
        ("batch_size=12", lambda each: each.batch_size, 12),
        ("retry_failed=true", lambda each: each.retry_failed, True),
        ("images=null", lambda each: each.images, None),
        ('images=["007"]', lambda each: each.images, ("007",)),
        ("images=[001, 1e3, no]", lambda each: each.images, ("001", "1e3", "no")),
        ('parameters={"sigma_px": 3}', lambda each: each.parameters, {"sigma_px": 3}),
        ("parameters={sigma_px: 2.5}", lambda each: each.parameters, {"sigma_px": 2.5}),
        ("parameters={min_area_px: 1e2}", lambda each: each.parameters, {"min_area_px": 100}),
        ("timeouts={attempt_s: 30}", lambda each: each.timeouts.attempt_s, 30.0),
        ("tiles={edge_px: 1024, halo_px: 64}", lambda each: each.tiles.edge_px, 1024),
        ("service={cpus: 0.5}", lambda each: each.service.cpus, 0.5),
        ("service={workspace: null}", lambda each: each.service.workspace, None),
        (
            "service={slurm: {time_min: 90, extra: [--x]}}",
            lambda each: (each.service.slurm.time_min, each.service.slurm.extra),
            (90, ("--x",)),
        ),
        (
            "service={engine: microsam, engine_options: {tile_shape: [384, 384], halo: [64, 64]}}",
            lambda each: each.service.engine_options,
            {"tile_shape": [384, 384], "halo": [64, 64]},
        ),
        (
            "service={engine: microsam, engine_options: {device: null, model: vit_l_lm}}",
            lambda each: each.service.engine_options,
            {"device": None, "model": "vit_l_lm"},
        ),
        # The engine is described by the service alone, which verify asks.
        (
            "service={target: existing, server_url: 'http://a', service_id: s}",
            lambda each: each.service.target,
            "existing",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_nested_value_of_the_command_line_gets_its_type(
    words: str, read: Callable[[RunSettings], Any], expected: Any
) -> None:
    found = read(read_config(from_command_line(words)))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        ("dataset=001", "dataset", "001"),
        ('dataset="001"', "dataset", "001"),
        ("dataset=1e3", "dataset", "1e3"),
        ("dataset=true", "dataset", "true"),
        ("dataset=1_000", "dataset", "1_000"),
        ("images=007", "images", ("007",)),
        ("images=007,008", "images", ("007", "008")),
        ("images=7", "images", ("7",)),
        ("ome_zarr=0.5", "ome_zarr", "0.5"),
        ("batch_size=012", "batch_size", 12),
        ("retry_failed=true", "retry_failed", True),
    ],
)
def test_a_name_on_the_command_line_stays_as_typed(words: str, key: str, expected: Any) -> None:
    name, text = words.split("=")
    config = with_names_as_typed(from_command_line(words), {name: text.strip('"')})
    assert getattr(read_config(config), key) == expected


@pytest.mark.parametrize("words", ["dataset=1", "dataset=12.5", "dataset=True"])
def test_values_that_a_profile_may_change_are_not_names(words: str) -> None:
    config = with_names_as_typed(from_command_line(words), dict([words.split("=")]))
    with pytest.raises(InputError, match="in quotes"):
        read_config(config)


def test_a_whole_float_becomes_an_integer_and_an_integer_stays_one() -> None:
    settings = read_config({**NAMED, "parameters": {"min_area_px": 50.0, "sigma_px": 2}})
    assert json.dumps(settings.parameters) == '{"min_area_px": 50, "sigma_px": 2}'


@pytest.mark.parametrize("given", ["false", "true", "no", 0, 1, "", None, [True]])
def test_a_checkpoint_is_trusted_by_a_boolean_alone(given: Any) -> None:
    options = {"engine": "microsam", "engine_options": {"trust_checkpoint": given}}
    with pytest.raises(InputError, match=r"^config\.service\.engine_options: option 'trust_check"):
        read_config({**NAMED, "service": options})


@pytest.mark.parametrize("given", [True, False])
def test_trust_checkpoint_is_a_boolean(given: bool) -> None:
    options = {"engine": "microsam", "engine_options": {"trust_checkpoint": given}}
    settings = read_config({**NAMED, "service": options})
    assert settings.service.engine_options["trust_checkpoint"] is given


@pytest.mark.parametrize(
    ("service", "parameters", "line"),
    [
        ({}, {"sigma": 3}, "config.parameters: parameter 'sigma' with value 3 is unknown, did you"),
        ({}, {"sigma_px": "three"}, "config.parameters: parameter 'sigma_px' is 'three', expected"),
        ({}, {"min_area_px": 2.5}, "config.parameters: parameter 'min_area_px' is 2.5, expected"),
        ({}, {"sigma_px": True}, "config.parameters: parameter 'sigma_px' is True, expected"),
        (
            {"engine_options": {"device": "cpu"}},
            {},
            "config.service.engine_options: option 'device",
        ),
        (
            {"engine": "microsam", "engine_options": {"tile_shape": [384]}},
            {},
            "config.service.engine_options: option 'tile_shape' is [384], expected a list of 2",
        ),
        (
            {"engine": "microsam", "engine_options": {"mode": "amg"}},
            {"min_size": 3},
            "config.parameters: parameter 'min_size' with value 3 is unknown",
        ),
        (
            {"target": "bioengine", "server_url": "http://a", "engine_options": {"x": 1}},
            {},
            "config.service.engine_options: option 'x' with value 1 is unknown",
        ),
    ],
)
def test_an_engine_known_here_refuses_before_the_run(
    service: dict[str, Any], parameters: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError) as refused:
        read_config({**NAMED, "service": service, "parameters": parameters})
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


#: What stands in the file, and a part of the line.
CHANGED_BY_YAML = [
    ("dataset: 001", "config.dataset: 1, expected: a name"),
    ("dataset: 0x10", "config.dataset: 16, expected: a name"),
    ("dataset: 12:30:00", "config.dataset: 45000, expected: a name"),
    ("dataset: 1_000", "config.dataset: 1000, expected: a name"),
    ("dataset: 1.0e+3", "config.dataset: 1000.0, expected: a name"),
    ("dataset: .inf", "config.dataset: inf, expected: a name"),
    ("dataset: 2026-01-31", "config.dataset: 2026-01-31, expected: a name"),
    ("dataset: 2026-01-31 10:00:00", "config.dataset: 2026-01-31T10:00:00, expected: a name"),
    ("dataset: no", "config.dataset: False, expected: a name"),
    ("dataset: On", "config.dataset: True, expected: a name"),
    ("dataset: ~", "config.dataset: None, expected: a name"),
    ("sheet: 2026-01-31", "config.sheet: 2026-01-31, expected: path of the sample sheet"),
    ("images: [on]", "config.images: True, expected image ids"),
    ("images: [a, 1.50]", "config.images: 1.5, expected image ids"),
    ("images: [2026-01-31]", "config.images: 2026-01-31, expected image ids"),
    ("images: [a, null]", "config.images: None, expected image ids"),
    ("images: no", "config.images: False, expected image ids"),
    ("service: {engine: off}", "config.service.engine: False, expected: watershed"),
    ("service: {workspace: 007}", "config.service.workspace: 7, expected: Hypha workspace"),
    ("service: {authorized_users: [010]}", "config.service.authorized_users.0: 8, expected: an"),
    ("service: {slurm: {account: 0123}}", "config.service.slurm.account: 83, expected: account"),
    ("transport: yes", "config.transport: True, expected: auto"),
    ("parameters: {on: 1}", "config.parameters: the key True, expected a text"),
    ("parameters: {001: 1}", "config.parameters: the key 1, expected a text"),
    ("service: {engine_options: {no: 1}}", "config.service.engine_options: the key False"),
    ("no: 1", "config: the key False, expected a text"),
    ("service: {engine: microsam, engine_options: {model: 001}}", "option 'model' is 1, expected"),
    ("service: {engine: microsam, engine_options: {checkpoint: 2026-01-31}}", "expected values of"),
]


@pytest.mark.parametrize(
    ("text", "line"), CHANGED_BY_YAML, ids=[each[0] for each in CHANGED_BY_YAML]
)
def test_a_name_that_yaml_has_changed_is_refused(text: str, line: str) -> None:
    with pytest.raises(InputError) as refused:
        read_config({**NAMED, **yaml.safe_load(text)})
    assert line in str(refused.value)
    assert "in quotes" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["dataset: '001'", "images: ['001', 'no', '1e3']", "images: 'no'"])
def test_a_name_in_quotes_stays_as_it_is(text: str) -> None:
    given = yaml.safe_load(text)
    settings = read_config({**NAMED, **given})
    assert settings.dataset in ("001", "cells")
    assert settings.images in (None, ("001", "no", "1e3"), ("no",))


@pytest.mark.parametrize(
    ("images", "known", "problem"),
    [
        ([7], {"7", "8"}, None),
        ([7], {"7", "007"}, "the number 7, expected an id in quotes, since YAML reads 007 and 7"),
        (7, {"7", "0x7"}, "the number 7"),
        (["7"], {"7", "007"}, None),
        ([True], {"1", "01"}, None),
        (None, {"1", "01"}, None),
    ],
)
def test_a_number_is_an_id_where_one_alone_is_written_so(
    images: Any, known: set[str], problem: str | None
) -> None:
    if problem is None:
        check_numbers(images, sorted(known))
        return
    with pytest.raises(InputError, match=re.escape(problem)):
        check_numbers(images, sorted(known))


def test_an_id_that_yaml_has_changed_is_named() -> None:
    with pytest.raises(InputError, match="YAML reads 001 as 1: put it in quotes"):
        check_subset(("1",), ["001", "002"], "images.tsv")


def test_settings_cannot_be_changed() -> None:
    settings = read_config(NAMED)
    with pytest.raises(AttributeError):
        settings.dataset = "others"  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"dataset": "cells", "unknown": 1}, RunSettings)
