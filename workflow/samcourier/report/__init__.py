"""What became of every image of a dataset: one page, one table, and whether it is complete.

Nothing is remembered between runs: each report reads logs, manifests, masks and truth again.
"""

from .build import build_report, write_report
from .page import render_page
from .run import Report

__all__ = ["Report", "build_report", "render_page", "write_report"]
