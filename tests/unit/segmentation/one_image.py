"""One small image, opened and prepared as the first stage does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from samcourier.images.planes import opened_planes
from samcourier.results.service_description import ServiceDescription
from samcourier.samples.sheet import ImageRow
from samcourier.segmentation.prepared import FileVersion, Prepared, Request, prepare
from samcourier.segmentation.settings import BatchSettings

DESCRIPTION = ServiceDescription(
    engine="scripted",
    model="threshold",
    segmentation_version=1,
    versions={"scripted": "1"},
    device="cpu",
    image_statistics=("intensity_range",),
)


def write_image(root: Path, shape: tuple[int, ...] = (10, 12), axes: str = "YX") -> Path:
    """Write numbers counted up, uint16, of 0.5 micrometres a pixel and 2 a step along Z."""
    path = root / "cell.ome.tif"
    pixels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    sizes_um = {f"PhysicalSize{axis}": 0.5 for axis in "XY"} | {"PhysicalSizeZ": 2.0}
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": axes, **sizes_um})
    return path


@asynccontextmanager
async def prepared_image(
    path: Path, settings: BatchSettings, **cells: Any
) -> AsyncIterator[Prepared]:
    """Prepare the image at ``path`` as "cell"; ``cells`` are of its row."""
    row = ImageRow("cell", path, **cells)
    file = FileVersion.now(path)
    async with opened_planes(path, row.selection) as planes:
        request = Request.of(row, settings, DESCRIPTION)
        yield await prepare(request, file, planes, settings, DESCRIPTION)
