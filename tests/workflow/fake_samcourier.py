"""A samcourier that does by script what the real one promises the workflow, and nothing more.

Every call is appended to ``calls.jsonl``. ``fake.json`` in the working directory scripts it:
``exit`` {command or batch id: exit status}, where verify writes its verdict all the same,
``fail`` {image id: failure kind}, and ``hold`` [batch id, ...] which wait for a file ``go``.
With ``alone`` a batch fails when another runs.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from samcourier.masks.integrity import stat_mask
from samcourier.pipeline.digests import report_digest, settings_digest
from samcourier.results.layout import log_path, mask_path, output_path
from samcourier.samples.sheet import make_batches, read_sheet, rows_of_subset
from samcourier.settings.frozen import FrozenRun, read_frozen


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo-data").add_argument("directory", type=Path)
    deploy, verify = commands.add_parser("deploy"), commands.add_parser("verify")
    undeploy, doctor = commands.add_parser("undeploy"), commands.add_parser("doctor")
    batch, report = commands.add_parser("batch"), commands.add_parser("report")
    for command in (deploy, verify, doctor, undeploy, batch, report):
        command.add_argument("--settings", required=True, type=read)
    for command in (deploy, verify, batch):
        command.add_argument("--out", required=True, type=Path)
    batch.add_argument("--batch", required=True)
    batch.add_argument("--submission", required=True, type=int)
    doctor.add_argument("--to-segment", required=True, type=Path)
    for option in ("--html", "--tsv", "--complete"):
        report.add_argument(option, required=True, type=Path)
    options = parser.parse_args(argv)
    if "to_segment" in options:
        options.to_segment = options.to_segment.read_text().splitlines()
    return options


def read(path: str) -> FrozenRun:
    """Read the settings file as the real command does; it waits for none."""
    return read_frozen(Path(path))


def segment(image: str, path: Path, dataset_dir: Path, failure: str | None) -> dict[str, object]:
    mask = mask_path(dataset_dir, image)
    if failure is None and not path.exists():
        failure = "missing"
    if failure is not None:
        return {"status": "failed", "failure_kind": failure}
    mask.mkdir(parents=True, exist_ok=True)
    (mask / ".zattrs").write_text("{}")
    (mask / "0").write_bytes(path.read_bytes())
    files, size = stat_mask(mask) or (None, None)
    return {"status": "done", "mask_files": files, "mask_bytes": size, "failure_kind": None}


def make_output(dataset_dir: Path, image: str, name: str) -> dict[str, object]:
    path = output_path(dataset_dir, image, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return {"files": 1, "bytes": len(name), "path": None, "refused": None}


def batch(options: argparse.Namespace, script: dict[str, dict[str, str]]) -> None:
    run: FrozenRun = options.settings
    settings = run.settings
    (chosen,) = [
        candidate
        for candidate in make_batches(read_sheet(run.sheet), settings.batch_size)
        if candidate.batch_id == options.batch
    ]
    while options.batch in script.get("hold", []) and not Path("go").exists():
        time.sleep(0.02)
    if script.get("alone"):
        alone = Path("alone")
        alone.touch(exist_ok=False)
        time.sleep(0.3)
        alone.unlink()
    images = {}
    for row in chosen.rows:
        if settings.images and row.image not in settings.images:
            images[row.image] = {"status": "not_asked", "failure_kind": None}
            continue
        log = log_path(run.dataset_dir, row.image)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        failure = script.get("fail", {}).get(row.image)
        images[row.image] = segment(row.image, row.path, run.dataset_dir, failure)
        images[row.image]["outputs"] = {
            name: make_output(run.dataset_dir, row.image, name) for name in settings.outputs
        }
    made_for = settings_digest(settings, chosen.rows)
    manifest = {"batch": options.batch, "images": images, "made_for": made_for}
    options.out.write_text(json.dumps(manifest))


def report(options: argparse.Namespace) -> int:
    run: FrozenRun = options.settings
    only = run.settings.images
    asked = rows_of_subset(read_sheet(run.sheet), frozenset(only) if only else None)
    missing = [row.image for row in asked if not mask_path(run.dataset_dir, row.image).exists()]
    for path in (options.html, options.tsv):
        path.write_text(f"without mask: {missing}\n")
    if missing:
        print(f"no mask: {', '.join(missing)}", file=sys.stderr)
        return 1
    digest = report_digest(run.settings, asked)
    options.complete.write_text(json.dumps({"report_digest": digest}))
    return 0


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the call, with the settings in the file that it was given."""
    told = dict(vars(options))
    run = told.get("settings")
    if isinstance(run, FrozenRun):
        told["settings"] = msgspec.to_builtins(run.settings)
    return told


def main() -> int:
    options = parse(sys.argv[1:])
    name = options.batch if options.command == "batch" else options.command
    with Path("calls.jsonl").open("a") as calls:
        # A reader beside a writer sees half a line where it crosses a page of the file.
        fcntl.flock(calls, fcntl.LOCK_EX)
        call = {"name": name, "arguments": sys.argv[1:], "options": recorded(options)}
        calls.write(json.dumps(call, default=str) + "\n")
    script_file = Path("fake.json")
    script = json.loads(script_file.read_text()) if script_file.exists() else {}
    if name in ("deploy", "verify"):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    if name == "verify":
        options.out.write_text("{}")
    if status := script.get("exit", {}).get(name):
        print(f"{name} is scripted to fail", file=sys.stderr)
        return int(status)
    match options.command:
        case "demo-data":
            for number in range(1, 25):
                for directory in (options.directory, options.directory / "truth"):
                    directory.mkdir(parents=True, exist_ok=True)
                    (directory / f"nuclei_{number:02d}.tif").write_text(str(number))
        case "batch":
            batch(options, script)
        case "report":
            return report(options)
        case "deploy":
            options.out.write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
