"""What reading costs: bytes and time of a stack, plane by plane, against reading it by the chunk.

Each layout holds the same uint16 stack of noise, which does not become smaller. It is read as a
batch reads it for ``z: all``: every plane is hashed for the key, and then read to be sent. Reading
by the chunk is one read of the whole array by zarr or tifffile, hashed plane by plane as well. Both
are read in turns, after a first round that warms the page cache, so that the time is that of
decompression; the fastest round counts, since other work of the machine only adds to it. Bytes are
those that the process asks of files, as Linux counts them.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from figures import Figures

from samcourier.images.planes import open_planes, pixels_sha256
from samcourier.images.selection import Selection, parse_pick

SHAPE = (16, 1024, 1024)
ROUNDS = 15
ALL_PLANES = Selection(z=parse_pick("all", volume=True))
#: How the same stack is stored: chunks and shards of an OME-Zarr, or the options of a TIFF.
LAYOUTS: dict[str, dict[str, Any]] = {
    "zarr_plane_chunks": {"chunks": (1, 1024, 1024)},
    "zarr_z_chunks": {"chunks": (16, 256, 256)},
    "zarr_unaligned_z_chunks": {"chunks": (5, 300, 300)},
    "zarr_shards": {"chunks": (1, 256, 256), "shards": (16, 1024, 1024)},
    "zarr_shards_of_z_chunks": {"chunks": (16, 256, 256), "shards": (16, 1024, 1024)},
    "tiff_plain": {},
    "tiff_deflate": {"compression": "deflate"},
}


def bytes_read() -> int:
    """Return how many bytes this process has asked of files so far."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


def write(folder: Path, name: str, pixels: np.ndarray) -> Path:
    """Write the stack in one layout and return its path."""
    if name.startswith("tiff"):
        path = folder / f"{name}.ome.tif"
        tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "ZYX"}, **LAYOUTS[name])
        return path
    path = folder / f"{name}.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, **LAYOUTS[name])
    array[:] = pixels
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
    }
    return path


def by_the_chunk(path: Path) -> None:
    """Read the whole array at once and hash it plane by plane."""
    if path.suffix == ".tif":
        pixels = tifffile.imread(path)
    else:
        pixels = np.asarray(zarr.open_array(path / "0", mode="r")[:])
    for plane in pixels:
        pixels_sha256(plane, "YX")


def by_the_plane(path: Path) -> None:
    """Read every plane for the key, and again to send it, as a batch does."""
    with open_planes(path, ALL_PLANES) as planes:
        planes.sha256()
        for number in range(len(planes)):
            planes.read(number)


def measured(read: Callable[[Path], None], path: Path) -> tuple[int, float]:
    """Return bytes and seconds of one read."""
    before, start_s = bytes_read(), time.perf_counter()
    read(path)
    return bytes_read() - before, time.perf_counter() - start_s


def main() -> None:
    """Measure every layout and publish the figures."""
    figures = Figures("reading")
    pixels = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        for name in LAYOUTS:
            path = write(Path(folder), name, pixels)
            reads: dict[str, list[tuple[int, float]]] = {"chunk": [], "plane": []}
            for _ in range(1 + ROUNDS):
                reads["chunk"].append(measured(by_the_chunk, path))
                reads["plane"].append(measured(by_the_plane, path))
            chunk_bytes, plane_bytes = (reads[each][-1][0] for each in ("chunk", "plane"))
            chunk_s, plane_s = (
                min(seconds for _, seconds in reads[each][1:]) for each in ("chunk", "plane")
            )
            figures.add(f"{name}_read", plane_bytes / 2**20, "MiB")
            figures.add(f"{name}_bytes_to_chunk", plane_bytes / chunk_bytes, "x")
            figures.add(f"{name}_time", 1000 * plane_s, "ms")
            figures.add(f"{name}_time_to_chunk", plane_s / chunk_s, "x")
    figures.publish()


if __name__ == "__main__":
    main()
