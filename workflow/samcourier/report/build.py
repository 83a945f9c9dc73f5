"""Write the files of a report into the folder of a run."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.run import Report
from ..files.atomic import write_atomic
from ..files.strict_json import write_json
from ..results.connection_log import merge_journals
from .page import render_page
from .pictures import collect_pictures
from .table import table_tsv


def write_report(
    report: Report,
    html_path: Path,
    tsv_path: Path,
    complete_path: Path | None = None,
    report_digest: str | None = None,
) -> list[str]:
    """Write the page, the table and ``logs/connection.jsonl``.

    Args:
        report: The outcomes of the run.
        html_path: Path of the page.
        tsv_path: Path of the table.
        complete_path: Path of a JSON file with the number of images and the key of each mask. The
            file is written only if every image of the run has an undamaged mask; otherwise an
            existing file is deleted. None writes no such file.
        report_digest: Written into ``complete_path``; the next run compares it with its own to
            find out whether the report is still up to date.

    Returns:
        The ids of the images without a mask.
    """
    logs = report.dataset_dir / "logs"
    merge_journals(logs / "connection", logs / "connection.jsonl")
    pictures = collect_pictures(report.rows, report.outcomes, report.dataset_dir)
    write_atomic(html_path, render_page(report, pictures))
    write_atomic(tsv_path, table_tsv(report.outcomes))
    if complete_path is not None and report.without_mask:
        complete_path.unlink(missing_ok=True)
    elif complete_path is not None:
        keys = {outcome.image: outcome.key for outcome in report.outcomes}
        content = {"image_count": len(keys), "keys": keys, "report_digest": report_digest}
        write_json(complete_path, content)
    return report.without_mask
