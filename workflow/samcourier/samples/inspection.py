"""Inspect image files: their scenes, pixel sizes, and the choices that the user has to make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..errors import ImageUnfit, SceneUnchosen
from ..images.geometry import sheet_size
from ..images.planes import Planes
from ..images.readers import Source, open_source
from ..images.selection import PICK_RULE, Pick
from .sheet import ImageRow

#: Files inspected at the same time; most of the time is waiting for the file system.
_THREADS = 8
_CHOICES = {
    "T": f"time points; write into the column t which: {PICK_RULE}",
    "Z": f"depths; write into the column z which: {PICK_RULE}, or volume, as one stack",
}


@dataclass(frozen=True)
class Inspection:
    """The result for one file.

    ``rows`` has one row per scene. ``remarks`` are choices to make, or the reason why the file
    cannot be read.
    """

    rows: tuple[ImageRow, ...]
    remarks: tuple[str, ...]


def inspect_images(rows: Sequence[ImageRow]) -> Iterator[Inspection]:
    """Inspect the file of each row, in order; only PNG and JPEG files are decoded.

    A file that cannot be read keeps its row, so that a run reports it.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_inspect, rows)


def summarise(inspections: Iterable[Inspection]) -> list[str]:
    """Return each remark once, with the number of its images and the id of the first one."""
    images: dict[str, list[str]] = {}
    for inspection in inspections:
        for remark in inspection.remarks:
            images.setdefault(remark, []).append(inspection.rows[0].image)
    return [
        f"{ids[0]}: {remark}" if len(ids) == 1 else f"{len(ids)} images, first {ids[0]}: {remark}"
        for remark, ids in images.items()
    ]


def _inspect(row: ImageRow) -> Inspection:
    try:
        with open_source(row.path, row.selection.scene) as source:
            return _inspect_scene(row, source)
    except SceneUnchosen as unchosen:
        numbers = unchosen.scenes
    except ImageUnfit as error:
        return Inspection((row,), (str(error).removeprefix(f"{row.path}: "),))
    scenes, names = [], []
    for number in numbers:
        numbered = _numbered(row, number)
        try:
            with open_source(row.path, number) as source:
                scenes.append(_inspect_scene(numbered, source))
                names.append(source.scene_names[number])
        except ImageUnfit as error:
            reason = f"scene {number}: {str(error).removeprefix(f'{row.path}: ')}"
            scenes.append(Inspection((numbered,), (reason,)))
    remarks = dict.fromkeys(remark for inspection in scenes for remark in inspection.remarks)
    shown = ", ".join(filter(None, names[:8])) + (" ..." if len(names) > 8 else "")
    names_shown = f" ({shown})" if shown else ""
    first = f"{len(scenes)} scenes{names_shown}; delete the rows of the scenes that you do not need"
    return Inspection(tuple(inspection.rows[0] for inspection in scenes), (first, *remarks))


def _numbered(row: ImageRow, scene: int) -> ImageRow:
    selection = replace(row.selection, scene=scene)
    return replace(row, image=f"{row.image}_s{scene}", selection=selection)


def _inspect_scene(row: ImageRow, source: Source) -> Inspection:
    size = sheet_size(source.geometry)
    return Inspection((replace(row, pixel_size_um=size),), _remarks(row, source))


def _remarks(row: ImageRow, source: Source) -> tuple[str, ...]:
    sizes = dict(zip(source.axes, source.shape, strict=True))
    remarks = [f"{sizes[each]} {text}" for each, text in _CHOICES.items() if sizes.get(each, 1) > 1]
    if left_out := getattr(source, "left_out", ()):
        remarks.append(f"left out as label or thumbnail: {', '.join(left_out)}")
    channels = sizes.get("C", 1)
    if channels > 1:
        names = ", ".join(filter(None, source.channel_names))
        names_shown = f" ({names})" if names else ""
        remarks.append(
            f"{channels} channels{names_shown}; write one or a pair into the column channel,"
            " or leave it empty for all"
        )
    chosen = replace(row.selection, t=Pick("index", 0, 0), z=Pick("index", 0, 0))
    try:
        Planes(row.path, source, chosen)
    except ImageUnfit as error:
        remarks.append(str(error).removeprefix(f"{row.path}: "))
    return tuple(remarks)
