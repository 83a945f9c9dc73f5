"""Check the schemas by which an engine describes its parameters and options.

A misspelt keyword would otherwise lift a limit without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from .parameters import TYPES, Schema, parameter_problems

#: The keywords of a schema, and the types that each one applies to.
_KEYWORDS: dict[str, tuple[str, ...]] = {
    "type": TYPES,
    "default": TYPES,
    "description": TYPES,
    "enum": TYPES,
    "exact": TYPES,
    "from_crate": TYPES,
    "minimum": ("number", "integer"),
    "maximum": ("number", "integer"),
    "items": ("array",),
    "minItems": ("array",),
    "maxItems": ("array",),
}

#: The schemas of the keywords' values; those of a limit and of a default follow from the type.
_VALUES: dict[str, Schema] = {
    "description": {"type": "string"},
    "enum": {"type": "array", "minItems": 1},
    "exact": {"type": "boolean"},
    "from_crate": {"type": "boolean"},
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "minItems": {"type": "integer", "minimum": 0},
    "maxItems": {"type": "integer", "minimum": 0},
}


def schema_problems(name: str, schema: object, noun: str) -> list[str]:
    """Return a message for each fault in the schema of a parameter: what came, what is expected.

    ``noun`` is the word for a parameter in the messages. A schema has a ``type``; its ``default``
    and ``enum`` are values that it accepts, but a default may be None.
    """
    where = f"{noun} {name!r}"
    if not isinstance(schema, Mapping):
        return [f"{where} has the schema {schema!r}, expected a mapping with a type"]
    kind = schema.get("type")
    if kind not in TYPES:
        return [f"{where} has the type {kind!r}, expected one of {', '.join(TYPES)}"]
    accepted = {
        keyword: _VALUES.get(keyword, {}) for keyword, kinds in _KEYWORDS.items() if kind in kinds
    }
    values = {
        keyword: value
        for keyword, value in schema.items()
        if keyword in _VALUES or keyword not in accepted
    }
    problems = parameter_problems(values, accepted, f"{where}: keyword")
    if "items" in schema and kind == "array":
        problems += schema_problems("items", schema["items"], f"{where}: keyword")
    if problems:
        return problems
    for least, most in (("minimum", "maximum"), ("minItems", "maxItems")):
        if least in schema and most in schema and schema[least] > schema[most]:
            problems.append(
                f"{where}: {least} is {schema[least]!r}, expected at most the {most},"
                f" {schema[most]!r}"
            )
    bare = {keyword: value for keyword, value in schema.items() if keyword != "enum"}
    for choice in schema.get("enum", ()):
        problems += parameter_problems(
            {name: choice}, {name: bare}, f"a value in the enum of {noun}"
        )
    if schema.get("default") is not None:
        problems += parameter_problems(
            {name: schema["default"]}, {name: schema}, f"the default of {noun}"
        )
    return problems


def problems_of_schemas(schemas: object, noun: str, required: tuple[str, ...] = ()) -> list[str]:
    """Return a message for each fault in ``schemas``, {name: schema}.

    Every schema has the ``required`` keywords, with values other than "".
    """
    if not isinstance(schemas, Mapping):
        return [f"the {noun}s are {schemas!r}, expected a mapping of a schema for each name"]
    problems = []
    for name, schema in schemas.items():
        if not isinstance(name, str) or not name:
            problems.append(f"a {noun} has the name {name!r}, expected a text")
            continue
        found = schema_problems(name, schema, noun)
        problems += found or [
            f"{noun} {name!r} has no {keyword}, expected one"
            for keyword in required
            if not schema.get(keyword)
        ]
    return problems
