"""Further columns of the sheet: which are properties, which are typos, and where they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from samcourier.errors import InputError
from samcourier.outputs.objects import measure
from samcourier.pipeline.digests import report_digest, settings_digest
from samcourier.report.table import COLUMNS as REPORT_COLUMNS
from samcourier.samples.discovery import find_images
from samcourier.samples.format import format_found_sheet, format_sheet, known_rows
from samcourier.samples.properties import ANY, property_problem
from samcourier.samples.sheet import COLUMNS, parse_sheet, rows_digest
from samcourier.settings.run_settings import RunSettings

SHEET = Path("images.tsv")


def typo(column: str) -> str:
    return f"did you mean {column!r}"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        # Properties, also those that only look like columns.
        *((name, None) for name in ("condition", "replicate", "dose", "well", "row", "column")),
        *((name, None) for name in ("plate", "time", "mode", "treatment (µM)", "x", "dose_um")),
        *(
            (name, None)
            for name in ("path_of_raw", "image_date", "model_organism", "channels_used")
        ),
        # One letter inserted, deleted, replaced or swapped; another case.
        ("imge", typo("image")),
        ("images", typo("image")),
        ("iamge", typo("image")),
        ("Image", typo("image")),
        ("pth", typo("path")),
        ("paht", typo("path")),
        ("chanel", typo("channel")),
        ("chanell", None),
        ("Trut", typo("truth")),
        ("modle", typo("model")),
        ("foregound", typo("foreground")),
        ("parameter", typo("parameters")),
        ("Z", typo("z")),
        ("pixel_size", typo("pixel_size_um")),
        ("pixel size (um)", typo("pixel_size_um")),
        # The tables' own columns.
        ("area_px", "the tables of a run use themselves"),
        ("Object_Count", "the tables of a run use themselves"),
        ("intensity_mean_DAPI", "the tables of a run use themselves"),
        (b"a\\x07b".decode("unicode_escape"), "expected printable text"),
        ("n" * 101, "expected printable text"),
    ],
)
def test_a_further_column_is_a_property_or_a_problem(name: str, problem: str | None) -> None:
    found = property_problem(name, None)
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize("name", sorted({*COLUMNS, *(each.name for each in REPORT_COLUMNS)}))
def test_no_column_of_the_sheet_or_the_report_can_be_a_property(name: str) -> None:
    assert name in COLUMNS or property_problem(name, None) is not None
    assert name in COLUMNS or property_problem(name, [name]) is not None


def test_no_column_of_the_object_table_can_be_a_property() -> None:
    import numpy as np

    from samcourier.images.geometry import Geometry

    mask = np.eye(4, dtype=np.uint32)
    columns = measure(mask, mask, ["DAPI"], {}, Geometry.unknown("YX"))
    for name in set(columns) - {"t", "z"}:
        assert property_problem(name, None) is not None, name


@pytest.mark.parametrize(
    ("name", "declared", "is_property"),
    [
        ("chanel", ["chanel"], True),
        ("Condition", ["Condition", "dose"], True),
        ("condition", ["Condition"], False),
        ("anything", [], False),
        ("chanel", ANY, True),
    ],
)
def test_the_properties_of_the_config_decide(
    name: str, declared: list[str], is_property: bool
) -> None:
    assert (property_problem(name, declared) is None) is is_property


def rows_of(text: str) -> list:
    return parse_sheet(text.encode(), SHEET)


def test_cells_of_properties_are_kept_as_they_are() -> None:
    rows = rows_of(
        "image\tpath\tcondition\tdose\na\ta.tif\tnone\t-0.50\nb\tb.tif\tNA\t\nc\tc.tif\tnan\t1,5\n"
    )
    assert [dict(row.properties) for row in rows] == [
        {"condition": "none", "dose": "-0.50"},
        {"condition": "", "dose": ""},
        {"condition": "nan", "dose": "1,5"},
    ]
    assert parse_sheet(format_sheet(rows).encode(), SHEET) == rows
    assert parse_sheet(format_found_sheet(rows).encode(), SHEET) == rows


def test_semicolons_separate_properties_too() -> None:
    (row,) = rows_of("image;path;condition\na;a.tif;drug\n")
    assert row.properties == {"condition": "drug"}


def test_properties_change_the_report_and_no_mask() -> None:
    settings = RunSettings(dataset="d")
    plain = rows_of("image\tpath\na\ta.tif\n")
    drug = rows_of("image\tpath\tcondition\na\ta.tif\tdrug\n")
    other = rows_of("image\tpath\tcondition\na\ta.tif\tcontrol\n")
    assert rows_digest(plain) == rows_digest(drug) == rows_digest(other)
    assert len({settings_digest(settings, rows) for rows in (plain, drug, other)}) == 1
    assert len({report_digest(settings, rows) for rows in (plain, drug, other)}) == 3


def test_the_images_of_a_plate_have_row_column_and_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for inside in ("A/1/0", "A/1/1", "B/12/0"):
        image = Path("plate.zarr") / inside
        image.mkdir(parents=True)
        (image / ".zgroup").write_text("{}")
    Path("plate.zarr/.zgroup").write_text("{}")
    Path("plate.zarr/.zattrs").write_text(
        '{"plate": {"wells": [{"path": "A/1"}, {"path": "B/12"}]}}'
    )
    for well, fields in (("A/1", "01"), ("B/12", "0")):
        images = ", ".join(f'{{"path": "{field}"}}' for field in fields)
        (Path("plate.zarr") / well / ".zgroup").write_text("{}")
        (Path("plate.zarr") / well / ".zattrs").write_text(f'{{"well": {{"images": [{images}]}}}}')
    rows = find_images(["plate.zarr"]).rows
    assert [(row.image, dict(row.properties)) for row in rows] == [
        ("A_1_0", {"row": "A", "column": "1", "well": "A1"}),
        ("A_1_1", {"row": "A", "column": "1", "well": "A1"}),
        ("B_12_0", {"row": "B", "column": "12", "well": "B12"}),
    ]
    Path("kept.tsv").write_text(format_found_sheet(rows))
    assert known_rows(Path("kept.tsv")) == rows
    # A sheet of an earlier version has no properties; a search adds them.
    Path("old.tsv").write_text("image\tpath\nmine\tplate.zarr/A/1/0\n")
    first, *_ = find_images(["plate.zarr"], known_rows(Path("old.tsv"))).rows
    assert (first.image, first.properties["well"]) == ("mine", "A1")


def test_a_typo_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"images.tsv, line 1: unknown column 'chanel'"):
        rows_of("image\tpath\tchanel\na\ta.tif\t0\n")
