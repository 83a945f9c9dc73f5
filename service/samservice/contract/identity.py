"""The keys of ``describe()`` that decide which labels a service returns. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SERVICE_IDENTITY = ("engine", "model", "model_sha256", "segmentation_version")

#: Name and version of the distribution of an engine that is not built in: {"name", "version"}.
DISTRIBUTION = "distribution"


def identity_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a description that decide the labels; a missing field is None.

    :data:`DISTRIBUTION` is among them only for an engine of another distribution, so that the keys
    of masks by built-in engines do not change.
    """
    identity = {name: described.get(name) for name in SERVICE_IDENTITY}
    distribution = described.get(DISTRIBUTION)
    return identity if distribution is None else {**identity, DISTRIBUTION: distribution}
