"""``samcourier sheet``: the sheet of what is found, filled from the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from samcourier.cli import main
from samcourier.samples.sheet import read_sheet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def sheet(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["sheet", *arguments])
    assert result.exit_code == status, result.output
    return result


def write(path: Path, axes: str, *shape: int, **metadata: object) -> None:
    tifffile.imwrite(
        path,
        np.zeros(shape, "u2"),
        ome=True,
        metadata={"axes": axes, **metadata},
        photometric="minisblack",
    )


def write_scenes(path: Path, count: int = 2) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for number in range(count):
            metadata = {
                "axes": "YX",
                "Name": f"spot {number}",
                "PhysicalSizeX": 0.25,
                "PhysicalSizeY": 0.25,
            }
            writer.write(np.zeros((20, 30), "u2"), metadata=metadata)


HEADER = "image\tpath\tscene\tt\tz\tchannel\tpixel_size_um\n"


def test_the_sheet_says_what_the_files_say_and_what_they_leave_open(folder: Path) -> None:
    write(folder / "plain.tif", "YX", 20, 30, PhysicalSizeX=0.5, PhysicalSizeY=0.5)
    write(folder / "stack.tif", "ZYX", 4, 20, 30)
    write(folder / "stack2.tif", "ZYX", 4, 20, 30)
    write(folder / "movie.tif", "TCYX", 3, 2, 20, 30, Channel={"Name": ["DAPI", "GFP"]})
    write_scenes(folder / "spots.tif")
    tifffile.imwrite(folder / "odd.tif", np.zeros((6, 20, 30), "u2"), metadata={"axes": "QYX"})
    (folder / "bad.tif").write_bytes(b"II*\0")
    (folder / "notes.txt").write_text("x")
    result = sheet("data")
    first, *comments = [line for line in result.stdout.split("\n") if line.startswith("#")]
    assert first.startswith("# bad: damaged TIFF")
    assert comments == [
        "# movie: 3 time points; write into the column t which: a zero-based index (4), a range"
        " with both ends (2-5), all, max (their maximum projection)",
        "# movie: 2 channels (DAPI, GFP); write one or a pair into the column channel, or leave it"
        " empty for all",
        "# odd: the file does not label dimension Q of shape (6, 20, 30) (QYX); write the axes"
        " into the sheet, e.g. ZYX for a stack, CYX for channels",
        "# spots_s0: 2 scenes (spot 0, spot 1); delete the rows of the scenes that you do not need",
        "# 2 images, first stack: 4 depths; write into the column z which: a zero-based index (4),"
        " a range with both ends (2-5), all, max (their maximum projection), or volume, as one"
        " stack",
    ]
    assert [line for line in result.stdout.split("\n") if not line.startswith("#")] == [
        HEADER.strip(),
        "bad\tdata/bad.tif\t\t\t\t\t",
        "movie\tdata/movie.tif\t\t\t\t\t",
        "odd\tdata/odd.tif\t\t\t\t\t",
        "plain\tdata/plain.tif\t\t\t\t\t0.5",
        "spots_s0\tdata/spots.tif\t0\t\t\t\t0.25",
        "spots_s1\tdata/spots.tif\t1\t\t\t\t0.25",
        "stack\tdata/stack.tif\t\t\t\t\t",
        "stack2\tdata/stack2.tif\t\t\t\t\t",
        "",
    ]
    assert "left out by their names: 1 .txt" in result.stderr


def test_a_sheet_that_is_there_keeps_its_rows_and_gets_the_new_ones(folder: Path) -> None:
    write(folder / "b.tif", "ZYX", 4, 20, 30)
    sheet("data", "--out", "images.tsv")
    edited = (
        Path("images.tsv").read_text().replace("b\tdata/b.tif\t\t\t\t", "mine\tdata/b.tif\t\t\t0\t")
    )
    Path("images.tsv").write_text(edited)
    write(folder / "a.tif", "YX", 20, 30)
    write_scenes(folder / "c.tif")
    result = sheet("data", "--out", "images.tsv")
    assert "3 images added to images.tsv" in result.stderr
    text = Path("images.tsv").read_text()
    assert text.startswith(edited)
    assert [row.image for row in read_sheet(Path("images.tsv"))] == ["mine", "a", "c_s0", "c_s1"]
    assert "0 images added" in sheet("data", "--out", "images.tsv").stderr
    assert Path("images.tsv").read_text() == text


def test_a_sheet_without_the_column_that_is_needed_is_left_as_it_is(folder: Path) -> None:
    Path("images.tsv").write_text("image\tpath\na\tdata/a.tif\n")
    write_scenes(folder / "c.tif")
    result = sheet("data", "--out", "images.tsv", status=1)
    assert (
        "Error: images.tsv: no column scene, expected one, since a file has several scenes"
        in result.stderr
    )
    assert Path("images.tsv").read_text() == "image\tpath\na\tdata/a.tif\n"


@pytest.mark.parametrize(
    "head",
    ['"image"\tpath\t"scene"\n', "image \tpath\tscene\r\n", " \n\n# mine\nimage\tpath\tscene\n"],
    ids=["quotes", "a space and another system's lines", "a blank line above"],
)
def test_a_header_counts_as_a_run_reads_it(folder: Path, head: str) -> None:
    before = f"{head}a\tdata/a.tif\t\n".encode()
    Path("images.tsv").write_bytes(before)
    write_scenes(folder / "c.tif")
    sheet("data", "--out", "images.tsv")
    found = {row.image: row.selection.scene for row in read_sheet(Path("images.tsv"))}
    assert found == {"a": None, "c_s0": 0, "c_s1": 1}


def test_what_is_not_there_is_one_line(folder: Path) -> None:
    assert sheet("data", status=1).stderr.startswith("Error: data: no image found, expected files")


@pytest.mark.parametrize(
    "content",
    ["image\tpath\na\ta.tif\n".encode("utf-16"), b"image;path\na;a.tif\n"],
    ids=["UTF-16", "semicolons"],
)
def test_images_are_appended_to_a_plain_sheet_alone(content: bytes, tmp_path: Path) -> None:
    sheet = tmp_path / "images.tsv"
    sheet.write_bytes(content)
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((8, 8), np.uint8))
    result = CliRunner().invoke(main, ["sheet", str(tmp_path), "--out", str(sheet)])
    assert "expected a tab separated UTF-8 sheet to append images to" in result.output
    assert sheet.read_bytes() == content


def test_images_are_appended_to_a_sheet_with_empty_columns(tmp_path: Path) -> None:
    sheet = tmp_path / "images.tsv"
    sheet.write_text("image\t\tpath\t\na\t\ta.tif\t\n")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((8, 8), np.uint8))
    CliRunner().invoke(main, ["sheet", str(tmp_path), "--out", str(sheet)])
    assert [row.image for row in read_sheet(sheet)] == ["a", "b"]
