"""OME-TIFF: an image is read from the files that hold its planes, with its own metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.errors import ImageMissing, ImageUnfit, SceneUnchosen
from samcourier.images.readers.open import open_source
from samcourier.samples.discovery import find_images
from samcourier.samples.inspection import inspect_images
from samcourier.samples.sheet import ImageRow

from ...ome_files import (
    SHAPE,
    At,
    binary_only,
    image_xml,
    ome_xml,
    write_companion,
    write_positions,
    write_set,
    write_tiff,
)

A, B = "a.ome.tif", "b.ome.tif"


@dataclass(frozen=True)
class Read:
    """What a source says, and the value of each of its planes."""

    values: list[int]
    axes: str
    pixel_size_um: float | None
    channels: tuple[str, ...]


def read(path: Path, scene: int | str | None = None) -> Read:
    with open_source(path, scene) as source:
        whole = source.read(tuple(slice(0, size) for size in source.shape))
        corner = source.read((*tuple(slice(0, size) for size in source.shape[:-2]), 2, slice(1, 4)))
        values = whole.reshape(-1, *SHAPE)
        assert all((plane == plane.flat[0]).all() for plane in values), "planes are not mixed"
        assert np.array_equal(corner.reshape(len(values), -1), values[:, 2, 1:4])
        return Read(
            [int(plane.flat[0]) for plane in values],
            source.axes,
            source.geometry.size_um("X"),
            source.channel_names,
        )


TWO = image_xml("one", [At(A)], 0.1) + image_xml("two", [At(B)], 0.2)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"compression": "zlib"},
    {"tile": (16, 16)},
    {"bigtiff": True, "byteorder": ">"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("file", "scene", "value", "um"),
    [(A, None, 1, 0.1), (B, None, 2, 0.2), (A, 1, 2, 0.2), (B, 0, 1, 0.1), (A, "two", 2, 0.2)],
)
def test_a_plane_is_read_from_the_file_that_holds_it(
    tmp_path: Path, options: dict[str, Any], file: str, scene: Any, value: int, um: float
) -> None:
    write_set(tmp_path, {A: [1], B: [2]}, TWO, **options)
    made = read(tmp_path / file, scene)
    assert (made.values, made.pixel_size_um) == ([value], um)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("opened", [A, B])
@pytest.mark.parametrize(
    ("pages", "planes", "values"),
    [
        ({A: [1, 2], B: [3, 4]}, [At(A, count=2), At(B, z=2, count=2)], [1, 2, 3, 4]),
        ({A: [1, 2], B: [3, 4]}, [At(B, count=2), At(A, z=2, count=2)], [3, 4, 1, 2]),
        (
            {A: [1, 2], B: [3, 4]},
            [At(A), At(B, z=1), At(A, 1, z=2), At(B, 1, z=3)],
            [1, 3, 2, 4],
        ),
        ({A: [1, 2, 3], B: [4]}, [At(A, count=3), At(B, z=3)], [1, 2, 3, 4]),
    ],
)
def test_a_stack_over_several_files_is_one_image(
    tmp_path: Path,
    options: dict[str, Any],
    opened: str,
    pages: dict[str, list[int]],
    planes: list[At],
    values: list[int],
) -> None:
    write_set(tmp_path, pages, image_xml("stack", planes, 0.3, (4, 1, 1)), **options)
    made = read(tmp_path / opened)
    assert (made.values, made.axes, made.pixel_size_um) == (values, "ZYX", 0.3)


@pytest.mark.parametrize("opened", ["d.companion.ome", "d_0_Ch1.ome.tif", "d_0_Ch2.ome.tif"])
def test_a_companion_and_its_members_are_one_image(tmp_path: Path, opened: str) -> None:
    write_companion(tmp_path)
    assert read(tmp_path / opened) == Read([1, 2], "CYX", 1, ("well 0-c0", "well 0-c1"))


def test_of_a_companion_of_several_images_each_member_opens_its_own(tmp_path: Path) -> None:
    write_companion(tmp_path, images=2)
    assert read(tmp_path / "d_1_Ch2.ome.tif").values == [11, 12]
    assert read(tmp_path / "d.companion.ome", 0).values == [1, 2]
    with pytest.raises(SceneUnchosen, match="expected scene 0 to 1 or one of well 0, well 1"):
        read(tmp_path / "d.companion.ome")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_metadata_in_a_file_of_another_name_and_encoding(tmp_path: Path, encoding: str) -> None:
    write_companion(tmp_path)
    text = (tmp_path / "d.companion.ome").read_text(encoding="utf-8").replace("well", "Gewürz")
    text = text.replace("UTF-8", "UTF-16") if encoding == "utf-16" else text
    (tmp_path / "d.companion.ome").write_text(text, encoding=encoding)
    assert read(tmp_path / "d_0_Ch1.ome.tif").channels == ("Gewürz 0-c0", "Gewürz 0-c1")
    (tmp_path / "d.companion.ome").rename(tmp_path / "meta.xml")
    for file in ("d_0_Ch1.ome.tif", "d_0_Ch2.ome.tif"):
        write_tiff(tmp_path / file, [1], binary_only("meta.xml", file))
    assert read(tmp_path / "d_0_Ch2.ome.tif").channels == ("Gewürz 0-c0", "Gewürz 0-c1")
    assert [row.image for row in find_images([str(tmp_path)]).rows] == ["d_0_Ch1"]


def test_a_micro_sign_in_another_encoding_costs_no_metadata(tmp_path: Path) -> None:
    xml = ome_xml(image_xml("one", [At()], 0.25)).replace(
        'PhysicalSizeX="0.25"', 'PhysicalSizeX="0.25" PhysicalSizeXUnit="µm"'
    )
    tifffile.imwrite(
        tmp_path / A, np.ones(SHAPE, "u2"), description=xml.encode("cp1252"), metadata=None
    )
    assert read(tmp_path / A) == Read([1], "YX", 0.25, ("one-c0",))


def test_a_member_finds_its_metadata_in_another_tiff(tmp_path: Path) -> None:
    write_tiff(tmp_path / A, [1], ome_xml(TWO, A))
    write_tiff(tmp_path / B, [2], binary_only(A, B))
    assert read(tmp_path / B) == Read([2], "YX", 0.2, ("two-c0",))


@pytest.mark.parametrize(
    "empty",
    [
        image_xml("empty", [], 9.9),
        image_xml("empty", [], 9.9).replace("<MetadataOnly/>", ""),
        image_xml("empty", [At(count=0)], 9.9),
        image_xml("empty", [], 9.9) + image_xml("empty too", [], 8.8),
    ],
)
def test_metadata_of_an_image_without_planes_are_no_other_images(
    tmp_path: Path, empty: str
) -> None:
    inner = empty + image_xml("one", [At(page=0)], 0.2) + image_xml("two", [At(page=1)], 0.4)
    write_tiff(tmp_path / A, [1, 2], ome_xml(inner))
    assert read(tmp_path / A, 0) == Read([1], "YX", 0.2, ("one-c0",))
    assert read(tmp_path / A, "two") == Read([2], "YX", 0.4, ("two-c0",))


def test_metadata_of_a_gone_image_are_no_other_images(tmp_path: Path) -> None:
    for name in write_positions(tmp_path)[:2]:
        (tmp_path / name).unlink()
    assert read(tmp_path / "exp_MMStack_Pos2.ome.tif") == Read([3], "YX", 3, ("Pos2-c0",))


@pytest.mark.parametrize("with_uuid", [True, False])
def test_a_renamed_file_holds_its_own_planes(tmp_path: Path, with_uuid: bool) -> None:
    inner = image_xml("one", [At(A)], 0.1)
    write_tiff(tmp_path / "new.ome.tif", [7], ome_xml(inner, A if with_uuid else None))
    assert read(tmp_path / "new.ome.tif").values == [7]


def lost_member(folder: Path) -> str:
    write_companion(folder)
    (folder / "d_0_Ch2.ome.tif").unlink()
    return "d_0_Ch1.ome.tif"


def lost_stack(folder: Path) -> str:
    planes = [At(A), *(At(f"lost{n}.ome.tif", z=n + 1) for n in range(6))]
    write_set(folder, {A: [1]}, image_xml("stack", planes, 1, (7, 1, 1)))
    return A


def lost_companion(folder: Path) -> str:
    write_companion(folder)
    (folder / "d.companion.ome").unlink()
    return "d_0_Ch1.ome.tif"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lost_member, "its planes lie also in d_0_Ch2.ome.tif: no such file, expected all 2 files"),
        (lost_stack, r"also in lost0.ome.tif, .*lost3.ome.tif ...: no such file, expected all 7"),
        (lost_companion, "its metadata lie in 'd.companion.ome': no such file, expected this file"),
    ],
)
def test_a_missing_member_is_named(
    tmp_path: Path, write: Callable[[Path], str], message: str
) -> None:
    path = tmp_path / write(tmp_path)
    with pytest.raises(ImageMissing, match=message) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("holder", ["../d.companion.ome", "/data/d.companion.ome", "..\\d.ome"])
def test_no_metadata_elsewhere_are_read(tmp_path: Path, holder: str) -> None:
    write_tiff(tmp_path / A, [1], binary_only(holder, A))
    with pytest.raises(ImageUnfit, match=r"its metadata lie in .*, expected files beside it"):
        read(tmp_path / A)


def test_metadata_that_do_not_name_the_file_are_not_taken_for_its_own(tmp_path: Path) -> None:
    write_companion(tmp_path)
    write_tiff(tmp_path / A, [1], binary_only("d.companion.ome", A))
    with pytest.raises(ImageUnfit, match="expected this file to name its planes"):
        read(tmp_path / A)


def test_metadata_that_do_not_fit_the_pages_of_a_set_are_refused(tmp_path: Path) -> None:
    wide = TWO.replace(f'SizeX="{SHAPE[1]}"', 'SizeX="999"')
    write_set(tmp_path, {A: [1], B: [2]}, wide)
    with pytest.raises(ImageUnfit, match=r"do not fit the pages|damaged TIFF"):
        read(tmp_path / A)


@pytest.mark.parametrize(
    ("name", "is_left_out"),
    [("label", True), ("macro image", True), ("slide 1 - Thumbnail", True), ("unlabelled", False)],
)
def test_the_label_of_a_slide_is_left_out_and_said_so(
    tmp_path: Path, name: str, is_left_out: bool
) -> None:
    inner = image_xml("slide", [At(page=0)], 0.2) + image_xml(name, [At(page=1)], 9)
    write_tiff(tmp_path / A, [1, 2], ome_xml(inner))
    (look,) = inspect_images([ImageRow("a", tmp_path / A)])
    if is_left_out:
        assert read(tmp_path / A).values == [1]
        assert [row.selection.scene for row in look.rows] == [None]
        assert look.remarks == (f"left out as label or thumbnail: {name}",)
    else:
        assert [row.selection.scene for row in look.rows] == [0, 1]


def test_a_smaller_page_is_left_out_and_said(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.ones((32, 32), np.uint16), metadata=None)
        writer.write(np.ones((8, 8, 3), np.uint8), photometric="rgb", metadata=None)
    (inspection,) = inspect_images([ImageRow("a", tmp_path / "a.tif")])
    assert inspection.remarks == ("left out as label or thumbnail: series 1",)
