"""The rows of an earlier search, compared with the images that are found now."""

from __future__ import annotations

from collections.abc import Sequence

from .sets import FoundImage
from .sheet import ImageRow


def merge_known(
    known: Sequence[ImageRow], images: Sequence[FoundImage]
) -> tuple[list[ImageRow], list[FoundImage], list[str]]:
    """Return the known rows whose images are still there, the new images, and a line a change.

    A row whose file holds several images of a set by now is replaced by theirs. Of several rows
    whose files are one image by now the first is kept. Rows that name a scene are always kept.
    """
    at: dict[str, list[FoundImage]] = {}
    for image in images:
        for path in image.files or (image.path,):
            at.setdefault(path, []).append(image)
    kept: list[ImageRow] = []
    first: dict[FoundImage, ImageRow] = {}
    merged: dict[str, list[str]] = {}
    remarks = []
    for row in known:
        own = at.get(str(row.path), [])
        of_scene = [each for each in own if each.scene == row.selection.scene]
        if row.selection.scene is None and len(own) > 1 and not of_scene:
            remarks.append(
                f"{row.image}: {row.path} holds {len(own)} images of a set, which have rows of"
                " their own from now on"
            )
            continue
        own = of_scene or own
        if not own:
            continue
        before = first.setdefault(own[0], row)
        if before.path == row.path or row.selection.scene is not None:
            first.update((each, first.get(each, row)) for each in own)
            kept.append(row)
        else:
            merged.setdefault(before.image, [before.image]).append(row.image)
    for image_id, rows in merged.items():
        remarks.append(
            f"{', '.join(rows)}: one image by their metadata, {image_id} from now on, whose mask is"
            f" made again; masks of {', '.join(rows[1:])} from earlier runs stay where they are,"
            " and are not made again"
        )
    return kept, [each for each in images if each not in first], remarks
