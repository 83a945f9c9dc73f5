"""Segment a whole dataset without Snakemake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..results.image_log import ImageLog
from ..settings.run_settings import RunSettings

if TYPE_CHECKING:
    from .results import Results


def segment_dataset(
    config: str | Path | Mapping[str, Any],
    sheet: str | Path | None = None,
    results: str | Path | None = None,
    on_image: Callable[[ImageLog], None] | None = None,
) -> Results:
    """Segment the images of a sample sheet as ``samcourier segment`` does; return the results.

    Finished masks are kept. An image that fails is in the report and in ``Results.failed``, and
    the others go on.

    Args:
        config: The path of a ``config.yaml``, or its keys as a mapping.
        sheet: Replaces ``sheet`` of the config: a sample sheet, a folder, a pattern, a plate.
        results: The results folder; by default ``results/<dataset>``.
        on_image: Called with the log of each image that ended.

    Raises :class:`samcourier.errors.InputError` for a wrong config or sheet and while another run
    uses the folder; the errors that stop a batch, e.g. ServiceGone.
    """
    changed = {} if sheet is None else {"sheet": str(sheet)}
    settings = settings_of(config, changed)
    if settings.sheet is None:
        raise InputError("sheet: no value, expected a sample sheet, a folder or a pattern")
    folder = Path(results) if results is not None else Path("results", settings.dataset)

    def work() -> Results:
        return _segment(settings, folder, on_image or (lambda log: None))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    # In a notebook an event loop runs in this thread already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def settings_of(config: str | Path | Mapping[str, Any], changed: Mapping[str, Any]) -> RunSettings:
    """Return the settings of a ``config.yaml`` or of its keys, with some ``changed``.

    Raises InputError for a config that cannot be read or has a wrong key or value.
    """
    from ..pipeline.config import read_config

    return read_config({**keys_of(config), **changed})


def keys_of(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a ``config.yaml``, or of a mapping. Raises InputError."""
    return dict(config) if isinstance(config, Mapping) else _read_yaml(Path(config))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the config: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: {type(values).__name__}, expected the keys of a config")
    return values


def _segment(
    settings: RunSettings, dataset_dir: Path, on_image: Callable[[ImageLog], None]
) -> Results:
    from ..deploy.local.start import stop_local_service
    from ..pipeline.plan import make_plan
    from ..pipeline.run import segment_dataset as segment_batches
    from ..pipeline.run import start_dataset, write_run_report
    from ..results.run_lock import locked_results
    from .results import open_results

    rows = make_plan(settings).rows
    with locked_results(dataset_dir):
        start_dataset(settings, rows, dataset_dir)
        try:
            segment_batches(settings, rows, dataset_dir, on_image)
        finally:
            # It would run for as long as this process, e.g. a notebook.
            if settings.service.target == "local":
                stop_local_service(dataset_dir / "service")
        write_run_report(
            settings,
            rows,
            dataset_dir,
            *(dataset_dir / name for name in ("report.html", "report.tsv", "complete.json")),
        )
    return open_results(dataset_dir)
