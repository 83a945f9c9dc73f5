import fcntl
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

BATCHES = {
    batch.batch_id: batch
    for batch in dataset.make_batches(ROWS, config["batch_size"])
    if dataset.asked_rows(batch.rows, ONLY)
}
MANIFESTS = [store.manifest_path(DATASET_DIR, batch_id) for batch_id in BATCHES]
ENDPOINT = DATASET_DIR / "service/endpoint.json"
VERDICT = DATASET_DIR / "service.json"
COMPLETE = DATASET_DIR / "complete.json"
SUBSET = DATASET_DIR / "subset.txt"
TO_SEGMENT = DATASET_DIR / "logs/to_segment.txt"
REPORT_HTML = DATASET_DIR / "report.html"
REPORT_TSV = DATASET_DIR / "report.tsv"
SNAKEFILE = Path(str(workflow.current_basedir)).parent / "Snakefile"
# No mask depends on them: a look at what is there tells which batches lack one.
OUTPUT_OPTIONS = [option for name in config["outputs"] for option in ("--output", name)]

# What `samcourier demo-data data/demo` makes. No other file there may become an output,
# since Snakemake deletes outputs before it remakes them.
DEMO_FILE = re.compile(r"data/demo/(truth/)?nuclei_(0[1-9]|1[0-9]|2[0-4])\.tif")
DEMO_FILES = sorted(
    {
        str(path)
        for row in ROWS
        for path in (row.path, row.truth)
        if path is not None and DEMO_FILE.fullmatch(str(path))
    }
)

# Lets .venv/bin/snakemake find .venv/bin/samcourier without activation.
os.environ.update(PATH=f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}")
if workflow.is_main_process:
    # A local service ends itself when this process is gone.
    os.environ.update(SAMCOURIER_RUN_PID=str(os.getpid()))


# Linux takes no word of a command above 128 KiB, and a rule's command is one; an id has 200 bytes.
MOST_NAMED = 400


def tracked(value):
    """Return ``value`` as a parameter whose change remakes; braces in it stay braces."""
    return lambda wildcards: value


def untracked(value):
    """Return ``value`` as a parameter whose change remakes nothing: no mask depends on it.

    Snakemake does not track parameters of functions that take the output.
    """
    return lambda wildcards, output: value


def tile_options():
    """Return the options that say how large images are cut."""
    tiles = config["tiles"]
    return [
        *("--tile-edge-px", tiles["edge_px"], "--tile-halo-px", tiles["halo_px"]),
        *("--tiles-above-px", tiles["above_px"]),
    ]


def only_options(rows):
    """Return the options that name those of a batch's ``rows`` asked for; none when all are."""
    if ONLY is None:
        return []
    asked = dataset.asked_rows(rows, ONLY)
    if len(asked) > MOST_NAMED:
        return subset_options()
    return [option for row in asked for option in ("--only", row.image)]


def subset_options():
    """Return the option that names all images asked for, by a file; none when all are."""
    return [] if ONLY is None else ["--only", f"@{SUBSET}"]


def form_options():
    """Return the options that say in which files the results are written."""
    form = [
        "--ome-zarr",
        config["ome_zarr"],
        "--mask-container",
        config["mask_container"],
    ]
    return [*form, *OUTPUT_OPTIONS, *subset_options()]


def made_for(batch):
    """Return the digest of all that shapes the masks of ``batch``, pixels apart."""
    shaping = [dataset.rows_digest(batch.rows), service_options(), config["parameters"]]
    shaping += [config["ome_zarr"], config["mask_container"], tile_options()]
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


@cache
def batches_to_redo():
    """Return the ids of batches whose manifest is no longer true, from a look at the masks."""
    to_redo = work_left.batches_to_redo(
        DATASET_DIR, BATCHES.values(), ONLY, config["outputs"], made_for
    )
    if config["retry_failed"]:
        to_redo |= {
            each for each in BATCHES if work_left.has_failures(DATASET_DIR, each)
        }
    return to_redo


def remake(path):
    """Have Snakemake remake ``path`` if it is part of what is asked for, like --forcerun.

    For input functions: the DAG exists by then, and what must be remade is decided after
    them. No file is touched, so a dry run shows the repair and changes nothing.
    """
    workflow.dag.forcefiles.add(str(path))


def batch_images(wildcards):
    """Return the files that shape a batch's masks; a missing one is the batch's to record."""
    # A cluster's job parses again, while other batches are half done; what runs is decided.
    if workflow.is_main_process and wildcards.batch in batches_to_redo():
        remake(store.manifest_path(DATASET_DIR, wildcards.batch))
    rows = BATCHES[wildcards.batch].rows
    paths = [str(path) for row in rows for path in (row.path, row.foreground) if path]
    return [path for path in paths if path in DEMO_FILES or is_readable(path)]


def is_readable(path):
    """Tell whether Snakemake may open ``path``: it would wait for a pipe, and stop at no right."""
    return os.access(path, os.R_OK) and (os.path.isfile(path) or os.path.isdir(path))


def batch_in_words(wildcards, output):
    """Return what a log says of a batch that begins; untracked, since it takes the output."""
    asked = dataset.asked_rows(BATCHES[wildcards.batch].rows, ONLY)
    images = "1 image" if len(asked) == 1 else f"{len(asked)} images"
    return f"batch {wildcards.batch} of {len(BATCHES)}: {images}"


def report_manifests(wildcards):
    """Return the manifests asked for; a report that was deleted is made again."""
    is_whole = REPORT_HTML.exists() and REPORT_TSV.exists()
    if workflow.is_main_process and COMPLETE.exists() and not is_whole:
        remake(COMPLETE)
    return MANIFESTS


def run_samcourier(*arguments):
    """Run the command in the foreground and tell whether it succeeded."""
    try:
        command = ["samcourier", *map(str, arguments)]
        return subprocess.run(command, check=False).returncode == 0
    except KeyboardInterrupt:
        return False


def lock_run():
    """Refuse a second run on this dataset; the kernel frees the lock of a killed one."""
    global RUN_LOCK
    RUN_LOCK = Path(f".snakemake/samcourier-{config['dataset']}.lock").open("a+")
    try:
        fcntl.flock(RUN_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        RUN_LOCK.seek(0)
        owner = RUN_LOCK.read().strip()
        refuse(f"{DATASET_DIR} is in work by process {owner}, expected to run alone")
    RUN_LOCK.truncate(0)
    print(os.getpid(), file=RUN_LOCK, flush=True)


def keep_found_images():
    """Write the sheet of the images found, for the jobs of this run and for the next run."""
    if not finding.is_sheet(config["sheet"]):
        sheets.write_found_sheet(SHEET, ROWS)


def keep_subset():
    """Write which images are asked for, for the commands about all of them."""
    if ONLY is None:
        SUBSET.unlink(missing_ok=True)
        return
    write_ids(SUBSET, sorted(ONLY))


def keep_images_left():
    """Write which images a run would segment, if the doctor is asked about one.

    Its command does not know what a mask is made for now, and has 20 seconds.
    """
    is_asked = any(job.rule == rules.doctor.rule for job in workflow.dag.jobs)
    if is_asked:
        left = work_left.images_left(DATASET_DIR, BATCHES.values(), ONLY, made_for)
        write_ids(TO_SEGMENT, left)


def write_ids(path, images):
    """Write a file of image ids, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image}\n" for image in images))


@cache
def batches_to_make():
    """Return the ids of the batches that this run makes, once it is decided."""
    jobs = workflow.dag.needrun_jobs()
    return {job.wildcards.batch for job in jobs if job.rule == rules.segment.rule}


def record_run():
    """Write what this run is to do, for who watches it, if it makes a batch."""
    from samcourier.results.environment import keep_circumstances
    from samcourier.results.run_record import cut_of, start_record

    to_make = batches_to_make()
    if not to_make or workflow.touch:
        return
    try:
        start_record(
            DATASET_DIR,
            [batch for batch_id, batch in BATCHES.items() if batch_id in to_make],
            [batch for batch_id, batch in BATCHES.items() if batch_id not in to_make],
            ONLY,
            cut=cut_of(ROWS, config["batch_size"]),
        )
    except InputError as error:
        refuse(error)
    keep_circumstances(DATASET_DIR, "snakemake", config, ROWS, snakefile=SNAKEFILE)


def say_files_ahead():
    """Say how many files the batches of this run will make, before any of them is made."""
    from samcourier.diagnostics.forecast import files_ahead

    to_make = batches_to_make()
    rows = [row for batch_id in sorted(to_make) for row in BATCHES[batch_id].rows]
    asked = dataset.asked_rows(rows, ONLY)
    if not asked or workflow.touch:
        return
    form = config["mask_container"], config["ome_zarr"], config["outputs"]
    logger.info(f"samcourier: {files_ahead(asked, len(to_make), *form)}")


def report_what_there_is():
    """Write the report of a run that ended before the rule: images without mask are named."""
    is_asked = any(job.rule == rules.report.rule for job in workflow.dag.jobs)
    if not is_asked or all(manifest.exists() for manifest in MANIFESTS):
        return
    where = ["--batch-size", config["batch_size"], "--dataset-dir", DATASET_DIR]
    outputs = ["--html", REPORT_HTML, "--tsv", REPORT_TSV, "--complete", COMPLETE]
    run_samcourier("report", SHEET, *where, *subset_options(), *outputs)
