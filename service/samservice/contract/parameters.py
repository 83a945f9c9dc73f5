"""Check parameters against the schemas that an engine describes.

This module imports no engine: the client uses it to check a run's parameters against
``describe()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from .close_match import close_match
from .errors import WrongParameter

Schema = Mapping[str, Any]

_KINDS: dict[str, type] = {
    "number": Real,
    "integer": Integral,
    "boolean": bool,
    "string": str,
    "array": list,
    "object": dict,
}

#: Name of the parameter for the distance of a volume's planes in pixels. Where an engine describes
#: it and the user does not give it, a client takes it from the image's geometry.
Z_ASPECT = "z_aspect"

#: The types that a schema may name.
TYPES = tuple(_KINDS)


def check_parameters(
    parameters: Mapping[str, Any], accepted: Mapping[str, Schema], remark: str = ""
) -> None:
    """Raise :class:`WrongParameter` for the first parameter that ``accepted`` does not allow.

    ``remark`` is appended to the message.
    """
    for problem in parameter_problems(parameters, accepted):
        raise WrongParameter(problem + remark)


def parameter_problems(
    parameters: Mapping[str, Any], accepted: Mapping[str, Schema], noun: str = "parameter"
) -> list[str]:
    """Return a message for each wrong parameter: its name, its value, what is expected.

    ``accepted`` has a schema for each name, see :meth:`samservice.engines.base.Engine.describe`;
    ``noun`` is the word for a parameter in the messages.
    """
    problems = []
    for name, value in parameters.items():
        if name not in accepted:
            known = f"one of {', '.join(accepted)}" if accepted else "none"
            problems.append(
                f"{noun} {name!r} with value {value!r} is unknown, "
                f"{close_match(name, accepted)}expected {known}"
            )
        elif not _fits(value, accepted[name]):
            problems.append(
                f"{noun} {name!r} is {value!r}, expected {_expectation(accepted[name])}"
            )
    return problems


def _fits(value: object, schema: Schema) -> bool:
    kind = schema.get("type")
    # In Python bool is a subclass of int.
    if isinstance(value, bool) and kind != "boolean":
        return False
    if kind in _KINDS and not isinstance(value, _KINDS[kind]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return _fits_list(value, schema)
    # NaN fails every comparison.
    if isinstance(value, Real) and "minimum" in schema and not value >= schema["minimum"]:
        return False
    return not (isinstance(value, Real) and "maximum" in schema and not value <= schema["maximum"])


def _fits_list(values: list[Any], schema: Schema) -> bool:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(values))
    items = schema.get("items", {})
    return least <= len(values) <= most and all(_fits(each, items) for each in values)


def _expectation(schema: Schema) -> str:
    kind = str(schema.get("type", "value"))
    if kind == "array" and "items" in schema:
        least, most = schema.get("minItems"), schema.get("maxItems")
        count = f"{least} " if least is not None and least == most else ""
        return f"a list of {count}values, each {_expectation(schema['items'])}"
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if kind == "boolean":
        return "true or false"
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = "" if least is None else f" from {least}"
    return f"{kind}{limits}" + ("" if most is None else f" to {most}")
