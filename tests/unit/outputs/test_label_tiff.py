"""Labels as OME-TIFF: the same labels, axes and sizes, read back by tifffile."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from samcourier.images.geometry import Geometry
from samcourier.images.readers import open_source
from samcourier.outputs.label_tiff import write_label_tiff


def ids(*shape: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint32)
    mask[..., 1:5, 2:6] = 70_001
    mask[..., 7:, :] = 2**32 - 1
    return mask


@pytest.mark.parametrize(
    ("axes", "shape", "spacing_um"),
    [
        ("YX", (20, 30), (0.25, 0.5)),
        ("YX", (20, 30), (None, None)),
        ("ZYX", (3, 20, 30), (2.0, 0.5, 0.5)),
        ("TYX", (3, 20, 30), (None, 0.5, 0.5)),
        ("TZYX", (2, 3, 20, 30), (None, 2.0, 0.5, 0.5)),
    ],
)
def test_it_comes_back_as_it_was(
    tmp_path: Path, axes: str, shape: tuple[int, ...], spacing_um: tuple[float | None, ...]
) -> None:
    path, mask = tmp_path / "cell.ome.tif", ids(*shape)
    write_label_tiff(path, mask, Geometry.in_um(axes, spacing_um))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert (series.axes, series.dtype) == (axes, np.uint32)
        assert tiff.pages.first.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        np.testing.assert_array_equal(series.asarray(), mask)
        pixels = ElementTree.fromstring(tiff.ome_metadata or "").find("{*}Image/{*}Pixels")
    assert pixels is not None
    for axis in "XYZ":
        size_um = dict(zip(axes, spacing_um, strict=True)).get(axis)
        assert pixels.get(f"PhysicalSize{axis}") == (str(size_um) if size_um else None)
    with open_source(path) as source:
        assert source.geometry.sizes_um(axes) == spacing_um
