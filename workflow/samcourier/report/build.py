"""The folder of a run -> its report, and the files that are written of it."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.run import Report
from ..files.atomic import write_atomic
from ..files.strict_json import write_json
from ..results.connection_log import merge_journals
from .page import render_page
from .pictures import collect_pictures
from .table import tsv


def write_report(
    report: Report,
    html_path: Path,
    tsv_path: Path,
    complete_path: Path | None = None,
    report_digest: str | None = None,
) -> list[str]:
    """Write the page, the table and ``logs/connection.jsonl``; return the images without mask.

    ``complete_path``, the number of images and the key of each one's mask, is written only when
    every asked image has a whole mask; otherwise an older one is removed. It keeps
    ``report_digest``, which tells the next run whether the report is still up to date.
    """
    logs = report.dataset_dir / "logs"
    merge_journals(logs / "connection", logs / "connection.jsonl")
    pictures = collect_pictures(report.rows, report.outcomes, report.dataset_dir)
    write_atomic(html_path, render_page(report, pictures))
    write_atomic(tsv_path, tsv(report.outcomes))
    if complete_path is not None and report.without_mask:
        complete_path.unlink(missing_ok=True)
    elif complete_path is not None:
        keys = {outcome.image: outcome.key for outcome in report.outcomes}
        content = {"image_count": len(keys), "keys": keys, "report_digest": report_digest}
        write_json(complete_path, content)
    return report.without_mask
