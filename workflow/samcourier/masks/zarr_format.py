"""The layout of a mask in OME-Zarr: levels, chunks, compression and OME attributes.

QuPath, Fiji and napari read 0.4 (zarr v2, blosc, ``/`` between the indices of a chunk); 0.5 is
zarr v3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zarr

from .coordinates import Coordinates
from .integrity import OmeZarrVersion

MASK_AXES = ("YX", "ZYX", "TYX", "TZYX")

CHUNK_EDGE = 1024
_SMALLEST_LEVEL_EDGE = 256
#: Level 1 takes a quarter of the time of level 5 for 1/8 to 1/3 more bytes; masks are about 1 % of
#: the size of the pixels. Blosc's default blocks, smaller at low levels, would cost time and bytes
#: (docs/outputs.md).
_BLOSC_LEVEL = 1
_BLOSC_BLOCK_BYTES = 1 << 20


def level_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shape of every level of a mask, the largest first."""
    shapes = [shape]
    while max(shape[-2:]) > _SMALLEST_LEVEL_EDGE:
        shape = (*shape[:-2], *(-(-size // 2) for size in shape[-2:]))
        shapes.append(shape)
    return shapes


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the chunks of a level of this shape."""
    chunk_y, chunk_x = (min(CHUNK_EDGE, size) for size in shape[-2:])
    # Small planes share a chunk; otherwise each plane of a stack would be a tiny file.
    planes = max(1, CHUNK_EDGE**2 // (chunk_y * chunk_x))
    chunk_tz: list[int] = []
    for size in shape[-3::-1]:
        chunk_tz.insert(0, min(planes, size))
        planes = max(1, planes // size)
    return (*chunk_tz, chunk_y, chunk_x)


def create_array(
    path: Path, shape: tuple[int, ...], axes: str, ome_zarr: OmeZarrVersion
) -> zarr.Array[Any]:
    """Create the uint32 array of one level; empty chunks are written as well."""
    import numcodecs
    import zarr
    from zarr.codecs import BloscCodec

    is_v2 = ome_zarr == "0.4"
    return zarr.create_array(
        path,
        shape=shape,
        dtype="uint32",
        chunks=chunk_shape(shape),
        compressors=(
            numcodecs.Blosc("zstd", _BLOSC_LEVEL, numcodecs.Blosc.NOSHUFFLE, _BLOSC_BLOCK_BYTES)
            if is_v2
            else BloscCodec(
                cname="zstd",
                clevel=_BLOSC_LEVEL,
                shuffle="noshuffle",
                blocksize=_BLOSC_BLOCK_BYTES,
            )
        ),
        fill_value=0,
        zarr_format=2 if is_v2 else 3,
        chunk_key_encoding={"name": "v2" if is_v2 else "default", "separator": "/"},
        dimension_names=None if is_v2 else list(axes.lower()),
        config={"write_empty_chunks": True},
    )


def ome_attributes(
    path: Path,
    axes: str,
    level_count: int,
    coordinates: Coordinates,
    ome_zarr: OmeZarrVersion,
    source: str | None,
) -> dict[str, Any]:
    """Return the OME attributes of the mask at ``path``."""
    datasets = []
    for name in range(level_count):
        factors = [2**name if axis in "YX" else 1 for axis in axes]
        transformations = coordinates.at_level(factors)
        datasets.append({"path": str(name), "coordinateTransformations": transformations})
    common = {"coordinateTransformations": coordinates.common} if coordinates.common else {}
    multiscale = {
        "name": path.name.removesuffix(".zip").removesuffix(".ome.zarr"),
        "axes": coordinates.axes,
        "datasets": datasets,
        **common,
        "type": "nearest",
    }
    label = {"source": {"image": source}} if source else {}
    if ome_zarr == "0.4":
        return {
            "multiscales": [{"version": "0.4", **multiscale}],
            "image-label": {"version": "0.4"} | label,
        }
    return {"ome": {"version": "0.5", "multiscales": [multiscale], "image-label": label}}
