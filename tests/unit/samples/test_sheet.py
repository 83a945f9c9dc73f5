from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcourier.errors import InputError
from samcourier.images.selection import Pick, Selection, are_axes_valid, parse_pick
from samcourier.samples.sheet import (
    ImageRow,
    make_batches,
    read_batch,
    read_sheet,
    rows_digest,
    rows_of_subset,
)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    return tmp_path / "images.tsv"


def rows(count: int) -> list[ImageRow]:
    return [ImageRow(f"i{n}", Path(f"{n}.tif")) for n in range(count)]


def test_a_full_sheet_is_read_row_by_row(sheet: Path) -> None:
    sheet.write_text(
        "# plate 7\n"
        "path\timage\taxes\tchannel\tpixel_size_um\ttruth\tforeground\n"
        "\n"
        "a b.tif\tA-1_x.2\tzyx\t1\t0.65\tt/a.tif\tf.png\n"
        "\t\t\n"
        "  # not a comment, a path\tB\t\tDAPI\n"
        "#c.tif\tC\n"
    )
    assert read_sheet(sheet) == [
        ImageRow(
            "A-1_x.2",
            Path("a b.tif"),
            Selection(channel=1, axes="ZYX"),
            0.65,
            foreground=Path("f.png"),
            truth=Path("t/a.tif"),
        ),
        ImageRow("B", Path("# not a comment, a path"), Selection(channel="DAPI")),
    ]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("scene", "2", Selection(scene=2)),
        ("scene", "Image 2", Selection(scene="Image 2")),
        ("t", "3", Selection(t=Pick("index", 3, 3))),
        ("t", "all", Selection(t=Pick("planes"))),
        ("t", "2-5", Selection(t=Pick("planes", 2, 5))),
        ("z", "max", Selection(z=Pick("max"))),
        ("z", "MAX 2 - 5", Selection(z=Pick("max", 2, 5))),
        ("z", "volume", Selection(z=Pick("volume"))),
        ("z", "volume 0-7", Selection(z=Pick("volume", 0, 7))),
        ("channel", "DAPI,GFP", Selection(channel="DAPI,GFP")),
        ("channel", "1.0", Selection(channel=1)),
        ("channel", "1.5", Selection(channel="1.5")),
        ("channel", "0,1", Selection(channel="0,1")),
        ("channel", "v1.0", Selection(channel="v1.0")),
        ("scene", "4.0", Selection(scene=4)),
        ("scene", "4.00", Selection(scene=4)),
        ("scene", "Image 2.0", Selection(scene="Image 2.0")),
        ("t", "4.0", Selection(t=Pick("index", 4, 4))),
        ("z", "2.0-5.0", Selection(z=Pick("planes", 2, 5))),
        ("z", "max 2.0 - 5", Selection(z=Pick("max", 2, 5))),
    ],
)
def test_what_of_a_file_is_the_image_stands_in_the_sheet(
    sheet: Path, column: str, cell: str, expected: Selection
) -> None:
    sheet.write_text(f"image\tpath\t{column}\na\ta.tif\t{cell}\n")
    assert read_sheet(sheet) == [ImageRow("a", Path("a.tif"), expected)]


@pytest.mark.parametrize(
    "pick",
    [
        Pick("index", 3, 3),
        *(Pick(how, *ends) for how in ("planes", "max", "volume") for ends in ((), (0, 4))),
    ],
    ids=str,
)
def test_a_pick_is_written_as_it_is_read(pick: Pick) -> None:
    assert parse_pick(str(pick), volume=True) == pick


def test_parameters_of_one_image_are_json(sheet: Path) -> None:
    sheet.write_text('image\tpath\tparameters\na\ta.tif\t{"min_area_px": 50}\n')
    assert read_sheet(sheet) == [ImageRow("a", Path("a.tif"), parameters={"min_area_px": 50})]


@pytest.mark.parametrize(
    "content",
    [
        b"image\tpath\na\ta.tif\n",
        b"image\tpath\na\ta.tif",
        b"\xef\xbb\xbfimage\tpath\r\na\ta.tif\r\n",
        b"image\tpath\ra\ta.tif\r",
        b'"image"\t"path"\n"a"\t"a.tif"\n',
        b" image \tpath\t\n a\t a.tif \t\t\n".replace(b"path\t\n", b"path\n"),
        b"image\tpath\t\t\t\na\ta.tif\t\t\t\n\t\t\t\t\n",
        b"image\t\tpath\t\na\t\ta.tif\n",
        b"image;path;;\r\na;a.tif;;\r\n;;;\r\n",
        b'\xef\xbb\xbf"image";"path";"truth"\r\n"a";"a.tif";"NA"\r\n',
        "image\tpath\r\na\ta.tif\r\n".encode("utf-16"),
        b"\xfe\xff" + "image\tpath\r\na\ta.tif\r\n".encode("utf-16-be"),
        "image;path\na;a.tif\n".encode("utf-32"),
        b"image\tpath\ttruth\tmodel\tforeground\tscene\na\ta.tif\tNA\tN/A\tn/a\t<NA>\n",
        b"image\tpath\tt\tz\tpixel_size_um\tchannel\na\ta.tif\t#N/A\tNA\tNA\tNA\n",
    ],
    ids=[
        *("plain", "no last newline", "BOM and CRLF", "CR", "quoted", "spaces, empty cells"),
        *("empty columns at the end", "an empty column within", "semicolons"),
        *("semicolons and quotes", "UTF-16", "UTF-16, big end first", "UTF-32"),
        *("no names", "no numbers"),
    ],
)
def test_every_way_a_spreadsheet_writes_it_reads_the_same(sheet: Path, content: bytes) -> None:
    sheet.write_bytes(content)
    assert read_sheet(sheet) == [ImageRow("a", Path("a.tif"))]


HEADER = "image\tpath\taxes\tpixel_size_um\n"


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("", ["the sheet is empty"]),
        ("# nothing\n\n", ["the sheet is empty"]),
        (HEADER, ["no image"]),
        ("image,path\na,a.tif\n", ["line 1: 'image,path' is not a header.* separated by tabs"]),
        ("image\taxes\na\tYX\n", ["line 1: no column path, expected the columns image, path"]),
        ("axes\tchannel\nYX\t0\n", ["line 1: no column image, path"]),
        (
            "image\tpath\tAxis\na\ta.tif\t\n",
            ["line 1: unknown column 'Axis', did you mean 'axes'.*properties"],
        ),
        ("image\tpath\tarea_px\na\ta.tif\t\n", ["line 1: column 'area_px' has a name that the"]),
        ("image\tpath\tpath\na\ta.tif\tb\n", ["line 1: column 'path' appears 2 times"]),
        (
            HEADER + "\na\ta.tif\nb\tb.tif\na\tc.tif\n",
            ["line 5: image 'a' is already on line 3"],
        ),
        (HEADER + "a\t\n", ["line 2: path is empty"]),
        (HEADER + "a\tNA\n", ["line 2: path 'NA', expected an image file"]),
        (HEADER + "a\t#REF!\n", ["line 2: path '#REF!', expected an image file"]),
        (HEADER + "#REF!\ta.tif\nb\tb.tif\n", ["line 2: image '#REF!' is not a safe file name"]),
        (HEADER + "#N/A\ta.tif\nb\tb.tif\n", ["line 2: image '#N/A' is not a safe file name"]),
        (
            "image\t\tpath\na\tlost\ta.tif\n",
            ["line 2: column 2: the cell 'lost', expected nothing, since the header has no name"],
        ),
        ("image;path;Axis\na;a.tif;\n", ["line 1: unknown column 'Axis', did you mean 'axes'"]),
        ("image;path\na;a.tif;x\n", ["line 2: 3 cells, expected 2"]),
        (HEADER + "a\n", ["line 2: path is empty"]),
        (HEADER + "a\ta.tif\tYX\t1\textra\n", ["line 2: 5 cells, expected 4"]),
        (HEADER + "a\ta.tif\tYYX\n", ["line 2: axes 'YYX', expected letters"]),
        (HEADER + 'a\t"a.tif\nb\tb.tif\n', ["line 2: unexpected end of data"]),
        *(
            (f"image\tpath\t{axis}\na\ta.tif\t{cell}\n", [f"line 2: {axis} '{cell}'{problem}"])
            for axis, cell, problem in (
                ("z", "-1", ", expected a zero-based index"),
                ("z", "1.5", ", expected .* or volume"),
                ("z", "5-2", " ends before it begins"),
                ("z", "all 2-5", ", expected"),
                ("z", "first", ", expected"),
                ("t", "volume", ", expected .* projection.$"),
                ("t", "maximum", ", expected"),
                ("t", "4.5", ", expected"),
                ("t", "4,0", ", expected"),
                ("t", "1.0.0", ", expected"),
                ("t", "1e3", ", expected"),
                ("t", "nan", ", expected a value, or an empty cell"),
                ("z", "None", ", expected a value, or an empty cell"),
                ("channel", "#REF!", ", expected a value, or an empty cell"),
                ("model", "NULL", ", expected a value, or an empty cell"),
                ("truth", "#VALUE!", ", expected a value, or an empty cell"),
            )
        ),
        *(
            (
                f"image\tpath\tparameters\na\ta.tif\t{cell}\n",
                [f"line 2: parameters '{re.escape(cell)}', expected a JSON object"],
            )
            for cell in ("min_area_px=50", "50", "[1]", "null", '{"a":NaN}', '{"a":1e999}')
        ),
        *(
            (HEADER + f"a\ta.tif\t\t{size}\n", [f"line 2: pixel_size_um '{size}', expected"])
            for size in (
                "0",
                "-1",
                "nan",
                "inf",
                "0.65,0.65",
                "half",
                "1 2 3 4",
                "0.5 0",
                "1_0",
                "1e999",
            )
        ),
        (
            "image\tpath\tchanel\n../a\t\t\nb\tb.tif\nb\tc.tif\n",
            [
                "line 1: unknown column 'chanel', did you mean 'channel'",
                "line 2: image '../a' is not a safe file name",
                "line 2: path is empty",
                "line 4: image 'b' is already on line 3",
            ],
        ),
    ],
)
def test_every_problem_of_a_sheet_is_one_line(
    sheet: Path, content: str, problems: list[str]
) -> None:
    sheet.write_text(content)
    with pytest.raises(InputError) as caught:
        read_sheet(sheet)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(problems)
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(str(sheet))
        assert re.search(problem, line)


@given(
    lines=st.lists(st.sampled_from(["", "  ", "# a note", "{n}\t{n}.tif", '"{n}"\t{n}.tif\r'])),
    batch_size=st.integers(1, 4),
)
def test_a_batch_is_read_alone_as_it_is_cut_from_the_sheet(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], batch_size: int
) -> None:
    sheet = tmp_path_factory.mktemp("batch") / "images.tsv"
    told = [*(line.format(n=f"i{n}") for n, line in enumerate(lines)), "last\tlast.tif"]
    sheet.write_text("\n".join(["# plate 7", "image\tpath", *told]), newline="")
    batches = make_batches(read_sheet(sheet), batch_size)
    assert [read_batch(sheet, each.batch_id, batch_size) for each in batches] == batches


@pytest.mark.parametrize(
    "batch_id", ["0000", "0003", "1", "00001", "-001", "", "a", "\u0660\u0661"]
)
def test_a_batch_that_the_sheet_has_not_is_refused(sheet: Path, batch_id: str) -> None:
    sheet.write_text("image\tpath\na\ta.tif\nb\tb.tif\nc\tc.tif\n")
    with pytest.raises(InputError, match=r"has no batch '.*', expected one of 1\.\.2"):
        read_batch(sheet, batch_id, 2)


def test_a_batch_says_what_is_wrong_with_its_own_lines_alone(sheet: Path) -> None:
    sheet.write_text("image\tpath\na\ta.tif\n../b\tb.tif\n../c\tc.tif\n")
    assert read_batch(sheet, "0001", 1).rows == (ImageRow("a", Path("a.tif")),)
    with pytest.raises(
        InputError, match=r"line 3: image '\.\./b' is not a safe file name"
    ) as caught:
        read_batch(sheet, "0002", 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "is_safe"),
    [
        ("a", True),
        ("_a-1.2", True),
        ("7", True),
        ("a..b", True),
        ("x" * 200, True),
        ("x" * 201, False),
        ("", False),
        (".", False),
        ("..", False),
        (".a", False),
        ("-a", False),
        ("a/b", False),
        ("a\\b", False),
        ("a b", False),
        ("a:b", False),
        ("é", False),
        ("a*", False),
        ("٣", False),
    ],
)
def test_an_id_is_a_safe_file_name(sheet: Path, image: str, is_safe: bool) -> None:
    sheet.write_text(f"image\tpath\n{image}\ta.tif\n", encoding="utf-8")
    if is_safe:
        assert read_sheet(sheet)[0].image == image
    else:
        with pytest.raises(InputError, match=r"line 2: image .* safe file name, expected letters"):
            read_sheet(sheet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        ("directory", "cannot read the sample sheet: Is a directory"),
        ("image\tpath\n".encode("utf-16-le"), "line 1: a zero byte, as in UTF-16 without a byte"),
        (
            "image\tpath\na\ta.tif\n".encode("utf-16") + b"\0",
            "line 3, column image: byte 40 is not",
        ),
        (b"image\tpath\n\xe4\ta.tif\n", "line 2, column image: byte 11 is not UTF-8, expected"),
        (b"image\tpath\ra\ta.tif\r\rb\tK\xf6ln.tif", "line 4, column path: byte 23 is not UTF-8"),
        (b"image;path\r\na;\xfc.tif\r\n", "line 2, column path: byte 14 is not UTF-8"),
        (b"# M\xfcller\nimage\tpath\n", "line 1: byte 3 is not UTF-8"),
        (b"PK\x03\x04\x14\0\x06\0", "is a zip file, as Excel and LibreOffice save a workbook, exp"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a workbook of an old Excel, expected a tab separated"),
        (b"\x1f\x8b\x08\0", "is a gzip file, expected a tab separated text file"),
        (b"<!DOCTYPE html>", "is an HTML or XML file, expected a tab separated text file"),
    ],
)
def test_a_sheet_that_is_no_text_file_is_one_line(
    sheet: Path, content: bytes | str | None, message: str
) -> None:
    if isinstance(content, bytes):
        sheet.write_bytes(content)
    elif content == "directory":
        sheet.mkdir()
    with pytest.raises(InputError, match=message) as caught:
        read_sheet(sheet)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "is_valid"),
    [("YX", True), ("XY", True), ("TCZYX", True), ("YXS", True)]
    + [(axes, False) for axes in ("", "Y", "ZX", "YYX", "QYX", "yx", "Y X")],
)
def test_axes_name_y_and_x_and_nothing_unknown(axes: str, is_valid: bool) -> None:
    assert are_axes_valid(axes) is is_valid


@pytest.mark.parametrize(
    ("count", "size", "ids", "sizes"),
    [
        (0, 3, [], []),
        (3, 3, ["0001"], [3]),
        (7, 3, ["0001", "0002", "0003"], [3, 3, 1]),
        (2, 100, ["0001"], [2]),
    ],
)
def test_batches_are_cut_in_the_order_of_the_sheet(
    count: int, size: int, ids: list[str], sizes: list[int]
) -> None:
    batches = make_batches(rows(count), size)
    assert [batch.batch_id for batch in batches] == ids
    assert [len(batch.rows) for batch in batches] == sizes
    assert [row for batch in batches for row in batch.rows] == rows(count)


def test_the_ids_of_ten_thousand_batches_are_distinct() -> None:
    batches = make_batches(rows(10_001), 1)
    assert len({batch.batch_id for batch in batches}) == 10_001
    assert batches[-1].batch_id == "10001"


@given(before=st.integers(0, 40), appended=st.integers(0, 40), size=st.integers(1, 9))
def test_appending_rows_leaves_every_full_batch_as_it_was(
    before: int, appended: int, size: int
) -> None:
    old, new = make_batches(rows(before), size), make_batches(rows(before + appended), size)
    full = before // size
    assert new[:full] == old[:full]


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_batch_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"batch size: {size}, expected at least 1"):
        make_batches(rows(2), size)


@pytest.mark.parametrize(
    ("only", "expected"),
    [(None, ["i0", "i1", "i2"]), (["i2", "i0"], ["i0", "i2"]), ({"other"}, []), ([], [])],
)
def test_the_rows_asked_for_are_in_the_order_of_the_sheet(
    only: Collection[str] | None, expected: list[str]
) -> None:
    assert [row.image for row in rows_of_subset(rows(3), only)] == expected


WHAT = Selection(channel=0, axes="YX")
BASE = ImageRow("a", Path("a.tif"), WHAT, 0.5)


@pytest.mark.parametrize(
    ("changed", "shapes_the_mask"),
    [
        (replace(BASE, image="b"), True),
        (replace(BASE, path=Path("b.tif")), True),
        (replace(BASE, selection=replace(WHAT, axes=None)), True),
        (replace(BASE, selection=replace(WHAT, channel=None)), True),
        (replace(BASE, selection=replace(WHAT, channel="0")), True),
        (replace(BASE, selection=replace(WHAT, scene=1)), True),
        (replace(BASE, selection=replace(WHAT, t=Pick("max"))), True),
        (replace(BASE, selection=replace(WHAT, z=Pick("planes", 0, 3))), True),
        (replace(BASE, pixel_size_um=None), True),
        (replace(BASE, parameters={"sigma": 2}), True),
        (replace(BASE, model="vit_b_lm"), True),
        (replace(BASE, foreground=Path("f.tif")), True),
        (replace(BASE, truth=Path("t.tif")), False),
    ],
)
def test_the_digest_of_rows_changes_with_what_shapes_a_mask(
    changed: ImageRow, shapes_the_mask: bool
) -> None:
    assert (rows_digest([BASE]) != rows_digest([changed])) is shapes_the_mask
    assert rows_digest([BASE, BASE]) != rows_digest([BASE])


@pytest.mark.parametrize("module", ["samcourier.samples.sheet", "samcourier.results.pending"])
def test_parse_time_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; old = set(sys.modules); import {module}; "
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - old})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= sys.stdlib_module_names | {"samcourier", "samservice"}
