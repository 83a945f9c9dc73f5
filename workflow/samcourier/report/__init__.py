"""What became of every image of a dataset: one page, one table, and whether it is complete.

Nothing is remembered between runs: each report reads logs, manifests, masks and truth again.
"""

from ..evaluation.run import Report, build_report
from .build import write_report
from .page import render_page

__all__ = ["Report", "build_report", "render_page", "write_report"]
