"""What napari shows of a mask: its reader, without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr.format
import ome_zarr.writer
import pytest
import zarr
from napari_ome_zarr import napari_get_reader

from samcourier.images.geometry import Geometry
from samcourier.masks.coordinates import Coordinates
from samcourier.masks.integrity import OmeZarrVersion
from samcourier.masks.omezarr import write_mask
from samcourier.outputs.input_labels import write_input_labels


@pytest.fixture(params=["0.4", "0.5"])
def version(request: pytest.FixtureRequest) -> OmeZarrVersion:
    return "0.4" if request.param == "0.4" else "0.5"


def layers(path: Path) -> dict[str, list[Any]]:
    """Return what napari would show, by the kind of layer."""
    reader = napari_get_reader(str(path))
    assert reader is not None, f"napari does not know {path.name}"
    found: dict[str, list[Any]] = {}
    for data, settings, kind in reader(str(path)):
        found.setdefault(kind, []).append((data, settings))
    return found


def cells(*shape: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint32)
    mask[..., 3:90, 5:70] = 70_001
    mask[..., 100:, 40:200] = 2**32 - 1
    return mask


@pytest.mark.parametrize(
    ("axes", "shape", "scale"),
    [("YX", (600, 300), [0.5, 0.5]), ("ZYX", (3, 600, 300), [2.0, 0.5, 0.5])],
)
def test_a_mask_is_a_layer_of_labels_with_its_size(
    tmp_path: Path, version: OmeZarrVersion, axes: str, shape: tuple[int, ...], scale: list[float]
) -> None:
    path = tmp_path / "cell.ome.zarr"
    write_mask(
        path,
        cells(*shape),
        axes,
        provenance={},
        coordinates=Coordinates.of(Geometry.in_um(axes, scale)),
        ome_zarr=version,
    )
    ((levels, settings),) = layers(path)["labels"]
    np.testing.assert_array_equal(np.asarray(levels[0]), cells(*shape))
    assert list(settings["scale"]) == scale
    assert len(levels) == 3


def test_labels_in_an_input_are_shown_over_its_channels(
    tmp_path: Path, version: OmeZarrVersion
) -> None:
    image = tmp_path / "cell.ome.zarr"
    formats = {"0.4": ome_zarr.format.FormatV04, "0.5": ome_zarr.format.FormatV05}
    group = zarr.open_group(image, mode="w", zarr_format=2 if version == "0.4" else 3)
    pixels = np.ones((2, 300, 280), np.uint16)
    ome_zarr.writer.write_image(pixels, group, axes="cyx", fmt=formats[version]())
    write_input_labels(
        image,
        None,
        "run_cell",
        cells(300, 280),
        "YX",
        [("C", 2), ("Y", 300), ("X", 280)],
        provenance={},
    )
    found = layers(image)
    assert len(found["image"]) == 1
    ((levels, _),) = found["labels"]
    np.testing.assert_array_equal(np.asarray(levels[0]).reshape(300, 280), cells(300, 280))
