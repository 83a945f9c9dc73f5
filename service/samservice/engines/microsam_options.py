"""The options of :class:`.microsam.MicroSamEngine` that need a check, and the name they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contract.errors import WrongParameter

FLOAT32, BFLOAT16 = DTYPES = ("float32", "bfloat16")

Size = tuple[int, int]


def checked_dtype(dtype: str) -> str:
    """Return the dtype. Raises :class:`WrongParameter` unless it is one of DTYPES."""
    if dtype not in DTYPES:
        raise WrongParameter(f"dtype {dtype!r} is unknown, expected {', '.join(DTYPES)}")
    return dtype


def checked_tiling(tile_shape: Sequence[int] | None, halo: Sequence[int] | None) -> dict[str, Size]:
    """Return ``tile_shape`` and ``halo``, or nothing without them. Raises WrongParameter."""
    if tile_shape is None and halo is None:
        return {}
    tile, overlap = size_of(tile_shape), size_of(halo, least=0)
    if tile is None or overlap is None:
        raise WrongParameter(
            f"tile_shape {tile_shape!r} and halo {halo!r}, expected both as [Y, X] in whole "
            "pixels, such as [384, 384] and [64, 64], or neither"
        )
    return {"tile_shape": tile, "halo": overlap}


def size_of(value: object, least: int = 1) -> Size | None:
    """Return a (Y, X) of two integers not below ``least``, None for any other value."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    if any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in value):
        return None
    return value[0], value[1]


def identity(name: str, mode: str, tiling: Mapping[str, Size], dtype: str) -> str:
    """Return the weights' name with all options that change labels."""
    tiles = ""
    if tiling:
        tile, halo = tiling["tile_shape"], tiling["halo"]
        tiles = f", tiles {tile[0]}x{tile[1]} px, halo {halo[0]}x{halo[1]} px"
    return f"{name} ({mode}{tiles}{'' if dtype == FLOAT32 else f', {dtype}'})"
