"""What decides an image's labels -> its key, and the identity of the service in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from samservice.contract.identity import SERVICE_IDENTITY

from ..errors import ServiceFailed
from ..files.strict_json import canonical_json
from ..results.service_description import ServiceDescription

#: What of ``describe()`` shapes the labels, and goes into every log and mask.
_IDENTITY = (*SERVICE_IDENTITY, "versions", "device")


def service_identity(description: ServiceDescription) -> dict[str, Any]:
    """Return what of a service's description goes into logs and masks."""
    return {name: getattr(description, name) for name in _IDENTITY}


def image_key(
    pixels_sha256: str,
    parameters: Mapping[str, Any],
    service: Mapping[str, Any],
    tiles: Mapping[str, int] | None = None,
    foreground_sha256: str | None = None,
) -> str:
    """Return the sha256 over everything the labels depend on: pixels, parameters, model, tiles.

    ``service`` is the service's ``describe()``, of which :data:`SERVICE_IDENTITY` counts.
    ``tiles`` is how the image was cut, None for one that goes whole. Raises
    :class:`ServiceFailed` when the description lacks one of these.
    """
    missing = [name for name in SERVICE_IDENTITY if name not in service]
    if missing:
        raise ServiceFailed(f"the service's description lacks {', '.join(missing)}")
    content: dict[str, Any] = {
        "pixels_sha256": pixels_sha256,
        "parameters": dict(parameters),
        "service": {name: service[name] for name in SERVICE_IDENTITY},
    }
    if tiles is not None:
        content["tiles"] = dict(tiles)
    if foreground_sha256 is not None:
        content["foreground_sha256"] = foreground_sha256
    return hashlib.sha256(canonical_json(content)).hexdigest()
