"""What of a service's ``describe()`` decides which labels it returns. Standard library only."""

SERVICE_IDENTITY = ("engine", "model", "model_sha256", "segmentation_version")
