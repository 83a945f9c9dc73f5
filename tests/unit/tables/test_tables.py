"""The tables of a dataset: all objects, and the summaries by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from samcourier.evaluation.outcome import Outcome
from samcourier.images.geometry import Geometry
from samcourier.outputs.objects import measure, table, write_csv, write_parquet
from samcourier.results.image_log import ImageLog, ImageSeconds, OutputRecord
from samcourier.results.layout import output_path
from samcourier.tables import objects as objects_module
from samcourier.tables.properties import typed_properties
from samcourier.tables.write import write_tables

PARQUET = ("objects_parquet",)
#: Sides of the squares of each image, in pixels of 0.5 µm, in planes of 40 x 50 pixels.
SQUARES = {"a": [2, 4, 6], "b": [4, 8], "c": [], "d": [10]}


def squares(sides: list[int]) -> np.ndarray:
    mask = np.zeros((40, 50), np.uint32)
    for number, side in enumerate(sides, start=1):
        mask[1 : 1 + side, number * 12 : number * 12 + side] = number
    return mask


def outcome_of(
    folder: Path,
    image: str,
    sides: list[int] | None,
    properties: dict[str, str],
    channels: list[str] | None = None,
    name: str = "objects_parquet",
) -> Outcome:
    """Write the table of an image and return its outcome; None for ``sides`` is a failure."""
    if sides is None:
        return Outcome(image, "0001", "failed", "why", None, None, None, properties=properties)
    mask, geometry = squares(sides), Geometry.in_um("YX", (0.5, 0.5))
    channels = channels or [""]
    pixels = np.stack([mask * 10] * len(channels))
    path = output_path(folder, image, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = measure(mask, pixels, channels, {}, geometry)
    made = table(image, "k" * 64, [columns], geometry.pixel_um("YX"))
    (write_parquet if name == "objects_parquet" else write_csv)(path, made)
    record = OutputRecord("m", 1, path.stat().st_size, str(hash((image, tuple(sides)))))
    log = _log(image, len(sides), {name: record})
    return Outcome(image, "0001", "done", None, "k", None, log, properties=properties)


def _log(image: str, count: int, outputs: dict[str, OutputRecord]) -> ImageLog:
    return ImageLog(
        image=image,
        path=f"{image}.tif",
        status="done",
        finished_at="2026-12-01T10:00:00.000Z",
        seconds=ImageSeconds(total=1.0),
        object_count=count,
        shape=(40, 50),
        axes="YX",
        outputs=outputs,
    )


@pytest.fixture
def outcomes(tmp_path: Path) -> list[Outcome]:
    conditions = {"a": "drug", "b": "control", "c": "drug", "d": "control"}
    made = [
        outcome_of(tmp_path, image, sides, {"condition": conditions[image], "dose": "0.5"})
        for image, sides in SQUARES.items()
    ]
    return [*made, outcome_of(tmp_path, "gone", None, {"condition": "drug", "dose": ""})]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_all_objects_are_in_one_table_with_their_properties(
    tmp_path: Path, outcomes: list[Outcome]
) -> None:
    assert write_tables(outcomes, tmp_path, PARQUET) is None
    found = pyarrow.parquet.read_table(tmp_path / "objects.parquet")
    assert found.column_names[:4] == ["image", "condition", "dose", "t"]
    expected = [
        (image, condition, 0.5, number, side * side)
        for (image, sides), condition in zip(
            SQUARES.items(), ("drug", "control", "drug", "control"), strict=True
        )
        for number, side in enumerate(sides, start=1)
    ]
    columns = ("image", "condition", "dose", "id", "area_px")
    assert list(zip(*(found.column(name).to_pylist() for name in columns), strict=True)) == expected


def test_the_summary_has_counts_densities_and_medians(
    tmp_path: Path, outcomes: list[Outcome]
) -> None:
    write_tables(outcomes, tmp_path, PARQUET)
    found = {row["image"]: row for row in rows(tmp_path / "summary.tsv")}
    # A plane of 40 x 50 pixels of 0.25 µm² has 500 µm².
    assert float(found["a"]["area_mm2"]) == pytest.approx(500e-6)
    assert float(found["a"]["density_per_mm2"]) == pytest.approx(3 / 500e-6)
    assert (found["a"]["median_area_px"], found["a"]["median_area_um2"]) == ("16", "4")
    assert float(found["b"]["median_area_px"]) == (16 + 64) / 2
    # The objects 1 and 2 of b have the values 10 and 20.
    assert float(found["b"]["median_intensity_mean"]) == 15
    assert (found["c"]["object_count"], found["c"]["median_area_px"]) == ("0", "")
    assert float(found["c"]["density_per_mm2"]) == 0
    assert (found["gone"]["status"], found["gone"]["object_count"]) == ("failed", "")
    assert found["gone"]["condition"] == "drug"


def test_groups_have_the_images_of_each_value(tmp_path: Path, outcomes: list[Outcome]) -> None:
    write_tables(outcomes, tmp_path, PARQUET)
    found = {(row["property"], row["value"]): row for row in rows(tmp_path / "groups.tsv")}
    assert list(found) == [
        ("(all)", ""),
        *(("condition", value) for value in ("drug", "control")),
        *(("dose", value) for value in ("0.5", "")),
    ]
    drug = found["condition", "drug"]
    assert (drug["images"], drug["images_with_mask"], drug["object_count"]) == ("3", "2", "3")
    assert float(drug["median_count"]) == (3 + 0) / 2
    assert float(drug["density_per_mm2"]) == pytest.approx(3 / 1000e-6)
    control = found["condition", "control"]
    # The median over the images of their medians 40 and 100.
    assert float(control["median_area_px"]) == 70
    alone = found["dose", ""]
    assert (alone["images"], alone["images_with_mask"], alone["median_count"]) == ("1", "0", "")


def test_tables_that_are_up_to_date_are_kept_and_others_made_again(
    tmp_path: Path, outcomes: list[Outcome]
) -> None:
    write_tables(outcomes, tmp_path, PARQUET)
    paths = [tmp_path / name for name in ("objects.parquet", "summary.tsv", "groups.tsv")]
    before = [path.stat().st_mtime_ns for path in paths]
    write_tables(outcomes, tmp_path, PARQUET)
    assert [path.stat().st_mtime_ns for path in paths] == before
    changed = [*outcomes[:3], outcome_of(tmp_path, "d", [10], {"condition": "new", "dose": "1"})]
    write_tables(changed, tmp_path, PARQUET)
    assert {row["condition"] for row in rows(paths[1])} == {"drug", "control", "new"}
    paths[1].unlink()
    write_tables(changed, tmp_path, PARQUET)
    assert paths[1].exists()
    write_tables(changed, tmp_path, ())
    assert not any(path.exists() for path in paths)


def test_images_with_other_channels_and_in_csv_have_empty_cells(tmp_path: Path) -> None:
    made = [
        outcome_of(tmp_path, "0012", [2], {}, ["DAPI"]),
        outcome_of(tmp_path, "b", [4], {}, ["DAPI", "GFP"], "objects_csv"),
    ]
    write_tables(made, tmp_path, ("objects_csv",))
    found = pyarrow.parquet.read_table(tmp_path / "objects.parquet").to_pylist()
    assert [each["image"] for each in found] == ["0012", "b"]
    assert [each["intensity_mean_DAPI"] for each in found] == [10, 10]
    assert [each["intensity_mean_GFP"] for each in found] == [None, 10]
    assert [each["t"] for each in found] == [None, None]


def test_the_values_of_one_csv_do_not_decide_the_types_of_the_others(tmp_path: Path) -> None:
    # The first image has whole numbers in every column.
    made = [
        outcome_of(tmp_path, "a", [1], {}, name="objects_csv"),
        outcome_of(tmp_path, "b", [3, 4], {}, name="objects_csv"),
    ]
    assert write_tables(made, tmp_path, ("objects_csv",)) is None
    found = pyarrow.parquet.read_table(tmp_path / "objects.parquet")
    assert found.column("major_axis_px").to_pylist() == pytest.approx(
        [0, 4 * (2 / 3) ** 0.5, 4 * 1.25**0.5]
    )
    assert found.schema.field("id").type == pa.uint32()


def test_without_a_table_of_any_image_one_line_says_so(tmp_path: Path) -> None:
    failed = [outcome_of(tmp_path, "a", None, {})]
    assert "no image has a table" in str(write_tables(failed, tmp_path, PARQUET))
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_one_group_of_rows(
    tmp_path: Path, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "_ROWS_PER_GROUP", 3)
    write_tables(outcomes, tmp_path, PARQUET)
    stored = pyarrow.parquet.ParquetFile(tmp_path / "objects.parquet")
    groups = [stored.metadata.row_group(n).num_rows for n in range(stored.num_row_groups)]
    assert groups == [3, 3]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "2"], [1, 2]),
        (["1", "", "2.5"], [1.0, None, 2.5]),
        (["-1", "+2"], [-1, 2]),
        (["1e-3", "0"], [0.001, 0.0]),
        (["007", "008"], ["007", "008"]),
        (["0.5", "0"], [0.5, 0.0]),
        (["1", "low"], ["1", "low"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["nan", "1"], ["nan", "1"]),
        (["9" * 30, "1"], [1e30, 1.0]),
        (["", ""], [None, None]),
        (["A1", "B2"], ["A1", "B2"]),
    ],
)
def test_a_property_is_a_number_where_every_value_is_one(
    texts: list[str], expected: list[Any]
) -> None:
    assert typed_properties([{"dose": text} for text in texts])["dose"] == expected


def test_texts_of_properties_are_quoted_in_the_tables(tmp_path: Path) -> None:
    text = 'two words, "quoted"'
    made = [outcome_of(tmp_path, "a", [2], {"condition": text})]
    write_tables(made, tmp_path, PARQUET)
    assert rows(tmp_path / "summary.tsv")[0]["condition"] == text
    stored = pyarrow.parquet.read_table(tmp_path / "objects.parquet")
    assert stored.column("condition").to_pylist() == [text]
    assert isinstance(stored.schema.field("condition").type, type(pa.string()))
