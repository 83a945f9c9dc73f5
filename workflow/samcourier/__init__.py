"""Batch segmentation with a remote micro-sam service, over the transport that works fastest."""

__version__ = "0.1.0"
