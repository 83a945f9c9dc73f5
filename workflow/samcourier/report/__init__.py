"""Write the report of a run: an HTML page, a table, and whether every image has its mask.

Each report reads the logs, manifests, masks and ground truth again; it stores no state of its own.
"""

from ..evaluation.run import Report, build_report
from .build import write_report
from .page import render_page

__all__ = ["Report", "build_report", "render_page", "write_report"]
