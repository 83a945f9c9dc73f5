"""The Python API: segment arrays and datasets, and open results."""

from __future__ import annotations

from .connect import Connection, connect
from .dataset import segment_dataset
from .results import ImageResult, Results, open_results
from .service import AsyncService, CallLog, SegmentedImage, Service

__all__ = [
    "AsyncService",
    "CallLog",
    "Connection",
    "ImageResult",
    "Results",
    "SegmentedImage",
    "Service",
    "connect",
    "open_results",
    "segment_dataset",
]
