"""The multiscale metadata of OME-Zarr in one form, whatever the version. Standard library only.

Since 0.6 the axes stand in named coordinate systems, and a transformation leads from the array of a
level into one of them. Up to 0.5 the axes stand in the multiscale, and each level has a list of
scales and translations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: The latest version whose metadata are understood.
LATEST = (0, 6)

_Step = dict[str, Any]


class NgffUnsupported(ValueError):
    """The metadata state something that cannot be carried to a mask; the message names it."""


def ngff_version(attributes: Mapping[str, Any]) -> str | None:
    """Return the version that the OME metadata of a group state, None if they state none."""
    multiscales = attributes.get("multiscales")
    first = multiscales[0] if isinstance(multiscales, list) and multiscales else {}
    version = attributes.get("version", first.get("version") if isinstance(first, dict) else None)
    return None if version is None else str(version)


def is_before_0_6(version: str | None) -> bool:
    """Return True for a version that has no coordinate systems, and for none."""
    return _numbers(version) < LATEST


def flat_multiscale(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first multiscale of an image's OME metadata as 0.5 writes it.

    ``axes`` are those of the coordinate system into which the levels are transformed, and each
    level has a list of scales and translations. Transformations from that system to others, such as
    a registration, change neither axes nor pixel size and are left out.

    Raises NgffUnsupported for a later version than :data:`LATEST`, and for a level that is rotated,
    sheared, deformed or has its axes permuted; ValueError, TypeError or LookupError for damaged
    metadata.
    """
    version = ngff_version(attributes)
    if _numbers(version) > LATEST:
        raise NgffUnsupported(f"OME-Zarr {version}, expected a version from 0.3 to 0.6")
    multiscale = dict(attributes["multiscales"][0])
    if "coordinateSystems" not in multiscale:
        if "axes" not in multiscale:
            raise ValueError("no axes, as before OME-Zarr 0.3")
        return multiscale
    system = _intrinsic_system(multiscale)
    axes = system["axes"]
    datasets = [
        {
            **dataset,
            "coordinateTransformations": [
                step
                for transformation in dataset.get("coordinateTransformations") or []
                for step in _flat_steps(transformation, len(axes), str(system.get("name")))
            ],
        }
        for dataset in multiscale["datasets"]
    ]
    multiscale.pop("coordinateTransformations", None)
    return multiscale | {"axes": axes, "datasets": datasets}


def _numbers(version: str | None) -> tuple[int, int]:
    """Return major and minor number of a version such as ``0.6.dev4``, (0, 0) for others."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _intrinsic_system(multiscale: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the coordinate system that the first level's transformations lead to.

    It need not be the first one. Levels without an output are in the only system there is.
    """
    systems = {str(system["name"]): system for system in multiscale["coordinateSystems"]}
    outputs = [
        _name(transformation["output"])
        for transformation in multiscale["datasets"][0].get("coordinateTransformations") or []
        if "output" in transformation
    ]
    if not outputs and len(systems) != 1:
        raise ValueError(f"the levels are in none of the coordinate systems {', '.join(systems)}")
    name = outputs[-1] if outputs else next(iter(systems))
    if name not in systems:
        raise ValueError(f"no coordinate system {name!r} among {', '.join(systems)}")
    return systems[name]  # type: ignore[no-any-return]


def _name(reference: Any) -> str:
    """Return the name of a coordinate system; drafts of 0.6 refer to it by the name alone."""
    return str(reference["name"] if isinstance(reference, dict) else reference)


def _flat_steps(step: Mapping[str, Any], count: int, system: str) -> Iterator[_Step]:
    """Yield the scales and translations of a transformation, of ``count`` numbers each."""
    kind = step["type"]
    if kind == "sequence":
        for each in step["transformations"]:
            yield from _flat_steps(each, count, system)
    elif kind in ("scale", "translation") and isinstance(step.get(kind), list):
        yield {"type": kind, kind: _numbers_of(step[kind], count, kind)}
    elif kind == "affine" and (parts := _diagonal(step.get("affine"), count)):
        yield {"type": "scale", "scale": parts[0]}
        yield {"type": "translation", "translation": parts[1]}
    elif kind == "identity":
        yield {"type": "scale", "scale": [1.0] * count}
    else:
        raise NgffUnsupported(
            f"the transformation {kind!r} into the coordinate system {system!r} cannot be carried"
            " to a mask, expected identity, scale, translation or a sequence of them"
        )


def _numbers_of(numbers: Sequence[Any], count: int, kind: str) -> list[float]:
    if len(numbers) != count:
        raise ValueError(f"a {kind} of {len(numbers)} numbers for {count} axes")
    return [float(each) for each in numbers]


def _diagonal(matrix: Any, count: int) -> tuple[list[float], list[float]] | None:
    """Return scale and translation of an affine matrix, None if it does more."""
    if not isinstance(matrix, list) or len(matrix) != count:
        return None
    rows = [_numbers_of(row, count + 1, "row of an affine matrix") for row in matrix]
    if any(row[at] for number, row in enumerate(rows) for at in range(count) if at != number):
        return None
    return [row[number] for number, row in enumerate(rows)], [row[-1] for row in rows]
