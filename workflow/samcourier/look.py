"""A look into each image file: its scenes, pixel size, and what it leaves to choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from .dataset import ImageRow
from .errors import ImageUnfit
from .planes import open_planes
from .readers import Source, open_source
from .selection import PICK_RULE, Pick

#: Waiting for a network file system is most of it.
_AT_ONCE = 8
_CHOICES = {
    "T": f"time points; write into t which: {PICK_RULE}",
    "Z": f"depths; write into z which: {PICK_RULE}, or volume, as one stack",
}


@dataclass(frozen=True)
class Look:
    """``rows`` has one row a scene. ``remarks`` say what to choose, or why it cannot be read."""

    rows: tuple[ImageRow, ...]
    remarks: tuple[str, ...]


def look_at(rows: Sequence[ImageRow]) -> Iterator[Look]:
    """Yield a look at the file of each row, in their order; no pixels are read but PNG's, JPEG's.

    A file that cannot be read keeps its row, so that a run names it.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(_look, rows)


def summary(looks: Iterable[Look]) -> list[str]:
    """Return each remark once, with how many images it is of and the first of them."""
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
            scene_names = source.scene_names
            if len(scene_names) == 1:
                return Look(
                    (replace(row, pixel_size_um=source.pixel_size_um),), _remarks(row, source)
                )
        scenes = [_scene(row, number) for number in range(len(scene_names))]
    except ImageUnfit as error:
        return Look((row,), (str(error).removeprefix(f"{row.path}: "),))
    remarks = dict.fromkeys(remark for look in scenes for remark in look.remarks)
    names = ", ".join(filter(None, scene_names[:8])) + (" ..." if len(scene_names) > 8 else "")
    called = f" ({names})" if names else ""
    first = f"{len(scenes)} scenes{called}; delete the rows of those not wanted"
    return Look(tuple(look.rows[0] for look in scenes), (first, *remarks))


def _scene(row: ImageRow, number: int) -> Look:
    selection = replace(row.selection, scene=number)
    row = replace(row, image=f"{row.image}_s{number}", selection=selection)
    with open_source(row.path, number) as source:
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
        with open_planes(row.path, chosen):
            pass
    except ImageUnfit as error:
        remarks.append(str(error).removeprefix(f"{row.path}: "))
    return tuple(remarks)
