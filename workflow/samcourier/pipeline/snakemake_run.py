"""The interface between the Snakemake rules and a run: inputs and parameters, start and end.

The rules use the methods as input and parameter functions; Snakemake passes ``wildcards`` and
``output``. Snakemake does not track a parameter whose function takes ``output``: a change of such a
parameter rebuilds nothing, and only the digest of the settings in each manifest decides.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..results.layout import manifest_path
from ..results.permissions import check_path_writable, describe_unwritable
from ..results.run_lock import lock_results
from ..results.service_description import read_verified_service
from ..samples.format import write_found_sheet
from ..samples.private_urls import write_private_urls
from ..samples.sets import further_files
from ..samples.sheet import ImageRow, rows_of_subset
from ..settings.frozen import FrozenFiles, freeze, read_frozen
from . import snakemake_internals as internals
from .commands import batch_message, command_words, run_command
from .config import check_numbers, read_config, with_names_as_typed
from .frozen_jobs import pass_settings_to_jobs, settings_passed_by_run
from .plan import Plan, make_plan, plan_from_frozen

#: A local service stops when the process with this id has ended.
_RUN_PID_VARIABLE = "SAMCOURIER_RUN_PID"

_NOT_FROZEN = (
    "samcourier: the run is not frozen, since samcourier.onstart() was not called (docs/module.md):"
    " if the config or the sheet changes while it runs, its later jobs use the change"
)


def is_frozen_job(workflow: Any) -> bool:
    """Return whether this process is a job of a run that has written its settings."""
    return _frozen_settings_path(workflow) is not None


def open_run(workflow: Any, config: Mapping[str, Any], snakefile: object) -> WorkflowRun:
    """Return the run of this Snakemake process; a wrong config or sheet ends it with a message.

    A job of a run that has begun uses the run's frozen settings and never reads ``config``.
    """
    try:
        path = _frozen_settings_path(workflow)
        if path is None:
            if not internals.module_name(workflow):
                config = with_names_as_typed(config, internals.config_texts(workflow))
            plan = make_plan(read_config(config))
            check_numbers(config.get("images"), {row.image for row in plan.rows})
        else:
            plan = plan_from_frozen(read_frozen(path, internals.latency_wait_s(workflow)))
    except InputError as error:
        internals.end_run(error)
    internals.add_interpreter_to_path()
    if internals.is_main_process(workflow):
        os.environ[_RUN_PID_VARIABLE] = str(os.getpid())
    # All jobs share this limit: a batch holds one connection, which also carries the signalling.
    internals.limit_resource(workflow, "connections", plan.settings.network.connections)
    return WorkflowRun(workflow, plan, snakefile, is_frozen=path is not None)


def _frozen_settings_path(workflow: Any) -> Path | None:
    if internals.is_main_process(workflow):
        return None
    return settings_passed_by_run(internals.module_name(workflow))


class WorkflowRun:
    """One run of the workflow: ``plan`` lists its outputs, ``snakefile`` holds its rules.

    ``snakefile`` is a path or Snakemake's name of a file elsewhere, as in a git repository.
    """

    def __init__(self, workflow: Any, plan: Plan, snakefile: object, *, is_frozen: bool) -> None:
        self.plan = plan
        self.dataset_dir = plan.dataset_dir
        self.endpoint = plan.dataset_dir / "service/endpoint.json"
        self.verdict = plan.dataset_dir / "service.json"
        self.to_segment = plan.dataset_dir / "logs/to_segment.txt"
        self._workflow = workflow
        self._snakefile = snakefile
        self._is_frozen = is_frozen
        self._files: FrozenFiles | None = None
        self._lock: IO[str] | None = None

    # Inputs, outputs and parameters of the rules.

    def settings_file(self, wildcards: Any = None, output: Any = None) -> str:
        """Return the path of the run's settings file, which :meth:`start` has written.

        If no workflow called :meth:`start`, the first job writes the file and logs that it did.
        """
        files = self._frozen_files()
        is_unwritten = not self._is_frozen and not files.settings_path.exists()
        if is_unwritten and internals.is_executing(self._workflow):
            internals.show([_NOT_FROZEN])
            files.write()
        return str(files.settings_path)

    def batch_message(self, wildcards: Any, output: Any) -> str:
        """Return the line of the log for a batch that begins."""
        batch = self.plan.batches[wildcards.batch]
        rows = rows_of_subset(batch.rows, self.plan.subset)
        return batch_message(batch.batch_id, len(self.plan.batches), len(rows))

    def batch_inputs(self, wildcards: Any) -> list[str]:
        """Return the readable input files of a batch; the batch itself records a missing one.

        All files of an image that lies in several are among them. Names with braces are left out,
        because Snakemake takes them for wildcards; a batch is made again when such a file is newer
        than its manifest.
        """
        manifest = manifest_path(self.dataset_dir, wildcards.batch)
        rows = self.plan.batches[wildcards.batch].rows
        paths = [str(path) for row in rows for path in (row.path, row.foreground) if path]
        paths = list(
            dict.fromkeys([*paths, *(path for row in rows for path in further_files(row))])
        )
        hidden = {path for path in paths if set("{}") & set(path)}
        # Only the main process decides: a job parses again while other batches are unfinished.
        if self._is_main_process and (
            wildcards.batch in self.plan.batches_to_redo
            or any(_is_newer(path, manifest) for path in hidden)
        ):
            self._remake(manifest)
        return [
            path
            for path in paths
            if path not in hidden and (path in self.plan.demo_files or _is_readable(path))
        ]

    def report_inputs(self, wildcards: Any) -> list[Path]:
        """Return the manifests of the run; a missing or outdated report is made again."""
        self._check_snakemake_folder()
        has_complete = self.plan.complete_json.exists()
        if self._is_main_process and has_complete and not self.plan.is_report_current():
            self._remake(self.plan.complete_json)
        return self.plan.manifests

    def endpoint_inputs(self, wildcards: Any) -> list[str]:
        """Return no file; a service that runs elsewhere is checked at each request for it."""
        if self._is_main_process:
            internals.remake(self._workflow, self.endpoint)
        return []

    # Start and end of a run.

    def start(self, segment: Any, doctor: Any) -> None:
        """Begin the run: lock it, freeze its settings, record it and start its service.

        ``segment`` and ``doctor`` are the rules of these names. If the run cannot begin, one line
        ends Snakemake.
        """
        if not self._is_main_process:
            return
        self._hold_lock()
        self._freeze()
        if internals.is_planned(self._workflow, doctor):
            _write_lines(self.to_segment, self.plan.images_to_segment())
        to_make = {job.wildcards.batch for job in internals.jobs_to_run(self._workflow, segment)}
        if not to_make or internals.is_touching(self._workflow):
            return
        self._check_replacement(to_make)
        self._record(to_make)
        internals.show([f"samcourier: {each}" for each in self.plan.remarks])
        internals.show([f"samcourier: {self._forecast(to_make)}"])
        self._deploy_service()
        self._check_replacement(to_make, service=read_verified_service(self.dataset_dir))

    def report_after_failure(self, report: Any) -> None:
        """Write the report of a run that failed before its report rule ran."""
        is_requested = internals.is_planned(self._workflow, report)
        if not self._is_main_process or not is_requested:
            return
        if not all(manifest.exists() for manifest in self.plan.manifests):
            self._run("report", *self.report_options())

    def report_options(self) -> list[str]:
        """Return the options with the paths of the report."""
        plan = self.plan
        files = {
            "--html": plan.report_html,
            "--tsv": plan.report_tsv,
            "--complete": plan.complete_json,
        }
        return [str(word) for option in files.items() for word in option]

    @property
    def _is_main_process(self) -> bool:
        return internals.is_main_process(self._workflow)

    def _remake(self, path: Path) -> None:
        """Make Snakemake rebuild ``path``; a line ends Snakemake if this user may not write it."""
        if path.exists() and not os.access(path, os.W_OK):
            # Snakemake would take the file of another user for a protected output.
            internals.end_run(describe_unwritable(path, self.dataset_dir))
        internals.remake(self._workflow, path)

    def _check_snakemake_folder(self) -> None:
        """End a dry run where this user may not write the files of Snakemake itself."""
        if self._is_main_process and internals.is_dry_run(self._workflow):
            try:
                _check_folders_of_snakemake()
            except InputError as error:
                internals.end_run(error)

    def _frozen_files(self) -> FrozenFiles:
        if self._files is None:
            self._files = freeze(self.plan.settings, self.plan.sheet, self.dataset_dir)
        return self._files

    def _freeze(self) -> None:
        """Write settings and sheet for the jobs, and the sheet of found images for the next run."""
        if self.plan.has_found_images:
            write_found_sheet(self.plan.sheet_path, self.plan.rows)
        write_private_urls(self.plan.settings.dataset, self.plan.rows)
        files = self._frozen_files()
        files.write()
        module = internals.module_name(self._workflow)
        pass_settings_to_jobs(module, files.settings_path)
        if not module:
            # Another workflow needs its own config to find this one.
            internals.forget_config_files(self._workflow)
        self._is_frozen = True

    def _hold_lock(self) -> None:
        """Lock the results against a second run; the kernel frees the lock of a killed process."""
        try:
            _check_folders_of_snakemake()
            self._lock = lock_results(self.dataset_dir)
        except InputError as error:
            internals.end_run(error)

    def _record(self, to_make: set[str]) -> None:
        """Write the batches to make and the environment of this run to the results folder."""
        import msgspec

        from ..results.environment import write_run_environment
        from ..results.run_record import batching_digest, start_record

        plan = self.plan
        batches = plan.batches.items()
        try:
            start_record(
                plan.dataset_dir,
                [batch for batch_id, batch in batches if batch_id in to_make],
                [batch for batch_id, batch in batches if batch_id not in to_make],
                plan.subset,
                cut=batching_digest(plan.rows, plan.settings.batch_size),
            )
        except InputError as error:
            internals.end_run(error)
        settings = msgspec.to_builtins(plan.settings)
        with internals.workflow_on_disk(self._workflow, self._snakefile) as snakefile:
            write_run_environment(
                plan.dataset_dir, "snakemake", settings, plan.rows, snakefile=snakefile
            )

    def _check_replacement(
        self, to_make: set[str], service: Mapping[str, Any] | None = None
    ) -> None:
        """Show which finished masks the batches replace; end the run if it must not replace them.

        ``service`` is the description of the service once it is known.
        """
        from .finished_masks import check_replacement, find_finished_masks

        plan = self.plan
        finished = find_finished_masks(
            self._rows(to_make), plan.dataset_dir, plan.settings, service
        )
        try:
            lines = check_replacement(finished, plan.settings)
        except InputError as error:
            internals.end_run(error)
        if service is not None:
            internals.show([f"samcourier: {line}" for line in lines])

    def _rows(self, batch_ids: set[str]) -> list[ImageRow]:
        """Return the rows of the subset in these batches."""
        rows = [row for batch_id in sorted(batch_ids) for row in self.plan.batches[batch_id].rows]
        return rows_of_subset(rows, self.plan.subset)

    def _forecast(self, to_make: set[str]) -> object:
        """Return the forecast of the files that the batches of this run will make."""
        from ..diagnostics.forecast import forecast_files

        settings = self.plan.settings
        form = settings.mask_container, settings.ome_zarr, settings.outputs
        return forecast_files(self._rows(to_make), len(to_make), *form)

    def _deploy_service(self) -> None:
        """Deploy and verify the service; end the run if that fails."""
        is_local = self.plan.settings.service.target == "local"
        if is_local and not internals.jobs_run_here(self._workflow):
            internals.end_run(
                "config.service.target: 'local' starts a service that the jobs of a cluster cannot"
                " reach, expected 'slurm' with the server_url of a Hypha server, 'bioengine' with"
                " that of a worker, or 'existing' with the server_url and service_id of a service"
            )
        for step, out in (("deploy", self.endpoint), ("verify", self.verdict)):
            words = self._words(step, "--out", str(out))
            internals.show([shlex.join(words)])
            if not run_command(words):
                internals.end_run(f"no batch was started, since samcourier {step} failed")

    def _run(self, step: str, *options: str) -> bool:
        return run_command(self._words(step, *options))

    def _words(self, step: str, *options: str) -> list[str]:
        return command_words(step, self.settings_file(), *options)


def _check_folders_of_snakemake() -> None:
    """Raise InputError for a folder in ``.snakemake`` that this user may not write."""
    root = Path(".snakemake")
    for folder in sorted(root.glob("*/")):
        check_path_writable(folder, root)


def _is_readable(path: str) -> bool:
    """Return whether Snakemake can open ``path``: it would hang on a pipe, or lack permission."""
    return os.access(path, os.R_OK) and (os.path.isfile(path) or os.path.isdir(path))


def _is_newer(path: str, manifest: Path) -> bool:
    """Return whether both files exist and ``path`` was written after the manifest."""
    try:
        return os.stat(path).st_mtime > manifest.stat().st_mtime
    except OSError:
        return False


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
