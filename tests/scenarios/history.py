"""What a scenario left, read from the folder alone, against what it should have left."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samcourier.evaluation.check import check_results
from samcourier.masks.integrity import MASK_SUFFIX, is_complete
from samcourier.masks.omezarr import read_mask
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path, mask_path

from .world import BAD_IMAGE, Folder

POLL_S = 0.02
#: Snakemake's own, which stay for its next run.
LASTING_TEMPORARIES = ("snakemake",)


class MaskWatch:
    """Looks at the masks all the time: a mask that is there stays the one it is."""

    def __init__(self, masks: Path) -> None:
        self._masks = masks
        self._over = threading.Event()
        self._seen: dict[str, list[int]] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    @property
    def rewritten(self) -> list[str]:
        """The images whose mask was written more than once."""
        return sorted(image for image, inodes in self._seen.items() if len(inodes) > 1)

    def _look(self) -> None:
        while not self._over.wait(POLL_S):
            for path in self._masks.glob(f"[!.]*{MASK_SUFFIX}"):
                try:
                    inode = path.stat().st_ino
                except FileNotFoundError:
                    continue
                inodes = self._seen.setdefault(path.name.removesuffix(MASK_SUFFIX), [])
                if inode not in inodes:
                    inodes.append(inode)


@dataclass(frozen=True)
class Remains:
    """What is wrong after a scenario; all empty when it went well."""

    lost: tuple[str, ...]
    wrong: tuple[str, ...]
    doubled: tuple[str, ...]
    findings: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        return not any((self.lost, self.wrong, self.doubled, self.findings, self.left))


def is_run_complete(folder: Folder, has_bad_image: bool) -> bool:
    """Tell whether every good image has a whole mask and the bad one its reason."""
    masks = all(is_complete(mask_path(folder.results, image)) for image in folder.images)
    return masks and (not has_bad_image or _has_reason(folder, BAD_IMAGE))


def examine(
    folder: Folder, watch: MaskWatch, expected: dict[str, np.ndarray], has_bad_image: bool
) -> Remains:
    """Compare the finished folder with what the engine itself makes of the images."""
    lost, wrong = [], []
    for image, labels in expected.items():
        mask = mask_path(folder.results, image)
        if not is_complete(mask):
            lost.append(image)
        elif not np.array_equal(read_mask(mask), labels):
            wrong.append(image)
    if has_bad_image and not _has_reason(folder, BAD_IMAGE):
        lost.append(BAD_IMAGE)
    left = [f"process {line}" for line in folder.wait_until_nothing_runs()]
    left += [
        f"temporary {path.name}"
        for path in (folder.directory / "tmp").iterdir()
        if not path.name.startswith(LASTING_TEMPORARIES)
    ]
    made = folder.results.is_dir()
    findings = map(str, check_results(folder.results)) if made else ["there are no results at all"]
    return Remains(tuple(lost), tuple(wrong), tuple(watch.rewritten), tuple(findings), tuple(left))


def _has_reason(folder: Folder, image: str) -> bool:
    log = read_image_log(log_path(folder.results, image))
    return log is not None and log.failure is not None and log.failure.kind == "image"
