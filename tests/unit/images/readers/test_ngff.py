"""OME-Zarr 0.6: what its coordinate systems and transformations say of an image."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from yaozarrs import validate_zarr_store

from samcourier.errors import ImageUnfit
from samcourier.images.readers import open_source
from samcourier.images.readers.ngff import flat_multiscale
from samcourier.outputs.input_labels import LabelsRefused, write_input_labels

#: Images of 0.6 that ngff-zarr 0.50 wrote: sums of the indices, uint16, from (2, 3, 20, 30).
WRITTEN = Path(__file__).with_name("ngff_zarr_0.50.zip")
SUMS = np.indices((2, 3, 20, 30)).sum(0).astype("u2")

MICRO = "micrometer"


@pytest.mark.parametrize(
    ("name", "axes", "pixels", "sizes_um"),
    [
        ("czyx", "CZYX", SUMS, {"Z": 2.0, "Y": 0.5, "X": 0.25}),
        ("nanometre", "YX", SUMS[0, 0], {"Y": 0.65, "X": 0.65}),
        ("no_unit", "YX", SUMS[0, 0], {"Y": None, "X": None}),
        ("tyx", "TYX", SUMS[0], {"Y": 0.3, "X": 0.3}),
    ],
)
def test_files_of_ngff_zarr_are_read(
    tmp_path: Path, name: str, axes: str, pixels: np.ndarray, sizes_um: dict[str, float | None]
) -> None:
    with zipfile.ZipFile(WRITTEN) as archive:
        archive.extractall(tmp_path)
    with open_source(tmp_path / f"{name}.ome.zarr") as source:
        assert (source.axes, source.shape) == (axes, pixels.shape)
        np.testing.assert_array_equal(source.read((slice(None),) * pixels.ndim), pixels)
        for letter in "ZYX":
            assert source.geometry.size_um(letter) == sizes_um.get(letter)


def axis(name: str, unit: str | None = MICRO, kind: str = "space") -> dict[str, str]:
    return {"name": name, "type": kind} | ({"unit": unit} if unit else {})


def system(name: str, *axes: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "axes": list(axes)}


def image(*transformations: dict[str, Any], systems: list[dict[str, Any]], **more: Any) -> Any:
    """Return the OME metadata of an image of 0.6."""
    dataset = {"path": "0", "coordinateTransformations": list(transformations)}
    multiscale = {"coordinateSystems": systems, "datasets": [dataset], **more}
    return {"version": "0.6", "multiscales": [multiscale]}


def step(kind: str, value: Any = None, to: Any = None) -> dict[str, Any]:
    """Return a transformation, with an input and an output if it leads ``to`` a system."""
    ends = {"input": {"path": "0"}, "output": to} if to is not None else {}
    key = "transformations" if kind == "sequence" else kind
    return {"type": kind} | ({} if value is None else {key: value}) | ends


PHYSICAL = system("physical", axis("y"), axis("x"))
PIXELS = system("pixels", axis("i", None), axis("j", None))
TO = {"name": "physical"}


def placement(attributes: dict[str, Any]) -> tuple[list[str], list[list[float]]]:
    """Return the names of the axes, and per axis scale and offset of the first level."""
    flat = flat_multiscale(attributes)
    names = [each["name"] for each in flat["axes"]]
    placed = [[1.0, 0.0] for _ in names]
    for each in flat["datasets"][0]["coordinateTransformations"]:
        for at, number in enumerate(each[each["type"]]):
            if each["type"] == "scale":
                placed[at] = [placed[at][0] * number, placed[at][1] * number]
            else:
                placed[at][1] += number
    assert "coordinateTransformations" not in flat
    return names, placed


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            image(step("scale", [0.5, 0.25], TO), systems=[PHYSICAL]),
            [[0.5, 0.0], [0.25, 0.0]],
        ),
        (image(step("identity", to=TO), systems=[PHYSICAL]), [[1.0, 0.0], [1.0, 0.0]]),
        # A pixel is scaled first and moved then, or the other way round: 0.5 * (p + 4).
        (
            image(
                step(
                    "sequence",
                    [step("scale", [0.5, 0.25]), step("translation", [-10, 3])],
                    TO,
                ),
                systems=[PHYSICAL],
            ),
            [[0.5, -10.0], [0.25, 3.0]],
        ),
        (
            image(
                step(
                    "sequence",
                    [step("translation", [4, 0]), step("scale", [0.5, 0.25])],
                    TO,
                ),
                systems=[PHYSICAL],
            ),
            [[0.5, 2.0], [0.25, 0.0]],
        ),
        # Sequences within sequences.
        (
            image(
                step(
                    "sequence",
                    [
                        step("identity"),
                        step("sequence", [step("scale", [2, 3]), step("scale", [0.5, 0.5])]),
                        step("translation", [1, 2]),
                    ],
                    TO,
                ),
                systems=[PHYSICAL],
            ),
            [[1.0, 1.0], [1.5, 2.0]],
        ),
        # An affine matrix that only scales and moves.
        (
            image(step("affine", [[0.5, 0, -10], [0, 0.25, 3]], TO), systems=[PHYSICAL]),
            [[0.5, -10.0], [0.25, 3.0]],
        ),
        # The axes are those of the output, which need not come first.
        (
            image(step("scale", [0.5, 0.25], TO), systems=[PIXELS, PHYSICAL]),
            [[0.5, 0.0], [0.25, 0.0]],
        ),
        # A registration leads out of that system and changes no pixel size.
        (
            image(
                step("scale", [0.5, 0.25], TO),
                systems=[PHYSICAL, system("world", axis("y"), axis("x"))],
                coordinateTransformations=[
                    {
                        "type": "rotation",
                        "rotation": [[0, -1], [1, 0]],
                        "input": TO,
                        "output": {"name": "world"},
                    }
                ],
            ),
            [[0.5, 0.0], [0.25, 0.0]],
        ),
        # A draft of 0.6 names its systems without a dictionary.
        (
            image(step("scale", [0.5, 0.25], "physical"), systems=[PHYSICAL])
            | {"version": "0.6.dev4"},
            [[0.5, 0.0], [0.25, 0.0]],
        ),
    ],
)
def test_scales_and_translations_are_carried(
    attributes: dict[str, Any], expected: list[list[float]]
) -> None:
    names, placed = placement(attributes)
    assert names == ["y", "x"]
    np.testing.assert_allclose(placed, expected)


ROTATED = [[0, -1], [1, 0]]


@pytest.mark.parametrize(
    ("transformation", "named"),
    [
        (step("rotation", ROTATED, TO), "rotation"),
        (step("affine", [[0.5, 0.1, 0], [0, 0.5, 0]], TO), "affine"),
        (step("affine", [[0, 0.5, 0], [0.5, 0, 0]], TO), "affine"),
        ({"type": "affine", "path": "matrix", "output": TO}, "affine"),
        ({"type": "scale", "path": "scale", "output": TO}, "scale"),
        (step("mapAxis", [1, 0], TO), "mapAxis"),
        ({"type": "projectAxis", "droppedInputs": [0], "output": TO}, "projectAxis"),
        ({"type": "displacements", "path": "field", "output": TO}, "displacements"),
        ({"type": "coordinates", "path": "field", "output": TO}, "coordinates"),
        (step("byDimension", to=TO), "byDimension"),
        (step("bijection", to=TO), "bijection"),
        (step("warp", to=TO), "warp"),
        (step("sequence", [step("scale", [1, 1]), step("rotation", ROTATED)], TO), "rotation"),
    ],
)
def test_other_transformations_are_refused_by_name(
    tmp_path: Path, transformation: dict[str, Any], named: str
) -> None:
    write(tmp_path / "image.zarr", image(transformation, systems=[PHYSICAL]))
    message = rf"image\.zarr: the transformation '{named}' into the coordinate system 'physical'"
    with pytest.raises(ImageUnfit, match=message), open_source(tmp_path / "image.zarr"):
        pass


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (image(step("scale", [0.5], TO), systems=[PHYSICAL]), "a scale of 1 numbers for 2 axes"),
        (image(step("identity", to={"name": "lost"}), systems=[PHYSICAL]), "no coordinate system"),
        (image(systems=[PIXELS, PHYSICAL]), "in none of the coordinate systems pixels, physical"),
        (image(systems=[]), "in none of the coordinate systems"),
        (
            image(step("identity", to=TO), systems=[system("physical", axis("x"))]),
            r"axes X for the shape \(20, 30\)",
        ),
        (
            image(step("identity", to=TO), systems=[PHYSICAL]) | {"version": "0.9.dev1"},
            "OME-Zarr 0.9.dev1, expected a version from 0.3 to 0.6",
        ),
        ({"version": "0.6", "scene": {"images": []}}, "an OME-Zarr scene of several images"),
    ],
)
def test_damaged_and_later_metadata_are_refused(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    write(tmp_path / "image.zarr", attributes)
    with pytest.raises(ImageUnfit, match=message), open_source(tmp_path / "image.zarr"):
        pass


def test_labels_are_not_written_into_an_image_of_another_version(tmp_path: Path) -> None:
    folder = tmp_path / "image.zarr"
    write(folder, image(step("scale", [0.5, 0.25], TO), systems=[PHYSICAL]))
    with pytest.raises(LabelsRefused, match=r"image\.zarr is OME-Zarr 0\.6, whose labels are not"):
        write_input_labels(
            folder,
            None,
            "labels",
            np.zeros((20, 30), np.uint32),
            "YX",
            (("Y", 20), ("X", 30)),
            provenance={},
        )
    assert not (folder / "labels").exists()


def test_no_validator_reads_0_6_yet(tmp_path: Path) -> None:
    """When this fails, masks may be written as 0.6 (docs/formats.md)."""
    write(tmp_path / "image.zarr", image(step("scale", [0.5, 0.25], TO), systems=[PHYSICAL]))
    with pytest.raises(NotImplementedError, match=r"version 0\.6 is not implemented"):
        validate_zarr_store(tmp_path / "image.zarr")


def write(path: Path, attributes: dict[str, Any]) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=SUMS[0, 0])
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"] = {"ome": attributes}
    (path / "zarr.json").write_text(json.dumps(content))
