"""The service and its Hypha server on this machine."""
