"""Check an engine when it is loaded: its methods, and its own description.

A wrong description would otherwise be noticed in the middle of a run, or never: a misspelt
``image_statistics`` gives other labels at the borders of tiles.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..contract.close_match import close_match
from ..contract.errors import WrongParameter
from ..contract.identity import DISTRIBUTION
from ..contract.image_statistics import STATISTICS
from ..contract.parameters import Schema, parameter_problems
from ..contract.schema_problems import problems_of_schemas

METHODS = ("describe", "check_parameters", "segment", "encode", "segment_embedding")
#: The methods of :class:`.stages.Stages`.
STAGE_METHODS = ("prepare", "infer", "finish", "max_batch", "working_bytes")

_TEXT: Schema = {"type": "string"}
_NAMES: Schema = {"type": "array", "items": _TEXT}
_SWITCH: Schema = {"type": "boolean"}

_REQUIRED: dict[str, Schema] = {
    "engine": _TEXT,
    "model": _TEXT,
    "model_sha256": _TEXT,
    "segmentation_version": {"type": "integer", "minimum": 0},
    "versions": {"type": "object"},
    "embeddings": _SWITCH,
    "device": _TEXT,
    "parameters": {"type": "object"},
}
_OPTIONAL: dict[str, Schema] = {
    "image_statistics": {"type": "array", "items": {"type": "string", "enum": list(STATISTICS)}},
    "embedding_parameters": _NAMES,
    "embedding_bytes": {"type": "integer", "minimum": 1},
    "inference_parameters": _NAMES,
    "device_threads": {"type": "integer", "minimum": 0},
    "max_batch": {"type": "integer", "minimum": 1},
    "slow_without_gpu": _SWITCH,
    "scales_images": _SWITCH,
    "gpu": {"type": "object"},
    "model_cache": _TEXT,
}
_GPU: dict[str, Schema] = {"name": _TEXT, "memory_bytes": {"type": "integer", "minimum": 1}}
_MAY_BE_NONE = ("model_sha256", "embedding_bytes", "gpu", "model_cache")
_SHA256_DIGITS = 64
#: Fields that the service adds to the description of its engine.
_OF_THE_SERVICE = (
    *("service", "service_version", "axes", "wire", "limits", "pipeline", "recent"),
    "states",
    DISTRIBUTION,
)
#: Arguments of the service's methods, which no parameter can share its name with.
_ARGUMENTS = (
    "image_or_embedding",
    "image",
    "embedding",
    "axes",
    "image_statistics",
    "keep_state",
    "context",
)


def check_engine(engine: Any, name: str, origin: str) -> None:
    """Raise :class:`WrongParameter` for the first fault of an engine: its field, what came.

    ``name`` is that of its entry point, ``origin`` the distribution that offers it, with version.
    """
    for problem in _problems(engine, name):
        raise WrongParameter(f"engine {name!r} of {origin}: {problem}")


def _problems(engine: Any, name: str) -> Iterator[str]:
    """Yield the faults of an engine; after one, the next ones are not sought."""
    yield from (
        f"it has no method {method}, expected {', '.join(METHODS)}"
        for method in METHODS
        if not callable(getattr(engine, method, None))
    )
    try:
        described = engine.describe()
    except Exception as error:
        yield f"describe() failed with {type(error).__name__}: {_shown(str(error))}"
    if not isinstance(described, dict):
        yield f"describe() returned {_shown(described)}, expected a dict"
    for field, value in described.items():
        if not _is_json(field, value):
            yield f"describe() has the field {field!r} with {_shown(value)}, expected JSON values"
    yield from (f"describe(): {problem}" for problem in _field_problems(described))
    yield from (f"describe(): {each}" for each in _relation_problems(engine, name, described))


def _field_problems(described: Mapping[str, Any]) -> Iterator[str]:
    accepted = _REQUIRED | _OPTIONAL
    for field, schema in accepted.items():
        if field not in described:
            if field in _REQUIRED:
                yield f"the field {field!r} is missing, expected {schema['type']}"
            continue
        value = described[field]
        if value is not None or field not in _MAY_BE_NONE:
            yield from parameter_problems({field: value}, {field: schema}, "the field")
        if value == "":
            yield f"the field {field!r} is empty, expected a text"
    for field in described.keys() - accepted.keys():
        if field in _OF_THE_SERVICE:
            yield f"the field {field!r} is that of the service, expected another name"
        # A further field is for people to read, a misspelt one would have no effect.
        if hint := close_match(field, _OPTIONAL):
            yield f"the field {field!r} is unknown, {hint}expected one of {', '.join(accepted)}"


def _relation_problems(engine: Any, name: str, described: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of fields whose types are right."""
    if described["engine"] != name:
        yield f"the field 'engine' is {described['engine']!r}, expected {name!r}"
    digest = described["model_sha256"]
    if digest is not None and not _is_sha256(digest):
        yield f"the field 'model_sha256' is {digest!r}, expected 64 hexadecimal digits or null"
    for package, version in described["versions"].items():
        if not isinstance(version, str):
            yield f"the field 'versions' has {package!r} with {version!r}, expected a text"
    if (gpu := described.get("gpu")) is not None:
        yield from parameter_problems(gpu, _GPU, "the field 'gpu':")
        if gpu.keys() != _GPU.keys():
            yield f"the field 'gpu' is {gpu!r}, expected {' and '.join(_GPU)}"
    yield from problems_of_schemas(described["parameters"], "parameter", ("description",))
    for parameter in described["parameters"]:
        if parameter in _ARGUMENTS:
            yield f"parameter {parameter!r} is an argument of the service, expected another name"
    for field in ("embedding_parameters", "inference_parameters"):
        for parameter in described.get(field, ()):
            if parameter not in described["parameters"]:
                known = ", ".join(described["parameters"]) or "none"
                yield f"the field {field!r} names {parameter!r}, expected parameters: {known}"
    missing = [each for each in STAGE_METHODS if not callable(getattr(engine, each, None))]
    if "inference_parameters" in described and missing:
        yield f"the field 'inference_parameters' belongs to stages, but {missing[0]} is missing"
    if "inference_parameters" not in described and not missing:
        yield "the field 'inference_parameters' is missing, expected it beside the stages"


def _is_json(field: object, value: object) -> bool:
    try:
        return isinstance(field, str) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _is_sha256(digest: str) -> bool:
    return len(digest) == _SHA256_DIGITS and set(digest) <= set("0123456789abcdef")


def _shown(value: object) -> str:
    return reprlib.repr(value)
