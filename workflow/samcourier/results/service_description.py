"""The answer of a service to ``describe()``, as a type and as checked JSON values.

The service may be older or newer than this client, and its answer is not trusted: unknown keys are
ignored, and a known key whose value does not fit :class:`ServiceDescription` counts as missing.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta, Struct

from samservice.contract.identity import DISTRIBUTION, SERVICE_IDENTITY, identity_of

from ..errors import ServiceFailed
from ..files.strict_json import read_json

LONGEST_DESCRIPTION_BYTES = 1 << 20

#: A count from 1 to 2**63 - 1. A service that gives 0 or a larger count has no limit.
Count = Annotated[int, Meta(gt=0, le=(1 << 63) - 1)]


class CallLimits(Struct, frozen=True):
    """The limits of the service for one call, and for calls at a time; None is no known limit.

    ``in_parallel`` is the number of images that the service processes at a time, ``max_queue`` the
    number that wait in its queue.
    """

    in_parallel: Count = 1
    max_queue: Count | None = None
    max_pixels: Count | None = None
    max_image_bytes: Count | None = None
    max_probe_bytes: Count | None = None


class Gpu(Struct, frozen=True):
    """The device that the service computes on."""

    name: str
    memory_bytes: Count


class RecentWork(Struct, frozen=True):
    """The pace of the last images: the pixels of their masks and the engine's seconds."""

    images: Count
    pixels: Count
    seconds: Annotated[float, Meta(gt=0)]


class ServiceDescription(Struct, frozen=True):
    """The fields of a service's ``describe()`` that the client uses; None if a field is missing.

    ``engine``, ``model``, ``model_sha256``, ``segmentation_version``, ``distribution``,
    ``versions`` and ``device`` go into logs and masks unchanged, the first five into keys.
    ``parameters`` has a schema for each parameter that the engine accepts, see
    :mod:`samservice.contract.parameters`. ``image_statistics`` names the statistics of a whole
    image that the engine needs with each tile. ``embedding_parameters`` names the parameters that
    an embedding depends on, ``embedding_bytes`` is its size before it is packed. ``wire`` is set
    if the service takes packed arrays. ``states`` is True if it keeps the state of an image, which
    depends on the ``inference_parameters`` alone.
    """

    engine: Any = None
    model: Any = None
    model_sha256: Any = None
    segmentation_version: Any = None
    distribution: dict[str, str] | None = None
    versions: Any = None
    device: Any = None
    service_version: Any = None
    wire: Any = None
    gpu: Gpu | None = None
    slow_without_gpu: bool = False
    scales_images: bool = False
    model_cache: str | None = None
    parameters: dict[str, dict[str, Any]] | None = None
    image_statistics: tuple[str, ...] = ()
    embeddings: bool = False
    embedding_parameters: tuple[str, ...] = ()
    embedding_bytes: Count | None = None
    states: bool = False
    inference_parameters: tuple[str, ...] = ()
    limits: CallLimits = CallLimits()
    recent: RecentWork | None = None

    @classmethod
    def of(cls, checked: Mapping[str, Any]) -> Self:
        """Return the description with the values that :func:`checked_description` returned."""
        known = {name: checked[name] for name in cls.__struct_fields__ if name in checked}
        return msgspec.convert(known, cls)

    @property
    def is_empty(self) -> bool:
        """Whether no known field is set, as for a service without ``describe``."""
        return self == ServiceDescription()

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that decide the labels of the service, see :func:`identity_of`."""
        return identity_of(
            {name: getattr(self, name) for name in (*SERVICE_IDENTITY, DISTRIBUTION)}
        )

    @property
    def gives_embeddings(self) -> bool:
        """Whether the service gives embeddings as packed arrays, as the store keeps them."""
        return self.embeddings and self.wire is not None


def read_verified_service(dataset_dir: Path) -> dict[str, Any]:
    """Return the description of the service that the last `samcourier verify` of a run wrote.

    The result is empty if there is none. The fields are unchecked.
    """
    verdict = read_json(dataset_dir / "service.json")
    description = verdict.get("description") if isinstance(verdict, dict) else None
    return description if isinstance(description, dict) else {}


def is_older_version(service: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Return whether ``service`` is an earlier version of the ``current`` one.

    Both are fields of a service's description. Engine and model are the same, ``service`` has a
    lower ``segmentation_version`` or distribution, and neither of the two is higher. A log without
    a distribution is older than one with: it was written before logs named it.
    """
    names = [name for name in SERVICE_IDENTITY if name != "segmentation_version"]
    if any(name not in service or name not in current for name in names):
        return False
    versions = [each.get("segmentation_version") for each in (service, current)]
    if not all(isinstance(version, int) for version in versions):
        return False
    orders = (
        _order(*versions),
        _distribution_order(service.get(DISTRIBUTION), current.get(DISTRIBUTION)),
    )
    is_same = all(service[name] == current[name] for name in names)
    return is_same and "later" not in orders and "none" not in orders and "earlier" in orders


def version_text(service: Mapping[str, Any]) -> str:
    """Return the ``segmentation_version`` of a service, and its distribution if it is known."""
    version = str(service.get("segmentation_version"))
    origin = distribution_text(service)
    return f"{version} ({origin})" if origin else version


def distribution_text(service: Mapping[str, Any]) -> str:
    """Return name and version of the distribution of a service's engine, "" for a built-in one."""
    distribution = service.get(DISTRIBUTION)
    if not isinstance(distribution, Mapping):
        return ""
    return f"{distribution.get('name')} {distribution.get('version')}"


_Order = Literal["earlier", "equal", "later", "none"]


def _order(version: Any, current: Any) -> _Order:
    return "equal" if version == current else "earlier" if version < current else "later"


def _distribution_order(distribution: Any, current: Any) -> _Order:
    """Return the order of two distributions, "none" if they are not versions of the same one."""
    from packaging.version import InvalidVersion, Version

    if distribution == current:
        return "equal"
    if not isinstance(current, Mapping):
        return "none"
    if distribution is None:
        return "earlier"
    if not isinstance(distribution, Mapping) or distribution.get("name") != current.get("name"):
        return "none"
    try:
        return _order(*(Version(str(each.get("version"))) for each in (distribution, current)))
    except InvalidVersion:
        return "none"


def checked_description(answer: Any) -> dict[str, Any]:
    """Return the answer of ``describe`` as JSON values, without known fields of a wrong type.

    Each limit that is no positive count is left out separately. Raises ServiceFailed if ``answer``
    is no mapping of JSON values or is larger than 1 MiB.
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
        description["limits"] = {name: each for name, each in limits.items() if _fits(each, Count)}
    kinds = _kinds()
    return {name: each for name, each in description.items() if _fits(each, kinds.get(name, Any))}


@functools.cache
def _kinds() -> dict[str, Any]:
    return typing.get_type_hints(ServiceDescription, include_extras=True)


def _fits(value: object, kind: Any) -> bool:
    if kind is Any:
        return True
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError):
        # ValueError: a lone surrogate as a key.
        return False
    return value is not None
