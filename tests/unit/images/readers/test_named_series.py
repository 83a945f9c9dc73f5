"""A bioformats2raw folder: its images in the order of its list, by the names of its OME-XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from samcourier.errors import ImageUnfit, SceneUnchosen
from samcourier.images.readers.open import open_source
from samcourier.samples.inspection import inspect_images
from samcourier.samples.sheet import ImageRow

from ...ome_files import At, image_xml, ome_xml


def write(
    path: Path,
    values: dict[str, int],
    series: Sequence[str] | None = None,
    names: Sequence[str] = (),
    zarr_format: Any = 2,
) -> None:
    """Write an image of one value at each path; ``series`` and ``names`` describe them."""

    def describe(group: zarr.Group, content: dict[str, Any]) -> None:
        group.attrs.update(content if zarr_format == 2 else {"ome": {"version": "0.5", **content}})

    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    describe(root, {"bioformats2raw.layout": 3})
    for inside, value in values.items():
        group = root.create_group(inside)
        group.create_array("0", data=np.full((6, 8), value, np.uint16))
        scale = {"type": "scale", "scale": [float(value), float(value)]}
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
        dataset = {"path": "0", "coordinateTransformations": [scale]}
        describe(group, {"multiscales": [{"axes": axes, "datasets": [dataset]}]})
    ome = root.create_group("OME")
    if series is not None:
        describe(ome, {"series": list(series)})
    if names:
        inner = "".join(image_xml(name, [At()]) for name in names)
        (path / "OME/METADATA.ome.xml").write_text(ome_xml(inner), encoding="utf-8")


def value(path: Path, scene: Any = None) -> int:
    with open_source(path, scene) as source:
        pixels = source.read((slice(None), slice(None)))
        assert source.geometry.axis("X").size_um == pixels[0, 0]
        return int(pixels[0, 0])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("values", "series", "names", "scenes"),
    [
        ({"0": 1, "1": 2}, None, (), {0: 1, 1: 2}),
        ({"0": 1, "1": 2}, None, ("left", "right"), {0: 1, "left": 1, "right": 2}),
        ({"0": 1, "1": 2}, ("1", "0"), ("left", "right"), {0: 2, "left": 2, "right": 1}),
        ({"a": 1, "b": 2}, ("b", "a"), (), {0: 2, "b": 2, "a": 1}),
        ({"0": 1, "1": 2}, ("0", "1"), ("too", "many", "names"), {0: 1, 1: 2}),
    ],
)
def test_a_scene_is_chosen_by_its_place_or_name(
    tmp_path: Path, zarr_format: int, values: Any, series: Any, names: Any, scenes: Any
) -> None:
    write(tmp_path / "a.zarr", values, series, names, zarr_format)
    assert {scene: value(tmp_path / "a.zarr", scene) for scene in scenes} == scenes


def test_the_names_are_shown_where_one_must_be_chosen(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", {"0": 1, "1": 2}, None, ("left", "right"))
    with pytest.raises(SceneUnchosen, match="expected scene 0 to 1 or one of left, right"):
        value(tmp_path / "a.zarr")


def test_the_label_of_a_slide_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", {"0": 1, "1": 2, "2": 3}, None, ("slide", "label image", "macro"))
    assert value(tmp_path / "a.zarr") == 1
    (inspection,) = inspect_images([ImageRow("a", tmp_path / "a.zarr")])
    assert inspection.remarks == ("left out as label or thumbnail: label image, macro",)


def test_a_series_elsewhere_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "secret.zarr", {"0": 7})
    write(tmp_path / "a.zarr", {"0": 1}, ("../secret.zarr/0", "/etc", "0"))
    assert value(tmp_path / "a.zarr") == 1


def test_a_series_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", {"0": 1}, ("0", "1"), ("here", "lost"))
    assert value(tmp_path / "a.zarr", "here") == 1
    with pytest.raises(ImageUnfit, match=r"a\.zarr/1"):
        value(tmp_path / "a.zarr", "lost")
