"""Batch segmentation with a remote micro-sam service, over the transport that works fastest.

    import samcourier

    with samcourier.connect() as service:
        labels = service.segment(image)

The package logs under the name ``samcourier``; records have fields as attributes, e.g. ``image``,
``batch``, ``transport``, ``seconds`` or ``job``. Nothing is shown unless the importing program
configures logging, as the command line does.
"""

import logging
from typing import Any

__version__ = "0.1.0"

# The types of these names are in __init__.pyi.
_API = ("connect", "open_results", "segment_dataset")

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import the API when it is first used, so that commands start without it."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return list(_API)
