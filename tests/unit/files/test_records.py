"""Records as files: every field there, none else, each of its type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from samcourier.connection.shared_measurements import Measurements
from samcourier.deploy.local.record import LocalRecord
from samcourier.deploy.slurm.supervisor import SlurmPlan, SlurmRecord
from samcourier.files.records import (
    decode,
    decoder,
    read_record,
    read_versioned,
    write_record,
)
from samcourier.results.environment import RunEnvironment
from samcourier.results.image_log import ImageLog
from samcourier.results.manifest import Manifest
from samcourier.results.run_record import RunRecord


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    count: int = 1
    kind: Literal["a", "b"] = "a"


class Outer(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    seconds: float = 0.0
    is_whole: bool = True
    one: Inner = Inner()
    maybe: Inner | None = Inner()
    several: tuple[Inner, ...] = (Inner(), Inner())
    by_name: Annotated[dict[str, Inner], Meta(description="by name")] = field(
        default_factory=lambda: {"x": Inner()}
    )
    anything: dict[str, Any] = field(default_factory=lambda: {"deep": [{"er": None}]})


def on_disk(tmp_path: Path) -> dict[str, Any]:
    write_record(tmp_path / "a.json", Outer())
    value: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    return value


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = Outer("n", 2.5, False, Inner(2, "b"), None, (), {}, {"z": [1, {"y": "\ud800"}]})
    write_record(tmp_path / "a.json", record)
    assert read_record(tmp_path / "a.json", Outer) == record


@pytest.mark.parametrize(
    "inner",
    [
        lambda value: value,
        lambda value: value["one"],
        lambda value: value["maybe"],
        lambda value: value["several"][1],
        lambda value: value["by_name"]["x"],
    ],
)
def test_a_record_less_any_key_or_with_another_is_refused(
    tmp_path: Path, inner: Callable[[Any], dict[str, Any]]
) -> None:
    keys = list(inner(on_disk(tmp_path)))
    for key in keys:
        value = on_disk(tmp_path)
        del inner(value)[key]
        assert decode(Outer, value) is None, key
    value = on_disk(tmp_path)
    inner(value)["another"] = None
    assert keys
    assert decode(Outer, value) is None


@pytest.mark.parametrize(
    ("count", "is_count"),
    [
        (0, True),
        (2**63 - 1, True),
        (-(2**63), True),
        (2**63, False),
        (10**400, False),
        (1.0, False),
        (True, False),
        ("1", False),
        (None, False),
    ],
    ids=str,
)
def test_an_integer_is_one_of_64_bits(count: Any, is_count: bool) -> None:
    assert (decode(Inner, {"count": count, "kind": "a"}) is not None) is is_count


class Bounded(Struct, frozen=True, forbid_unknown_fields=True):
    any: Annotated[int, Meta(description="no bounds")] = 0
    low: Annotated[int, Meta(ge=1), Meta(description="one bound")] = 1
    high: Annotated[int | None, Meta(description="of an optional")] = None
    both: Annotated[int, Meta(gt=0, lt=9)] = 5


@pytest.mark.parametrize(
    ("values", "is_record"),
    [
        ({}, True),
        ({"any": 2**63}, False),
        ({"any": -(2**63)}, True),
        ({"low": 0}, False),
        ({"low": 2**63}, False),
        ({"high": 2**63 - 1}, True),
        ({"high": 2**63}, False),
        ({"both": 0}, False),
        ({"both": 8}, True),
        ({"both": 9}, False),
    ],
    ids=str,
)
def test_an_integer_keeps_the_bounds_of_its_field(values: dict[str, Any], is_record: bool) -> None:
    record = {"any": 0, "low": 1, "high": None, "both": 5}
    assert (decode(Bounded, record | values) is not None) is is_record


@pytest.mark.parametrize(
    "value", [None, 7, [], "text", {"count": 1, "kind": "\ud800"}, {"\ud800": 1}]
)
def test_what_is_no_such_record_is_none(value: Any) -> None:
    assert decode(Inner, value) is None


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_no_record_is_written_with_what_is_no_number(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path / "a.json", replace(Outer(), seconds=seconds))
    with pytest.raises(TypeError, match="set is not JSON"):
        write_record(tmp_path / "a.json", replace(Outer(), anything={"a": {1}}))
    assert list(tmp_path.iterdir()) == []


def test_each_schema_has_its_decoder(tmp_path: Path) -> None:
    def decode_1(value: Any) -> Inner | None:
        return Inner(value["number"])

    decoders = {"s/2": decoder(Inner), "s/1": decode_1}
    write_record(tmp_path / "2.json", Inner(4), "s/2")
    (tmp_path / "1.json").write_text('{"schema": "s/1", "number": 3}')
    (tmp_path / "3.json").write_text('{"schema": "s/3", "count": 3, "kind": "a"}')
    (tmp_path / "list.json").write_text('{"schema": [], "count": 3, "kind": "a"}')
    (tmp_path / "none.json").write_text('{"count": 3, "kind": "a"}')
    assert read_versioned(tmp_path / "2.json", decoders) == Inner(4)
    assert read_versioned(tmp_path / "1.json", decoders) == Inner(3)
    for name in ("3", "list", "none", "absent"):
        assert read_versioned(tmp_path / f"{name}.json", decoders) is None, name


@pytest.mark.parametrize(
    "kind",
    [
        RunEnvironment, ImageLog, LocalRecord, Manifest, Measurements, RunRecord, SlurmPlan,
        SlurmRecord,
    ],
)  # fmt: skip
def test_every_record_is_frozen_and_closed(kind: type[Struct]) -> None:
    assert kind.__struct_config__.frozen
    assert kind.__struct_config__.forbid_unknown_fields
