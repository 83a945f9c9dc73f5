"""What a service says of itself, made safe to go by: it is the service's word alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from samservice.contract.identity import SERVICE_IDENTITY

from ..errors import CourierError, ServiceFailed, ServiceGone
from ..transports.base import Transport

LONGEST_DESCRIPTION_BYTES = 1 << 20


class RunIdentity:
    """What identifies the service of a run: its masks come from one model.

    Behind the same id another service may be started at any time.
    """

    def __init__(self) -> None:
        self._mine: dict[str, Any] | None = None

    def check(self, description: Mapping[str, Any]) -> None:
        """Raise ServiceGone for a service that would make other masks; any will do at first."""
        other = _identity(description)
        if self._mine not in (None, other):
            raise ServiceGone(f"it is another service: {other}, expected {self._mine}")

    def settle(self, description: Mapping[str, Any]) -> None:
        """Go by this service from now on, if by none yet; raise as :meth:`check`."""
        self.check(description)
        self._mine = _identity(description)


def _identity(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: description.get(name) for name in SERVICE_IDENTITY}


async def describe(transport: Transport, timeout_s: float) -> dict[str, Any]:
    """Return what the service says of itself over an open transport, {} if it has no ``describe``.

    Raises what the transport raises, and as :func:`checked_description`.
    """
    try:
        answer = await transport.call("describe", {}, timeout_s)
    except CourierError as error:
        if error.name == "NoSuchMethod":
            return {}
        raise
    return checked_description(answer)


def checked_description(answer: Any) -> dict[str, Any]:
    """Return the answer of ``describe``, which goes into every log and mask, without odd limits.

    Limits that are no counts above 0, and parameters, statistics and sizes of another form than
    :class:`samservice.engines.base.Engine` has them, are left out. Raises ServiceFailed for what is
    no mapping of JSON values, or larger than 1 MiB.
    """
    try:
        size_bytes = len(json.dumps(answer, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ServiceFailed(f"the service's description is not JSON: {error}") from error
    if not isinstance(answer, Mapping) or size_bytes > LONGEST_DESCRIPTION_BYTES:
        raise ServiceFailed(
            f"the service describes itself by {type(answer).__name__} of {size_bytes} bytes,"
            f" expected a mapping of at most {LONGEST_DESCRIPTION_BYTES}"
        )
    description = dict(answer)
    limits = description.get("limits")
    if isinstance(limits, Mapping):
        description["limits"] = {name: each for name, each in limits.items() if _is_count(each)}
    has_form = {
        "limits": isinstance(limits, Mapping),
        "parameters": _is_mapping_of_mappings(description.get("parameters")),
        "image_statistics": isinstance(description.get("image_statistics"), list | tuple),
        "embedding_bytes": _is_count(description.get("embedding_bytes")),
        "gpu": _is_gpu(description.get("gpu")),
        "recent": _is_pace(description.get("recent")),
    }
    return {name: each for name, each in description.items() if has_form.get(name, True)}


def _is_count(said: object) -> bool:
    return isinstance(said, int) and not isinstance(said, bool) and said > 0


def _is_gpu(said: object) -> bool:
    return isinstance(said, Mapping) and "name" in said and _is_count(said.get("memory_bytes"))


def _is_pace(said: object) -> bool:
    if not isinstance(said, Mapping):
        return False
    seconds = said.get("seconds")
    has_counts = _is_count(said.get("images")) and _is_count(said.get("pixels"))
    return has_counts and isinstance(seconds, int | float) and seconds > 0


def _is_mapping_of_mappings(said: object) -> bool:
    return isinstance(said, Mapping) and all(isinstance(each, Mapping) for each in said.values())
