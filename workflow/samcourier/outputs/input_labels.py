"""Write a mask into ``labels/`` of its OME-Zarr input, where viewers look for it.

The image's arrays and metadata are never opened for writing. A complete label group is moved into
``labels/`` by a rename; then another rename adds its name to the list of labels.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..files.atomic import write_atomic
from ..files.strict_json import read_json
from ..images.readers.ngff import flat_multiscale, is_before_0_6, ngff_version
from ..images.readers.ome_zarr import image_folder, is_zarr, ome_attributes
from ..masks.coordinates import Coordinates
from ..masks.integrity import OmeZarrVersion, read_provenance
from ..masks.omezarr import MaskFacts, MaskPixels, remove_leftovers, write_mask
from ..masks.zarr_format import MASK_AXES

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class LabelsRefused(Exception):
    """Labels cannot be written into this input; the message states why."""


def write_input_labels(
    image: Path,
    scene: int | str | None,
    name: str,
    mask: MaskPixels,
    mask_axes: str,
    file_axes: Sequence[tuple[str, int]],
    *,
    provenance: dict[str, Any],
) -> tuple[Path, MaskFacts]:
    """Write ``mask`` as the label ``name`` of an OME-Zarr image; return its folder and facts.

    The label has the image's own axes, units and transformations, whatever the sheet says of the
    pixel size, so that it lies on the image.

    Args:
        image: The OME-Zarr folder.
        scene: The image in a bioformats2raw folder.
        name: Name of the label.
        mask: uint32 with the axes ``mask_axes``.
        mask_axes: Such as "ZYX".
        file_axes: Letter and size of each axis of the image.
        provenance: See :func:`samcourier.masks.omezarr.write_mask`.

    Raises:
        LabelsRefused: The input is no OME-Zarr folder, is read-only, has consolidated metadata, a
            label of this name by another program, or transformations other than scales and
            translations; or the mask does not cover the whole image; or the disk fails.
    """
    if not is_zarr(image):
        raise LabelsRefused(f"{image} is no OME-Zarr folder, which labels need")
    folder = image_folder(image, scene)
    ome_zarr: OmeZarrVersion = "0.5" if (folder / "zarr.json").is_file() else "0.4"
    _check_version(folder)
    _check_unconsolidated(folder)
    whole_axes, shape = _whole(image, mask.shape, mask_axes, file_axes)
    coordinates = _image_coordinates(folder, [letter not in "CS" for letter, _ in file_axes])
    label = folder / "labels" / name
    if os.path.lexists(label) and read_provenance(label) is None:
        raise LabelsRefused(f"{label} exists and was not written by samcourier; rename it")
    try:
        with _locked(folder), _labels_group(folder, ome_zarr) as labels:
            remove_leftovers(labels, (name,))
            facts = write_mask(
                labels / name,
                mask if shape == mask.shape else _Reshaped(mask, shape),
                whole_axes,
                provenance=provenance,
                coordinates=coordinates,
                ome_zarr=ome_zarr,
                source="../../",
            )
            _list_label(labels, name, ome_zarr)
    # The input may be on another disk than the results: the mask is valid, the run continues.
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise LabelsRefused(f"{folder} is read-only ({error.strerror})") from error
        raise LabelsRefused(f"{label} cannot be written ({error.strerror or error})") from error
    return label, facts


class _Reshaped:
    """A mask with the axes of length 1 of its image."""

    dtype = np.dtype(np.uint32)

    def __init__(self, mask: MaskPixels, shape: tuple[int, ...]) -> None:
        self._mask, self.shape = mask, shape
        self._kept = [at for at, size in enumerate(shape) if size != 1 or at >= len(shape) - 2]

    def __getitem__(self, block: Any) -> Any:
        if isinstance(block, tuple) and len(block) == len(self.shape):
            pixels = np.asarray(self._mask[tuple(block[at] for at in self._kept)])
            sizes = [
                len(range(*part.indices(size)))
                for part, size in zip(block, self.shape, strict=True)
            ]
            return pixels.reshape(sizes)
        return np.asarray(self._mask[...]).reshape(self.shape)[block]


def _whole(
    image: Path, mask_shape: tuple[int, ...], mask_axes: str, file_axes: Sequence[tuple[str, int]]
) -> tuple[str, tuple[int, ...]]:
    """Return axes and shape of a label that covers the whole image.

    Raises LabelsRefused if the mask covers a part only, or if no mask has the image's axes.
    """
    sizes = dict(zip(mask_axes, mask_shape, strict=True))
    axes = "".join(letter for letter, _ in file_axes if letter not in "CS")
    for letter, size in file_axes:
        if letter not in "CS" and sizes.get(letter, 1) != size:
            raise LabelsRefused(
                f"the mask covers {sizes.get(letter, 1)} of {size} along {letter} of {image};"
                " a label must cover the whole image"
            )
    if axes not in MASK_AXES:
        raise LabelsRefused(f"{image} has the axes {axes}, expected one of {', '.join(MASK_AXES)}")
    return axes, tuple(size for letter, size in file_axes if letter not in "CS")


def _check_version(folder: Path) -> None:
    """Refuse labels where they would have another version than their image."""
    root = read_json(folder / "zarr.json")
    attributes = root.get("attributes") if isinstance(root, dict) else None
    ome = attributes.get("ome") if isinstance(attributes, dict) else None
    version = ngff_version(ome) if isinstance(ome, dict) else None
    if not is_before_0_6(version):
        raise LabelsRefused(
            f"{folder} is OME-Zarr {version}, whose labels are not written: no validator reads"
            " them yet"
        )


def _image_coordinates(folder: Path, is_kept: Sequence[bool]) -> Coordinates:
    """Return the image's own coordinates along the dimensions that a label has, too."""
    import zarr

    multiscale = flat_multiscale(ome_attributes(zarr.open_group(folder, mode="r")))

    def kept(values: Sequence[Any]) -> list[Any]:
        return [value for value, keep in zip(values, is_kept, strict=True) if keep]

    def transformations(holder: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        found = []
        for step in holder.get("coordinateTransformations") or []:
            kind = step.get("type")
            if kind == "identity":
                continue
            numbers = step.get(kind) if kind in ("scale", "translation") else None
            if not isinstance(numbers, list) or not all(map(_is_finite, numbers)):
                raise LabelsRefused(
                    f"{folder} has the transformation {step}, expected a scale or a translation of"
                    " finite numbers"
                )
            found.append({"type": kind, kind: kept(step[kind])})
        return tuple(found)

    axes = [
        axis
        if isinstance(axis, dict)
        else {"name": axis, "type": "time" if axis == "t" else "space"}
        for axis in kept(multiscale["axes"])
    ]
    level = transformations(multiscale["datasets"][0])
    return Coordinates(
        tuple(axes),
        level or ({"type": "scale", "scale": [1.0] * len(axes)},),
        transformations(multiscale),
    )


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def _check_unconsolidated(folder: Path) -> None:
    root = read_json(folder / "zarr.json")
    if (isinstance(root, dict) and root.get("consolidated_metadata")) or (
        folder / ".zmetadata"
    ).exists():
        raise LabelsRefused(f"{folder} has consolidated metadata; readers would not see new labels")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the image: several batches may have scenes, channels or planes of one file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _labels_group(folder: Path, ome_zarr: OmeZarrVersion) -> Iterator[Path]:
    """Yield the folder to write the label into; a new ``labels/`` appears together with it."""
    labels, part = folder / "labels", folder / ".labels.part"
    if labels.is_dir():
        yield labels
        return
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        if ome_zarr == "0.4":
            (part / ".zgroup").write_text('{"zarr_format": 2}', encoding="ascii")
        yield part
        os.rename(part, labels)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _list_label(labels: Path, name: str, ome_zarr: OmeZarrVersion) -> None:
    path = labels / _attributes_file(ome_zarr)
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise LabelsRefused(f"{path} is damaged, expected the metadata of a group")
    held = content if ome_zarr == "0.4" else content.get("attributes", {}).get("ome", {})
    names = held.get("labels") or []
    if name not in names:
        write_atomic(path, _with_labels(content, [*names, name], ome_zarr))


def _with_labels(content: dict[str, Any], names: list[str], ome_zarr: OmeZarrVersion) -> str:
    """Return the group's metadata with these labels and everything else unchanged."""
    if ome_zarr == "0.4":
        return json.dumps(content | {"labels": names}, indent=1)
    attributes = content.get("attributes", {})
    ome = {"version": "0.5"} | attributes.get("ome", {}) | {"labels": names}
    group = {"zarr_format": 3, "node_type": "group"} | content
    return json.dumps(group | {"attributes": attributes | {"ome": ome}}, indent=1)


def _attributes_file(ome_zarr: OmeZarrVersion) -> str:
    return ".zattrs" if ome_zarr == "0.4" else "zarr.json"
