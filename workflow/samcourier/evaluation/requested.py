"""Compare a results folder with the images that its last run requested, the rows of its sheet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..masks.integrity import MASK_SUFFIX, MASK_SUFFIXES, TILES_SUFFIX
from ..results.environment import SHEET, read_run_environment
from ..results.image_log import read_image_log
from ..results.layout import OUTPUT_FILES, find_mask, log_path, mask_path, output_path
from ..samples.properties import ANY
from ..samples.sheet import read_sheet

#: Folders of which a results folder has at least one after its first run.
_FOLDERS = ("provenance", "batches", "logs", "masks")


@dataclass(frozen=True)
class Requested:
    """The images of the last run's sample sheet, and which of them have a mask.

    ``images`` are all ids of the sheet. ``subset`` are the ids that the last run was limited to,
    None for all. ``with_mask`` have a log that says done and a mask on disk, ``failed`` a log that
    says failed; the masks' bytes are not read. ``dropped`` are the ids with a log, a mask or an
    output that are no longer in the sheet.
    """

    images: tuple[str, ...]
    subset: tuple[str, ...] | None
    with_mask: tuple[str, ...]
    failed: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def without_mask(self) -> tuple[str, ...]:
        """Ids of the sheet's images that have no mask, in the order of the sheet."""
        masks = set(self.with_mask)
        return tuple(image for image in self.images if image not in masks)


def read_requested(dataset_dir: Path) -> Requested | None:
    """Return the images that the last run requested, None if the folder has no record of it.

    Raises InputError if ``dataset_dir`` is no results folder.
    """
    if not any((dataset_dir / name).is_dir() for name in _FOLDERS):
        raise InputError(
            f"{dataset_dir}: no results folder, expected one with {', '.join(_FOLDERS)}"
        )
    environment = read_run_environment(dataset_dir)
    if environment is None or not (dataset_dir / SHEET).is_file():
        return None
    images = tuple(row.image for row in read_sheet(dataset_dir / SHEET, ANY))
    logs = {image: read_image_log(log_path(dataset_dir, image)) for image in images}
    statuses = {image: log.status for image, log in logs.items() if log is not None}
    subset = environment.config.get("images")
    return Requested(
        images=images,
        subset=tuple(map(str, subset)) if isinstance(subset, list) else None,
        with_mask=tuple(
            image
            for image in images
            if statuses.get(image) == "done" and find_mask(dataset_dir, image).exists()
        ),
        failed=tuple(image for image in images if statuses.get(image) == "failed"),
        dropped=tuple(sorted(set(_images_with_files(dataset_dir)) - set(images))),
    )


def files_of_image(dataset_dir: Path, image: str) -> list[Path]:
    """Return what the results folder holds of an image: masks, kept tiles, log and outputs.

    Labels that were written into the image's own OME-Zarr are no part of the folder.
    """
    mask = mask_path(dataset_dir, image)
    paths = [mask_path(dataset_dir, image, container) for container in MASK_SUFFIXES]
    paths += [mask.with_name(f".{mask.name}{TILES_SUFFIX}"), log_path(dataset_dir, image)]
    paths += [output_path(dataset_dir, image, name) for name in OUTPUT_FILES]
    return [path for path in paths if path.exists()]


def _images_with_files(dataset_dir: Path) -> Iterator[str]:
    folders = [("logs", ".json"), *OUTPUT_FILES.values()]
    folders += [("masks", suffix) for suffix in MASK_SUFFIXES.values()]
    for folder, suffix in folders:
        for path in (dataset_dir / folder).glob(f"[!.]*{suffix}"):
            yield path.name.removesuffix(suffix)
    for path in (dataset_dir / "masks").glob(f".*{MASK_SUFFIX}{TILES_SUFFIX}"):
        yield path.name[1:].removesuffix(MASK_SUFFIX + TILES_SUFFIX)
