"""A `samcourier batch` without calls: masks are hard links to others, with logs and a manifest.

For bench/scale.py, to have a finished folder of 100 000 images within minutes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec.structs import replace

from samcourier.results.image_log import read_image_log, write_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.results.manifest import Manifest, manifest_entry, write_manifest
from samcourier.samples.sheet import read_batch


def main(argv: list[str]) -> None:
    """Take the arguments of ``samcourier batch``; SAMCOURIER_BENCH_MODEL is a finished folder."""
    options = dict(zip(argv[2::2], argv[3::2], strict=False))
    dataset_dir, batch_id = Path(options["--dataset-dir"]), options["--batch"]
    model = Path(os.environ["SAMCOURIER_BENCH_MODEL"])
    logs = sorted((model / "logs").glob("*.json"))
    batch = read_batch(Path(argv[1]), batch_id, int(options["--batch-size"]))
    entries = {}
    for row in batch.rows:
        # No file system takes any number of links to one file.
        log = read_image_log(logs[int(row.image[1:]) % len(logs)])
        assert log is not None
        mask = mask_path(model, log.image)
        files = [path.relative_to(mask) for path in mask.rglob("*") if path.is_file()]
        target = mask_path(dataset_dir, row.image)
        for file in files:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(mask / file, target / file)
        mine = replace(log, image=row.image)
        write_image_log(log_path(dataset_dir, row.image), mine)
        entries[row.image] = manifest_entry(dataset_dir, mine)
    write_manifest(Path(options["--out"]), Manifest(batch_id, entries))


if __name__ == "__main__":
    main(sys.argv[1:])
