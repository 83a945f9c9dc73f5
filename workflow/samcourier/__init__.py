"""Batch segmentation with a remote micro-sam service, over the transport that works fastest.

The package logs under the name ``samcourier``; records have fields as attributes, e.g. ``image``,
``batch``, ``transport``, ``seconds`` or ``job``. Nothing is shown unless the importing program
configures logging, as the command line does.
"""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
