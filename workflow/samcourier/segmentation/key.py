"""The key of an image: a hash over everything that decides its labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from samservice.contract.identity import SERVICE_IDENTITY, identity_of

from ..errors import ServiceFailed
from ..files.strict_json import canonical_json
from ..results.service_description import ServiceDescription


def service_identity(description: ServiceDescription) -> dict[str, Any]:
    """Return the fields of a service's description that go into logs and masks."""
    return {
        **description.identity,
        "versions": description.versions,
        "device": description.device,
    }


def image_key(
    pixels_sha256: str,
    parameters: Mapping[str, Any],
    service: Mapping[str, Any],
    tiles: Mapping[str, int] | None = None,
    foreground_sha256: str | None = None,
) -> str:
    """Return the sha256 over everything the labels depend on: pixels, parameters, model, tiles.

    ``service`` is the service's ``describe()``, of which the fields of
    :func:`samservice.contract.identity.identity_of` count.
    ``tiles`` describes the tiling, None for an image that is sent whole. Raises
    :class:`ServiceFailed` if the description lacks one of these fields.
    """
    missing = [name for name in SERVICE_IDENTITY if name not in service]
    if missing:
        raise ServiceFailed(f"the service's description lacks {', '.join(missing)}")
    content: dict[str, Any] = {
        "pixels_sha256": pixels_sha256,
        "parameters": dict(parameters),
        "service": identity_of(service),
    }
    if tiles is not None:
        content["tiles"] = dict(tiles)
    if foreground_sha256 is not None:
        content["foreground_sha256"] = foreground_sha256
    return hashlib.sha256(canonical_json(content)).hexdigest()
