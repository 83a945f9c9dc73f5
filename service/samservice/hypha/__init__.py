"""The connection to a Hypha server."""
