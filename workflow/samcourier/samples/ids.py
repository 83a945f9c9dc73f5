"""The ids of found images, made of the names of their files. Decision 0008."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from ..images.readers.built_in import BUILT_IN
from ..images.readers.ome_set import COMPANION_SUFFIX
from .sheet import SAFE_ID

#: Replaces "/" in an id.
_FOLDER_SEPARATOR = "__"
_READABLE_CHARACTERS = 150
_SUFFIXES = tuple(suffix for reader in BUILT_IN for suffix in reader.suffixes)
#: Dropped from an id: ``.tif``, the suffixes of OME-TIFF and OME-Zarr, and that of a companion.
_DROPPED = re.compile(
    rf"(\.ome\.(tiff?|btf|tf2|tf8|zarr)|{re.escape(COMPANION_SUFFIX)}|\.tif)$", re.IGNORECASE
)


def make_id(name: str) -> str:
    """Return the id for a file's name.

    The suffix of a TIFF, OME-TIFF or OME-Zarr is dropped and "/" becomes "__". A digest is appended
    if the result would not be a safe id or could also come from a name with another suffix or
    folder. Names that differ in these suffixes alone have the same id.
    """
    stem = _DROPPED.sub("", name)
    parts = stem.split("/")
    image = _FOLDER_SEPARATOR.join(parts)
    is_plain = (
        len(image) <= _READABLE_CHARACTERS
        and SAFE_ID.fullmatch(image) is not None
        and not any("__" in part for part in parts)
        and (len(parts) == 1 or not any(part != part.strip("_") for part in parts))
        and not (stem != name and stem.lower().endswith(_SUFFIXES))
    )
    return image if is_plain else id_with_digest(image, name)


def id_with_digest(image: str, name: str) -> str:
    """Return ``image`` as a safe id with eight digits of the digest of ``name`` at its end."""
    plain = unicodedata.normalize("NFKD", image)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", re.sub(r"[\u0300-\u036f]", "", plain))
    plain = plain[-_READABLE_CHARACTERS:].lstrip("._-") or "image"
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
