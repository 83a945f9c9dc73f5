"""The service as an app on a BioEngine worker."""
