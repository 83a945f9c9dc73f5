"""A samcourier that does by script what the real one promises the workflow, and nothing more.

Every call is appended to ``calls.jsonl``. ``fake.json`` in the working directory scripts it:
``exit`` {command or batch id: exit status}, where verify writes its verdict all the same,
``fail`` {image id: failure kind}, and ``hold`` [batch id, ...] which wait for a file ``go``.
With ``alone`` a batch fails when another runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from samcourier.masks.integrity import stat_mask
from samcourier.results.layout import OUTPUTS, mask_path, output_path
from samcourier.samples.sheet import make_batches, read_sheet

TARGETS = ("local", "bioengine", "slurm", "existing")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo-data").add_argument("directory", type=Path)
    deploy, verify = commands.add_parser("deploy"), commands.add_parser("verify")
    undeploy, doctor = commands.add_parser("undeploy"), commands.add_parser("doctor")
    batch, report = commands.add_parser("batch"), commands.add_parser("report")
    for command in (deploy, verify, doctor, undeploy, batch):
        command.add_argument("--target", required=True, choices=TARGETS)
        command.add_argument("--engine")
        command.add_argument("--engine-options", type=json.loads)
        command.add_argument("--ice-servers", required=True, type=json.loads)
        command.add_argument("--ca-bundle")
        for option in ("--server-url", "--workspace", "--service-id", "--token-file"):
            command.add_argument(option)
        for option in ("--worker-id", "--application-id", "--cpus", "--memory-mb"):
            command.add_argument(option)
        for option in ("--gpu-memory-mb", "--replicas", "--deploy-timeout-s"):
            command.add_argument(option)
        command.add_argument("--authorized-user", action="append", default=[])
        for option in ("partition", "account", "gres", "time-min", "extra"):
            command.add_argument(f"--slurm-{option}")
    for command in (deploy, verify, batch):
        command.add_argument("--out", required=True, type=Path)
    for command in (verify, doctor, batch):
        command.add_argument("--transport", required=True)
        command.add_argument("--parameters", required=True, type=json.loads)
        command.add_argument("--embeddings", required=True, choices=("none", "keep"))
        command.add_argument("--embeddings-max-gb", required=True, type=float)
        command.add_argument("--embeddings-folder")
    for command in (doctor, batch, report):
        command.add_argument("sheet", type=Path)
        command.add_argument("--batch-size", required=True, type=int)
        command.add_argument("--only", action="append", default=[])
    for command in (deploy, verify, doctor, undeploy, batch, report):
        command.add_argument("--dataset-dir", required=True, type=Path)
    batch.add_argument("--batch", required=True)
    batch.add_argument("--rows-digest", required=True)
    batch.add_argument("--made-for", required=True)
    batch.add_argument("--attempt-timeout-s", required=True, type=float)
    batch.add_argument("--image-timeout-s", required=True, type=float)
    for command in (doctor, batch):
        command.add_argument("--ome-zarr", required=True)
        command.add_argument("--mask-container", required=True, choices=("folder", "zip"))
        command.add_argument("--output", action="append", default=[], choices=OUTPUTS)
    for option in ("--tile-edge-px", "--tile-halo-px", "--tiles-above-px"):
        batch.add_argument(option, required=True, type=int)
    doctor.add_argument("--to-segment", required=True, type=Path)
    doctor.add_argument("--connections", required=True, type=int)
    batch.add_argument("--retry-failed", action="store_true")
    batch.add_argument("--submission", required=True, type=int)
    for option in ("--html", "--tsv", "--complete"):
        report.add_argument(option, required=True, type=Path)
    options = parser.parse_args(argv)
    if "only" in options:
        options.only = [image for word in options.only for image in ids(word)]
    if "to_segment" in options:
        options.to_segment = options.to_segment.read_text().splitlines()
    return options


def ids(word: str) -> list[str]:
    """Return the ids that one ``--only`` names: ``@FILE`` stands for those in FILE."""
    return Path(word[1:]).read_text().splitlines() if word.startswith("@") else [word]


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
    (chosen,) = [
        candidate
        for candidate in make_batches(read_sheet(options.sheet), options.batch_size)
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
        if options.only and row.image not in options.only:
            images[row.image] = {"status": "not_asked", "failure_kind": None}
            continue
        failure = script.get("fail", {}).get(row.image)
        images[row.image] = segment(row.image, row.path, options.dataset_dir, failure)
        images[row.image]["outputs"] = {
            name: make_output(options.dataset_dir, row.image, name) for name in options.output
        }
    manifest = {"batch": options.batch, "images": images, "made_for": options.made_for}
    options.out.write_text(json.dumps(manifest))


def report(options: argparse.Namespace) -> int:
    rows = read_sheet(options.sheet)
    asked = [row.image for row in rows if not options.only or row.image in options.only]
    missing = [image for image in asked if not mask_path(options.dataset_dir, image).exists()]
    for path in (options.html, options.tsv):
        path.write_text(f"without mask: {missing}\n")
    if missing:
        print(f"no mask: {', '.join(missing)}", file=sys.stderr)
        return 1
    options.complete.write_text(json.dumps(asked))
    return 0


def main() -> int:
    options = parse(sys.argv[1:])
    name = options.batch if options.command == "batch" else options.command
    with Path("calls.jsonl").open("a") as calls:
        call = {"name": name, "arguments": sys.argv[1:], "options": vars(options)}
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
