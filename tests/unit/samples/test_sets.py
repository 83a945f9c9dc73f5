"""Sets of OME-TIFF files, and what is left out of a folder: each image is found once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from samcourier.errors import InputError
from samcourier.images.planes import open_planes
from samcourier.images.selection import Selection
from samcourier.samples.discovery import find_images
from samcourier.samples.format import format_found_sheet, known_rows, write_found_sheet
from samcourier.samples.sets import further_files
from samcourier.samples.sheet import ImageRow, parse_sheet

from ..ome_files import (
    At,
    binary_only,
    image_xml,
    ome_xml,
    write_companion,
    write_positions,
    write_set,
    write_tiff,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder ``data``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return Path("data")


def found(*inputs: str) -> dict[str, str]:
    """Return {id: "path" or "path scene"}, of images that can be opened."""
    rows = find_images(inputs).rows
    for row in rows:
        with open_planes(row.path, row.selection) as planes:
            planes.read()
    return {row.image: place(row) for row in rows}


def place(row: ImageRow) -> str:
    scene = row.selection.scene
    return str(row.path) if scene is None else f"{row.path} {scene}"


POSITIONS = {f"exp_MMStack_Pos{n}": f"data/exp_MMStack_Pos{n}.ome.tif" for n in range(3)}


@pytest.mark.parametrize("text", ["data", "data/*", "data/*.ome.tif"])
def test_positions_are_an_image_each(folder: Path, text: str) -> None:
    write_positions(folder)
    assert found(text) == POSITIONS


def test_positions_whose_metadata_stand_in_the_first_file(folder: Path) -> None:
    names = write_positions(folder)
    for n, name in enumerate(names[1:], start=1):
        write_tiff(folder / name, [n + 1], binary_only(names[0], name))
    assert found("data") == POSITIONS
    assert found(f"data/{names[2]}") == {"exp_MMStack_Pos2": f"data/{names[2]}"}


@pytest.mark.parametrize(
    ("inputs", "images"),
    [
        (["data"], {"d": "data/d.companion.ome"}),
        (["data/*.ome.tif"], {"d": "data/d.companion.ome"}),
        (["data/*.ome"], {"d": "data/d.companion.ome"}),
        (["data/d_0_Ch2.ome.tif"], {"d_0_Ch2": "data/d_0_Ch2.ome.tif"}),
        (
            ["data/d_0_Ch2.ome.tif", "data/d_0_Ch1.ome.tif", "data"],
            {"d_0_Ch2": "data/d_0_Ch2.ome.tif"},
        ),
    ],
)
def test_a_companion_with_its_members_is_one_image(
    folder: Path, inputs: list[str], images: dict[str, str]
) -> None:
    write_companion(folder)
    assert found(*inputs) == images


def test_each_image_of_a_companion_has_a_row(folder: Path) -> None:
    write_companion(folder, images=2)
    images = {"d_well_0": 0, "d_well_1": 1}
    rows = find_images(["data"]).rows
    assert [place(row) for row in rows] == [f"data/d.companion.ome {n}" for n in images.values()]
    assert [row.image.rpartition("-")[0] for row in rows] == list(images)
    assert parse_sheet(format_found_sheet(rows).encode(), Path("images.tsv")) == rows
    write_found_sheet(Path("images.tsv"), rows)
    assert find_images(["data"], known_rows(Path("images.tsv"))).rows == rows


def test_a_stack_over_several_files_is_one_image(folder: Path) -> None:
    names = [f"s_z{n}.ome.tif" for n in range(3)]
    stack = image_xml("s", [At(name, z=n) for n, name in enumerate(names)], 1, (3, 1, 1))
    write_set(folder, {name: [n] for n, name in enumerate(names)}, stack)
    write_tiff(folder / "other.tif", [9])
    rows = find_images(["data"]).rows
    assert [place(row) for row in rows] == ["data/other.tif", "data/s_z0.ome.tif"]
    (named,) = find_images(["data/s_z1.ome.tif"]).rows
    assert named.image == "s_z1"


def test_two_images_in_each_of_two_files_have_a_row_each(folder: Path) -> None:
    planes = [("A", "a.ome.tif", 0), ("B", "a.ome.tif", 1), ("C", "b.ome.tif", 0)]
    inner = "".join(image_xml(name, [At(file, page)]) for name, file, page in planes)
    write_set(folder, {"a.ome.tif": [1, 2], "b.ome.tif": [3]}, inner)
    assert found("data") == {
        "a_A": "data/a.ome.tif 0",
        "a_B": "data/a.ome.tif 1",
        "b": "data/b.ome.tif",
    }


def test_sets_in_several_folders_do_not_mix(folder: Path) -> None:
    for name in ("x", "y"):
        write_companion(folder / name)
    assert found("data") == {
        "x__d": "data/x/d.companion.ome",
        "y__d": "data/y/d.companion.ome",
    }


def test_files_of_a_set_that_are_not_there_are_said(folder: Path) -> None:
    names = write_positions(folder)
    (folder / names[1]).unlink()
    result = find_images(["data"])
    assert [row.image for row in result.rows] == ["exp_MMStack_Pos0", "exp_MMStack_Pos2"]
    assert result.remarks == [
        f"data/{names[0]}: names 3 images, 1 of which lie in files that are not there: {names[1]}"
    ]


def test_a_set_without_one_member_keeps_its_row_so_that_the_run_names_it(folder: Path) -> None:
    write_companion(folder)
    (folder / "d_0_Ch1.ome.tif").unlink()
    assert [row.image for row in find_images(["data"]).rows] == ["d"]
    (folder / "d.companion.ome").unlink()
    assert [row.image for row in find_images(["data"]).rows] == ["d_0_Ch2"]


def test_known_files_that_are_one_image_by_now_become_one_row(folder: Path) -> None:
    write_companion(folder)
    write_tiff(folder / "b.tif", [5])
    known = [
        ImageRow("d_0_Ch1.ome", folder / "d_0_Ch1.ome.tif"),
        ImageRow("d_0_Ch2.ome", folder / "d_0_Ch2.ome.tif"),
        ImageRow("b", folder / "b.tif"),
    ]
    result = find_images(["data"], known)
    assert result.rows == [known[0], known[2]]
    (remark,) = result.remarks
    assert remark.startswith("d_0_Ch1.ome, d_0_Ch2.ome: one image by their metadata, d_0_Ch1.ome")
    assert "masks of d_0_Ch2.ome from earlier runs stay where they are" in remark
    with open_planes(known[0].path, Selection()) as planes:
        assert planes.channel_count == 2
    assert find_images(["data"], result.rows).remarks == []


def test_known_ids_of_another_form_are_kept(folder: Path) -> None:
    write_positions(folder)
    known = [ImageRow(f"exp_MMStack_Pos{n}.ome", folder / name) for n, name in enumerate(
        sorted(path.name for path in folder.iterdir())
    )]  # fmt: skip
    assert find_images(["data"], known[:2]).rows == [
        *known[:2],
        ImageRow("exp_MMStack_Pos2", known[2].path),
    ]


def test_rows_that_name_scenes_of_positions_are_kept(folder: Path) -> None:
    names = write_positions(folder, count=2)
    known = [
        ImageRow(f"p{n}_s{scene}", folder / name, Selection(scene=scene))
        for n, name in enumerate(names)
        for scene in range(2)
    ]
    assert find_images(["data"], known).rows == known


def test_a_row_of_a_file_with_several_images_is_replaced_by_theirs(folder: Path) -> None:
    write_companion(folder, images=2)
    result = find_images(["data"], [ImageRow("d", folder / "d.companion.ome")])
    assert [row.selection.scene for row in result.rows] == [0, 1]
    assert result.remarks == [
        "d: data/d.companion.ome holds 2 images of a set, which have rows of their own from now on"
    ]


def test_one_stem_in_two_formats_is_two_images(folder: Path) -> None:
    write_tiff(folder / "tri_1.tif", [1])
    write_tiff(folder / "tri_1.ome.tif", [2], ome_xml(image_xml("tri", [At()])))
    ids = found("data")
    assert len(ids) == 2 and ids["tri_1"] == "data/tri_1.tif"
    known = [ImageRow("tri_1", folder / "tri_1.tif")]
    first, second = find_images(["data"], known).rows
    assert first == known[0] and second.image.startswith("tri_1-")


@pytest.mark.parametrize(
    ("name", "scene", "files"),
    [
        ("d.companion.ome", 1, ["d_1_Ch1.ome.tif", "d_1_Ch2.ome.tif"]),
        ("d_0_Ch2.ome.tif", None, ["d.companion.ome", "d_0_Ch1.ome.tif"]),
        ("d_0_Ch2.ome.tif", "well 1", ["d.companion.ome", "d_1_Ch1.ome.tif", "d_1_Ch2.ome.tif"]),
        ("exp_MMStack_Pos0.ome.tif", None, []),
        ("exp_MMStack_Pos0.ome.tif", 1, ["exp_MMStack_Pos1.ome.tif"]),
        ("other.tif", None, []),
        ("lost.ome.tif", None, []),
    ],
)
def test_an_image_depends_on_all_of_its_files(
    folder: Path, name: str, scene: int | str | None, files: list[str]
) -> None:
    write_companion(folder, images=2)
    write_positions(folder)
    write_tiff(folder / "other.tif", [1])
    row = ImageRow("a", folder / name, Selection(scene=scene))
    assert further_files(row) == [f"data/{file}" for file in files]


LEFT_OUT = {
    "a_thumb.tif": "thumbnail",
    "a_w1_thumb4F2C0A9E-55B1-4C3D.TIF": "thumbnail",
    "sub/a_thumbnail.png": "thumbnail",
    "a_cp_masks.png": "output of Cellpose",
    "a_cp_masks.tif": "output of Cellpose",
    "a_cp_output.png": "output of Cellpose",
    "a_flows.tif": "output of Cellpose",
    "a_flows_0.tif": "output of Cellpose",
    "a_seg.tif": "output of Cellpose",
    "a_masks.tif": "labels of another image",
    "masks/a_mask.png": "labels of another image",
    "a-labels.tif": "labels of another image",
    "a_Simple Segmentation.tif": "labels of another image",
}
KEPT = ["a.tif", "thumb.tif", "flows.tif", "face_masks.tif", "b_segment.tif", "a_w1.tif"]


def test_what_is_no_image_of_the_dataset_is_left_out_and_said(folder: Path) -> None:
    for name in (*LEFT_OUT, *KEPT):
        write_tiff(folder / name, [1])
    result = find_images(["data"])
    assert {str(row.path.relative_to("data")) for row in result.rows} == set(KEPT)
    for reason in set(LEFT_OUT.values()):
        count = list(LEFT_OUT.values()).count(reason)
        assert any(f"left out as {reason}: {count} files" in each for each in result.remarks)


@pytest.mark.parametrize("text", ["data/a_thumb.tif", "data/*_thumb.tif"])
def test_what_the_user_names_is_not_left_out(folder: Path, text: str) -> None:
    for name in ("a.tif", "a_thumb.tif"):
        write_tiff(folder / name, [1])
    assert list(found(text)) == ["a_thumb"]
    assert list(found("data/*.tif")) == ["a"]


def test_a_known_row_that_is_left_out_is_said(folder: Path) -> None:
    for name in ("a.tif", "a_cp_masks.tif"):
        write_tiff(folder / name, [1])
    known = [ImageRow("a", folder / "a.tif"), ImageRow("a_cp_masks", folder / "a_cp_masks.tif")]
    result = find_images(["data"], known)
    assert result.rows == known[:1]
    assert result.remarks[1].startswith("a_cp_masks: left out from now on; masks of earlier runs")


@pytest.mark.parametrize("suffix", [".svs", ".ndpi", ".scn", ".qptiff", ".SVS"])
def test_a_folder_of_slides_is_no_empty_folder(folder: Path, suffix: str) -> None:
    write_tiff(folder / f"slide{suffix}", [1])
    assert [str(row.path) for row in find_images(["data"]).rows] == [f"data/slide{suffix}"]


def test_a_folder_without_an_image_says_what_it_holds(folder: Path) -> None:
    write_tiff(folder / "a_thumb.tif", [1])
    shutil.copy(folder / "a_thumb.tif", folder / "slide.mrxs")
    with pytest.raises(InputError, match=r"found 1 left out as thumbnail, 1 \.mrxs$"):
        find_images(["data"])


@pytest.mark.parametrize("name", ["pipe.tif", "pipe.ome.tif", "pipe.companion.ome"])
def test_a_named_pipe_is_found_without_waiting_for_a_writer(folder: Path, name: str) -> None:
    write_tiff(folder / "a.tif", [1])
    os.mkfifo(folder / name)
    assert "a" in {row.image for row in find_images([str(folder)]).rows}
