"""The keys of ``describe()`` that decide which labels a service returns. Standard library only."""

SERVICE_IDENTITY = ("engine", "model", "model_sha256", "segmentation_version")
