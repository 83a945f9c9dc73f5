"""Find the finished masks that a run would replace, before it replaces them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from samservice.contract.identity import DISTRIBUTION

from ..errors import InputError
from ..formatting import first_names
from ..results.image_log import ImageLog, read_image_log
from ..results.layout import find_mask, log_path
from ..results.service_description import is_older_version
from ..samples.sheet import ImageRow
from ..settings.run_settings import RunSettings

#: Concurrent reads: a network file system answers each one slowly, but many at a time.
_CONCURRENT_READS = 16

_Difference = Literal["other settings", "older version"]


@dataclass(frozen=True)
class FinishedMasks:
    """Ids of the images whose finished mask differs from what the run would make.

    ``other_settings`` have other parameters or another engine or model, ``older_version`` only a
    lower version of the engine.
    """

    other_settings: tuple[str, ...]
    older_version: tuple[str, ...]


def find_finished_masks(
    rows: Iterable[ImageRow],
    dataset_dir: Path,
    settings: RunSettings,
    service: Mapping[str, Any] | None = None,
) -> FinishedMasks:
    """Return the finished masks of ``rows`` that differ from ``settings``, by their image logs.

    ``service`` is the description of the service that the run uses. Without it, only the parameters
    are compared.
    """
    rows = list(rows)

    def difference(row: ImageRow) -> _Difference | None:
        log = read_image_log(log_path(dataset_dir, row.image))
        if log is None or log.status != "done" or not find_mask(dataset_dir, row.image).exists():
            return None
        return _difference(log, {**settings.parameters, **row.parameters}, service)

    with ThreadPoolExecutor(_CONCURRENT_READS) as executor:
        found = dict(zip((row.image for row in rows), executor.map(difference, rows), strict=True))
    return FinishedMasks(_with(found, "other settings"), _with(found, "older version"))


def check_replacement(finished: FinishedMasks, settings: RunSettings) -> list[str]:
    """Return the lines that name the masks which the run will replace.

    Raises InputError if the run is limited to a subset and would replace masks with other settings
    although ``replace`` is not set: the dataset would hold masks of both.
    """
    others, older = finished.other_settings, finished.older_version
    if others and settings.subset is not None and not settings.replace:
        raise InputError(
            f"images: {first_names(others)} already {_have(others)} with other parameters or of"
            " another engine or model, expected replace: true to make them again, or another"
            " dataset: for a trial of the settings"
        )
    reasons = {"with other settings": others}
    if settings.replace:
        reasons["of an older version of the engine"] = older
    return [
        f"{_masks(images)} {reason} will be made again: {first_names(images)}"
        for reason, images in reasons.items()
        if images
    ]


def _difference(
    log: ImageLog, parameters: Mapping[str, Any], service: Mapping[str, Any] | None
) -> _Difference | None:
    if log.parameters != parameters:
        return "other settings"
    if service is None:
        return None
    if is_older_version(log.service, service):
        return "older version"
    models = ("engine", "model", "model_sha256", DISTRIBUTION)
    is_other = any(log.service.get(name) != service.get(name) for name in models)
    return "other settings" if is_other else None


def _with(found: Mapping[str, _Difference | None], difference: _Difference) -> tuple[str, ...]:
    return tuple(image for image, each in found.items() if each == difference)


def _have(images: tuple[str, ...]) -> str:
    return "has a mask" if len(images) == 1 else "have masks"


def _masks(images: tuple[str, ...]) -> str:
    return "1 finished mask" if len(images) == 1 else f"{len(images)} finished masks"
