"""Inspect image files: their scenes, pixel sizes, and the choices that the user has to make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..errors import ImageUnfit
from ..images.planes import Planes
from ..images.readers import Source, open_source
from ..images.selection import PICK_RULE, Pick
from .sheet import ImageRow

#: Files inspected at the same time; most of the time is waiting for the file system.
_THREADS = 8
_CHOICES = {
    "T": f"time points; write into t which: {PICK_RULE}",
    "Z": f"depths; write into z which: {PICK_RULE}, or volume, as one stack",
}


@dataclass(frozen=True)
class Look:
    """The result for one file.

    ``rows`` has one row per scene. ``remarks`` are choices to make, or the reason why the file
    cannot be read.
    """

    rows: tuple[ImageRow, ...]
    remarks: tuple[str, ...]


def look_at(rows: Sequence[ImageRow]) -> Iterator[Look]:
    """Inspect the file of each row, in order; only PNG and JPEG files are decoded.

    A file that cannot be read keeps its row, so that a run reports it.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_look, rows)


def summary(looks: Iterable[Look]) -> list[str]:
    """Return each remark once, with the number of its images and the first of them."""
    images: dict[str, list[str]] = {}
    for look in looks:
        for remark in look.remarks:
            images.setdefault(remark, []).append(look.rows[0].image)
    return [
        f"{ids[0]}: {remark}" if len(ids) == 1 else f"{len(ids)} images, first {ids[0]}: {remark}"
        for remark, ids in images.items()
    ]


def _look(row: ImageRow) -> Look:
    try:
        with open_source(row.path, 0) as source:
            names = source.scene_names
            if len(names) == 1:
                return _scene(row, source)
            scenes = [_scene(_numbered(row, 0), source)]
        for number in range(1, len(names)):
            with open_source(row.path, number) as source:
                scenes.append(_scene(_numbered(row, number), source))
    except ImageUnfit as error:
        return Look((row,), (str(error).removeprefix(f"{row.path}: "),))
    remarks = dict.fromkeys(remark for look in scenes for remark in look.remarks)
    shown = ", ".join(filter(None, names[:8])) + (" ..." if len(names) > 8 else "")
    called = f" ({shown})" if shown else ""
    first = f"{len(scenes)} scenes{called}; delete the rows of those not wanted"
    return Look(tuple(look.rows[0] for look in scenes), (first, *remarks))


def _numbered(row: ImageRow, scene: int) -> ImageRow:
    selection = replace(row.selection, scene=scene)
    return replace(row, image=f"{row.image}_s{scene}", selection=selection)


def _scene(row: ImageRow, source: Source) -> Look:
    return Look((replace(row, pixel_size_um=source.pixel_size_um),), _remarks(row, source))


def _remarks(row: ImageRow, source: Source) -> tuple[str, ...]:
    sizes = dict(zip(source.axes, source.shape, strict=True))
    remarks = [f"{sizes[each]} {text}" for each, text in _CHOICES.items() if sizes.get(each, 1) > 1]
    channels = sizes.get("C", 1)
    if channels > 1:
        names = ", ".join(filter(None, source.channel_names))
        called = f" ({names})" if names else ""
        remarks.append(
            f"{channels} channels{called}; write into channel one, or a pair, or nothing for all"
        )
    chosen = replace(row.selection, t=Pick("index", 0, 0), z=Pick("index", 0, 0))
    try:
        Planes(row.path, source, chosen)
    except ImageUnfit as error:
        remarks.append(str(error).removeprefix(f"{row.path}: "))
    return tuple(remarks)
