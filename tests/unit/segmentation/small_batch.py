"""One batch over the scripted transport. As a command: in a process with fewer rights or room."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samcourier.connection import ConnectionManager, OnlyReplica
from samcourier.connection.time_limits import Policy
from samcourier.errors import CourierError
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.manifest import Manifest
from samcourier.results.service_description import ServiceDescription
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.segmentation.batch import BatchRun
from samcourier.segmentation.settings import BatchSettings
from samcourier.settings.run_settings import RunSettings
from samcourier.testing.fake import FakeTransport

#: Capabilities of Linux by which root passes over permissions.
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_PR_CAPBSET_DROP = 24


class BrightestPixel:
    """A service that labels the brightest pixel; ``before`` is called for each image."""

    def __init__(self, before: Callable[[np.ndarray], object] = lambda image: None) -> None:
        self.before = before

    async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> np.ndarray:
        self.before(image_or_embedding)
        mask = np.zeros(image_or_embedding.shape[-2:], np.uint32)
        mask.flat[image_or_embedding.argmax() % mask.size] = 1
        return mask


async def run_batch(
    rows: Sequence[ImageRow], dataset_dir: Path, service: object | None = None
) -> Manifest:
    """Run ``rows`` as batch 0001."""
    identity = {"engine": "scripted", "model": "none", "model_sha256": None}
    transport = FakeTransport(service or BrightestPixel())
    with ConnectionJournal(dataset_dir.parent / "journal.jsonl") as journal:
        manager = ConnectionManager(OnlyReplica([transport]), journal, Policy())
        try:
            await manager.start(len(rows))
            description = ServiceDescription(**identity, segmentation_version=1)
            run = BatchRun(
                BatchSettings(dataset_dir, RunSettings(dataset="cells")), manager, description
            )
            return await run.run(Batch("0001", tuple(rows)))
        finally:
            await manager.close()


def in_a_process(
    paths: Sequence[Path], dataset_dir: Path, file_bytes: int | None = None
) -> dict[str, str]:
    """Run a batch as a user without root's rights; return {image: status or what was said}.

    ``file_bytes`` is the size at which a file is refused more, as a full disk does. What ends the
    whole batch stands under "".
    """

    def less() -> None:
        libc = ctypes.CDLL(None)
        for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    command = [sys.executable, __file__, str(dataset_dir), *map(str, paths)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, preexec_fn=less, capture_output=True, text=True, check=True, env=environment
    )
    said: dict[str, str] = json.loads(done.stdout)
    return said


def main(dataset_dir: Path, paths: Sequence[Path]) -> dict[str, str]:
    rows = [ImageRow(path.name.split(".")[0], path) for path in paths]
    try:
        manifest = asyncio.run(run_batch(rows, dataset_dir))
    except CourierError as error:
        return {"": f"{error.kind}: {error}"}
    return {image: each.failure or each.status for image, each in manifest.images.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])))
