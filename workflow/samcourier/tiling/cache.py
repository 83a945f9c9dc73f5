"""Keep the masks of finished tiles next to their future mask, each complete or absent.

An interrupted image continues with its finished tiles. They are stored under the image's key, which
covers the pixels, the parameters, the service and the tiling. They are deleted when the mask is
complete or the key changes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samservice.contract.wire import MASK_CODEC, WireError, pack_array, unpack_array

from ..files.atomic import complete_or_absent
from ..files.checksummed import checksummed, read_checksummed
from ..masks.integrity import TILES_SUFFIX

__all__ = ["KeptTile", "TileStore", "discard_tiles"]


@dataclass(frozen=True)
class KeptTile:
    """The service's answer for one tile: uint32 labels (Y, X) and a note."""

    mask: np.ndarray
    note: str | None


class TileStore:
    """The finished tiles of one image. The caller must hold the lock of its batch."""

    def __init__(self, mask_path: Path, key: str) -> None:
        self._key = key
        self.folder = _folder(mask_path)

    def open(self) -> None:
        """Make the folder and delete tiles of another key. Raises OSError."""
        keyed = self.folder / self._key[:32]
        if self.folder.exists() and not keyed.is_dir():
            shutil.rmtree(self.folder)
        keyed.mkdir(parents=True, exist_ok=True)

    def keep(self, plane: int, tile: int, kept: KeptTile) -> None:
        """Write one tile atomically. Raises OSError."""
        record = {"key": self._key, "note": kept.note, "mask": pack_array(kept.mask, MASK_CODEC)}
        with complete_or_absent(self._path(plane, tile)) as part:
            part.write_bytes(checksummed(record))

    def load(self, plane: int, tile: int) -> KeptTile | None:
        """Return a finished tile, None when it is absent or damaged."""
        record = read_checksummed(self._path(plane, tile))
        if record is None or record["key"] != self._key:
            return None
        try:
            return KeptTile(unpack_array(record["mask"], 1 << 40), record["note"])
        except WireError:
            return None

    def load_mask(self, plane: int, tile: int) -> np.ndarray:
        """Return the mask of a finished tile. Raises OSError when it is absent or damaged."""
        kept = self.load(plane, tile)
        if kept is None:
            raise OSError(f"{self._path(plane, tile)}: the finished tile is missing or damaged")
        return kept.mask

    def _path(self, plane: int, tile: int) -> Path:
        return self.folder / self._key[:32] / f"{plane:06d}-{tile:06d}"


def discard_tiles(mask_path: Path) -> None:
    """Delete the finished tiles of this mask."""
    shutil.rmtree(_folder(mask_path), ignore_errors=True)


def _folder(mask_path: Path) -> Path:
    return mask_path.with_name(f".{mask_path.name}{TILES_SUFFIX}")
