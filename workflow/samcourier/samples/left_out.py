"""Files that are no images of a dataset, by their names: thumbnails, and what other tools wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

#: MetaXpress appends digits to ``_thumb``.
_THUMBNAIL = re.compile(r".*[_-]thumb(nail)?s?[0-9a-f-]*")
#: Of Cellpose, which leaves out such names as well: ``cellpose.io.get_image_files``.
_OF_CELLPOSE = re.compile(r".*_(cp_(masks|output|outlines).*|flows(_[0-9])?|cellprob|seg)")
#: Labels and probabilities of any tool, and of ilastik; an image may also be called so.
_OF_AN_IMAGE = re.compile(
    r"(?P<image>.+)[_-](masks?|labels?|outlines|probabilities|uncertainty"
    r"|simple segmentation|object identities|object predictions)"
)


@dataclass(frozen=True)
class LeftOut:
    """A file that is left out, and why."""

    path: str
    reason: str


def reason_to_leave_out(path: str, image_stems: Collection[str]) -> str | None:
    """Return why the file ``path`` is no image of a found dataset, None if it is one.

    ``image_stems`` are :func:`image_stem` of all found files: labels that any tool could have
    written are only left out beside their image, or in a folder beside it.
    """
    stem = image_stem(path)
    name = os.path.basename(stem)
    if _THUMBNAIL.fullmatch(name):
        return "thumbnail"
    if _OF_CELLPOSE.fullmatch(name):
        return "output of Cellpose"
    match = _OF_AN_IMAGE.fullmatch(name)
    if match is not None:
        folder = os.path.dirname(stem)
        images = [os.path.join(each, match["image"]) for each in (folder, os.path.dirname(folder))]
        if any(image in image_stems for image in images):
            return "labels of another image"
    return None


def asks_for_left_out(pattern: str) -> bool:
    """Return True if a pattern itself has such a name, as ``*_cp_masks.png``."""
    name = os.path.basename(image_stem(pattern))
    return any(each.fullmatch(name) for each in (_THUMBNAIL, _OF_CELLPOSE, _OF_AN_IMAGE))


def image_stem(path: str) -> str:
    """Return ``path`` in lower case without the suffixes of its format."""
    return re.sub(r"(\.ome)?\.[a-z0-9]+$", "", str(PurePosixPath(path)).lower())
