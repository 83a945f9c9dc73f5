"""The segmentation service: engines, wire format, and a Hypha endpoint whose WebRTC works."""

__version__ = "0.1.0"
