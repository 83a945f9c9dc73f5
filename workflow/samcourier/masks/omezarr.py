"""Write masks as OME-Zarr, complete or not at all.

A missing chunk reads as background and passes every OME-Zarr validator. Therefore each mask has
its file count, bytes and SHA-256 in the attribute ``samcourier``, empty chunks are written as
well, and a mask appears under its name only by a rename.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..errors import ServiceFailed
from ..images.geometry import Geometry
from ..images.readers import check_fits_memory
from .coordinates import Coordinates
from .integrity import OmeZarrVersion, content_sha256, is_zip, stat_mask, zarr_files
from .zarr_format import (
    CHUNK_EDGE,
    MASK_AXES,
    create_array,
    level_shapes,
    ome_attributes,
)
from .zipped import NO_DIGEST, write_zip

if TYPE_CHECKING:
    import zarr

#: Larger masks are written, downsampled and compared in blocks of this many chunks along Y and X.
_CHUNKS_PER_BLOCK = 4
_BLOCK_BYTES = (_CHUNKS_PER_BLOCK * CHUNK_EDGE) ** 2 * 4
#: Part of the definition of :func:`labels_sha256`; another value would change every digest.
_DIGEST_EDGE = 1024
_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(?:part|old)")


class MaskPixels(Protocol):
    """The source of a mask to write: an array, or an object that computes blocks on request."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, block: Any, /) -> Any:
        """Return the pixels of a block, given by one slice per axis or ``...``."""
        ...


class MaskFacts(NamedTuple):
    """Files, size and digest of a mask's OME-Zarr folder, which is written before a zip.

    ``file_count`` and ``total_bytes`` cover all chunk and metadata files of the store, including
    those of the root (:func:`samcourier.masks.integrity.zarr_files`). ``content_sha256`` covers the
    relative path, length and bytes of each file; the digest itself is replaced by 64 zeros.
    """

    file_count: int
    total_bytes: int
    content_sha256: str


def check_mask(mask: Any, image_shape: Sequence[int], axes: str) -> np.ndarray:
    """Return ``mask`` as C-contiguous uint32 if it fits its image.

    ``image_shape`` and ``axes`` (e.g. "CYX") are those of the image; the mask has them without C.
    Raises :class:`ServiceFailed` unless it is an integer array of that shape within uint32.
    """
    expected = tuple(size for size, axis in zip(image_shape, axes, strict=True) if axis != "C")
    if not isinstance(mask, np.ndarray):
        raise ServiceFailed(f"the mask is a {type(mask).__name__}, expected an integer array")
    if mask.shape != expected:
        raise ServiceFailed(f"the mask has shape {mask.shape}, expected {expected}")
    if not np.issubdtype(mask.dtype, np.integer):
        odd = "" if mask.dtype.kind != "f" or np.isfinite(mask).all() else " with NaN or infinity"
        raise ServiceFailed(f"the mask is {mask.dtype}{odd}, expected integer labels")
    if mask.size and mask.dtype.kind == "i" and mask.min() < 0:
        raise ServiceFailed(f"the mask holds {mask.min()}, expected labels of 0 and above")
    if mask.size and mask.max() > np.iinfo(np.uint32).max:
        raise ServiceFailed(f"the mask holds {mask.max()}, expected labels within uint32")
    return np.ascontiguousarray(mask, dtype=np.uint32)


def write_mask(
    path: Path,
    mask: MaskPixels,
    axes: str,
    *,
    provenance: dict[str, Any],
    coordinates: Coordinates | None = None,
    ome_zarr: OmeZarrVersion = "0.4",
    source: str | None = None,
) -> MaskFacts:
    """Write ``mask``, uint32, as a label multiscale at ``path``; T and Z may precede Y and X.

    The array is Blosc zstd level 1 without shuffle. Lower levels take every second pixel in y and
    x, so that no new ids appear.

    A mask above 64 MiB is read block by block and never in memory as a whole. The store is written
    to a hidden sibling, read back, and renamed. If the process is killed, ``path`` holds the
    complete old or new mask, or none and a leftover for :func:`remove_leftovers`. The files are not
    synced: after a power failure a mask may be damaged, which
    :func:`samcourier.masks.integrity.is_complete` detects.

    Args:
        path: Folder to write; a ``path`` that ends in .zip becomes one file.
        mask: uint32 with the axes ``axes``.
        axes: One of ``MASK_AXES``.
        provenance: JSON values with the image's ``key``. They are stored in the attribute
            ``samcourier`` together with :func:`labels_sha256` and the returned facts.
        coordinates: Scale, unit and translation along ``axes``; None if unknown.
        ome_zarr: 0.4 is zarr v2, 0.5 is zarr v3.
        source: Path of the image, relative to the mask.

    Raises:
        OSError: The disk fails, with ``path`` as before, or returns other labels than written.
        ValueError: The mask has a wrong dtype, shape or axes, see :func:`check_mask`.
    """
    if mask.dtype != np.uint32 or axes not in MASK_AXES or len(mask.shape) != len(axes):
        expected = f"uint32 and axes {', '.join(MASK_AXES)}"
        raise ValueError(f"mask {mask.dtype} {mask.shape} {axes!r}, expected {expected}")
    if 0 in mask.shape:
        raise ValueError(f"mask of shape {mask.shape}, expected at least one pixel")
    coordinates = coordinates or Coordinates.of(Geometry.unknown(axes))
    if len(coordinates.axes) != len(axes):
        raise ValueError(f"coordinates along {len(coordinates.axes)} axes, expected {axes}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, zipped, aside = (
        path.with_name(f".{path.name}.{secrets.token_hex(4)}.{suffix}")
        for suffix in ("part", "part", "old")
    )
    whole = part
    try:
        part.mkdir()
        level_count, digest = _write_and_digest(part, mask, axes, ome_zarr)
        attributes = ome_attributes(path, axes, level_count, coordinates, ome_zarr, source)
        provenance = provenance | {"labels_sha256": digest}
        facts = _write_root(part, attributes, provenance, ome_zarr)
        if is_zip(path):
            whole = zipped
            write_zip(whole, part, [Path(entry.path) for entry in zarr_files(part)], ome_zarr)
        _compare(path, whole, mask)
        _replace(path, whole, aside=aside)
    finally:
        for leftover in (part, zipped):
            delete(leftover)
    return facts


def read_mask(path: Path) -> np.ndarray:
    """Return level 0 of a mask, uint32, with the axes with which it was written."""
    with opened_mask(path) as labels:
        return np.asarray(labels[...])


def kept_mask(path: Path) -> MaskPixels:
    """Return level 0 of a mask to write it again: in memory, or readable in parts if it is large.

    A large mask in a zip is read as a whole. Raises ImageUnfit or ImageUnread if it exceeds the
    memory.
    """
    with opened_mask(path) as labels:
        nbytes = math.prod(labels.shape) * labels.dtype.itemsize
        if nbytes > _BLOCK_BYTES and not path.is_file():
            return labels
        check_fits_memory(path, nbytes)
        return np.asarray(labels[...])


@contextmanager
def opened_mask(path: Path) -> Iterator[zarr.Array[Any]]:
    """Open level 0 of a mask for reading in parts."""
    import zarr
    from zarr.storage import ZipStore

    if not path.is_file():
        yield zarr.open_array(path / "0", mode="r")
        return
    with ZipStore(path, mode="r") as store:
        yield zarr.open_array(store, path="0", mode="r")


def labels_sha256(mask: np.ndarray | zarr.Array[Any]) -> str:
    """Return the SHA-256 of a mask's uint32 labels, independent of how they are stored.

    It covers the shape, then plane by plane the little-endian pixels in squares of 1024 x 1024
    pixels, row by row from the top left, so that a large mask need not be in memory as a whole.
    """
    digest = hashlib.sha256(f"<u4 {tuple(int(size) for size in mask.shape)}\n".encode())
    *stack, height, width = mask.shape
    corners = itertools.product(range(0, height, _DIGEST_EDGE), range(0, width, _DIGEST_EDGE))
    for position, (y, x) in itertools.product(np.ndindex(*stack), list(corners)):
        square = mask[(*position, slice(y, y + _DIGEST_EDGE), slice(x, x + _DIGEST_EDGE))]
        digest.update(np.ascontiguousarray(square, dtype="<u4").data)
    return digest.hexdigest()


def remove_leftovers(folder: Path, masks: Collection[str]) -> None:
    """Delete the temporary files of killed writers of these masks from ``folder``.

    Call it only while holding the lock of the batch that owns the images: the temporary file of a
    running writer has the same name pattern. Call it once per batch, because it lists the folder.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(".") and (left := _LEFTOVER.fullmatch(name)) and left[1] in masks:
            delete(folder / name)


def _write_and_digest(
    store: Path, mask: MaskPixels, axes: str, ome_zarr: OmeZarrVersion
) -> tuple[int, str]:
    """Write every level and return their number and :func:`labels_sha256`."""
    if not isinstance(mask, np.ndarray):
        import zarr

        level_count = _write_levels(store, mask, axes, ome_zarr)
        return level_count, labels_sha256(zarr.open_array(store / "0", mode="r"))
    # An array in memory is hashed concurrently: sha256 releases the interpreter lock.
    with ThreadPoolExecutor(1) as executor:
        digest = executor.submit(labels_sha256, mask)
        return _write_levels(store, mask, axes, ome_zarr), digest.result()


def _write_levels(store: Path, mask: MaskPixels, axes: str, ome_zarr: OmeZarrVersion) -> int:
    """Write every level, each from the one above it, and return their number."""
    shapes = level_shapes(mask.shape)
    level = mask
    for name, shape in enumerate(shapes):
        array = create_array(store / str(name), shape, axes, ome_zarr)
        for block in _blocks(array):
            array[block] = level[block]
        level = level[..., ::2, ::2] if isinstance(level, np.ndarray) else _Downsampled(array)
    return len(shapes)


class _Downsampled:
    """Every second pixel in y and x of a level on disk."""

    dtype = np.dtype(np.uint32)

    def __init__(self, array: zarr.Array[Any]) -> None:
        *stack, rows, columns = array.shape
        self.shape = (*stack, -(-rows // 2), -(-columns // 2))
        self._array = array

    def __getitem__(self, block: Any) -> Any:
        if block is Ellipsis:
            return self._array[..., ::2, ::2]
        *stack, rows, columns = block
        rows, columns = (slice(2 * each.start, 2 * each.stop, 2) for each in (rows, columns))
        return self._array[(*stack, rows, columns)]


def _blocks(array: zarr.Array[Any]) -> Iterator[Any]:
    """Yield the blocks to write or compare, aligned with the chunks; ``...`` for a small array."""
    if math.prod(array.shape) * array.dtype.itemsize <= _BLOCK_BYTES:
        yield ...
        return
    *stack, chunk_y, chunk_x = array.chunks
    steps = (*stack, _CHUNKS_PER_BLOCK * chunk_y, _CHUNKS_PER_BLOCK * chunk_x)
    yield from itertools.product(
        *(
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(array.shape, steps, strict=True)
        )
    )


def _compare(path: Path, store: Path, mask: MaskPixels) -> None:
    """Raise OSError unless the labels read from the disk are those of ``mask``."""
    with opened_mask(store) as array:
        if not all(np.array_equal(array[block], mask[block]) for block in _blocks(array)):
            raise OSError(errno.EIO, "the mask read back differs from the one written", str(path))


def _write_root(
    store: Path, attributes: dict[str, Any], provenance: dict[str, Any], ome_zarr: OmeZarrVersion
) -> MaskFacts:
    """Write the metadata of the root, the last file, with the facts of the whole store."""
    root = store / ("zarr.json" if ome_zarr == "0.5" else ".zattrs")
    if ome_zarr == "0.4":
        (store / ".zgroup").write_text('{"zarr_format": 2}', encoding="ascii")
    root.touch()
    file_count, other_bytes = _stat_present(store)

    def root_text(total_bytes: int, digest: str) -> str:
        facts = MaskFacts(file_count, total_bytes, digest)._asdict()
        content = attributes | {"samcourier": provenance | facts}
        if ome_zarr == "0.5":
            content = {"zarr_format": 3, "node_type": "group", "attributes": content}
        return json.dumps(content, indent=1, allow_nan=False)

    total_bytes, previous = 0, -1
    # The total includes this file, which contains the total: it converges after a few iterations.
    while total_bytes != previous:
        previous = total_bytes
        total_bytes = other_bytes + len(root_text(previous, NO_DIGEST))
    root.write_text(root_text(total_bytes, NO_DIGEST), encoding="ascii")
    digest = content_sha256(store)
    root.write_text(root_text(total_bytes, digest), encoding="ascii")
    return MaskFacts(file_count, total_bytes, digest)


def _stat_present(store: Path) -> tuple[int, int]:
    found = stat_mask(store)
    if found is None:
        raise OSError(errno.EIO, "the mask just written cannot be listed", str(store))
    return found


def _replace(path: Path, part: Path, *, aside: Path) -> None:
    """Move ``part`` to ``path``, via ``aside``: a non-empty directory cannot be renamed over."""
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        os.rename(part, path)
        return
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(aside, path)
        raise
    delete(aside)


def delete(path: Path) -> None:
    """Delete a mask or a leftover, a folder or a file, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
