"""Validate the workflow's config and convert it to :class:`RunSettings`."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, get_args

import msgspec

from samservice.contract.close_match import close_match
from samservice.contract.conversion import convert, is_null

from ..errors import InputError
from ..files.strict_json import canonical_json
from ..masks.integrity import OmeZarrVersion
from ..results.layout import OUTPUTS
from ..settings.run_settings import RunSettings
from .engine_settings import QUOTES_HINT, with_typed_values
from .names import check_names

#: The beginning of what YAML may read as an integer: 007, 0x7, 1_000, 12:30.
_NUMBER_LIKE = re.compile(r"[-+]?[0-9][0-9a-fA-FxX_:]*")

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

#: The keys that a config must have.
_REQUIRED = ("dataset", "sheet")

#: Rules between keys of ``service``, which no type expresses.
_SERVICE_RULES: list[dict[str, Any]] = [
    {
        "if": {"properties": {"target": {"const": "existing"}}, "required": ["target"]},
        "then": {
            "properties": {
                "server_url": {
                    "type": "string",
                    "description": "URL of the Hypha server, since service.target is existing",
                },
                "service_id": {
                    "type": "string",
                    "description": "Hypha id of the service, since service.target is existing",
                },
            },
            "required": ["server_url", "service_id"],
        },
    },
    *(
        {
            "if": {"properties": {"target": {"const": target}}, "required": ["target"]},
            "then": {
                "properties": {
                    "server_url": {
                        "type": "string",
                        "description": f"URL of the Hypha server, since service.target is {target}",
                    }
                },
                "required": ["server_url"],
            },
        }
        for target in ("bioengine", "slurm")
    ),
    # Any other target would ignore these keys without a message.
    {
        "if": {"properties": {"target": {"not": {"const": "bioengine"}}}},
        "then": {
            "properties": {
                "authorized_users": {
                    "maxItems": 0,
                    "description": "nothing, unless service.target is bioengine: any other service"
                    " lets in whoever has a token for its workspace",
                },
                "replicas": {
                    "const": 1,
                    "description": "1, unless service.target is bioengine",
                },
                "gpu_memory_mb": {
                    "type": "null",
                    "description": "nothing, unless service.target is bioengine; with slurm,"
                    " service.slurm.gres requests a GPU",
                },
            }
        },
    },
]


def read_config(config: Mapping[str, Any]) -> RunSettings:
    """Return the settings that a workflow's ``config`` describes.

    Raises InputError with one line: the key, its value and the expected value.
    """
    _check_keys(config)
    values = _with_defaults(_normalized(config), _defaults())
    schema = config_schema()
    values = convert(values, schema, schema["$defs"])
    problem = find_problem(values)
    if problem is not None:
        raise InputError(problem)
    _check_json(values)
    try:
        settings = msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        problem, _, key_path = str(error).partition(" - at `$")
        raise InputError(f"config{key_path.removesuffix('`')}: {problem}") from None
    try:
        check_names(settings)
        return with_typed_values(settings)
    except InputError as error:
        raise InputError(f"config.{error}") from None


def with_names_as_typed(config: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return ``config`` with names as they stand in ``texts``, those of a command line by key.

    Snakemake takes ``--config dataset=001`` for the number 1. A number that is written as its text
    is left as it is: it may come from the YAML of a profile, which has lost what was written.
    """
    properties = config_schema()["properties"]
    names = {
        key: texts[key]
        for key, value in config.items()
        if isinstance(value, int | float)
        and texts.get(key, str(value)) != str(value)
        and (key == "images" or _takes_text(properties.get(key, {})))
    }
    return {**config, **names}


def find_problem(values: Mapping[str, Any]) -> str | None:
    """Return one line for a key that the schema refuses, None if it accepts all ``values``."""
    from jsonschema import Draft202012Validator

    errors = list(Draft202012Validator(config_schema()).iter_errors(_plain(values)))
    return describe_config_error(min(errors, key=_precedence)) if errors else None


@cache
def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``config.yaml``, made from :class:`RunSettings`."""
    (_,), components = msgspec.json.schema_components([RunSettings], ref_template="#/$defs/{name}")
    schema = components.pop("RunSettings")
    # These two rules hold for a config only: a command takes any results folder, and single images.
    schema["properties"]["dataset"]["pattern"] = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$(?!\n)"
    schema["properties"]["sheet"] = {
        "description": schema["properties"]["sheet"]["description"],
        "type": "string",
        "minLength": 1,
    }
    components["ServiceSettings"]["allOf"] = _SERVICE_RULES
    _describe_by_their_keys(schema, components)
    return {
        "$schema": _DRAFT,
        **schema,
        "title": "Configuration of samcourier",
        "description": "What to segment, with which service, over which transport.",
        "required": list(_REQUIRED),
        "$defs": components,
    }


def _precedence(error: Any) -> tuple[bool, int]:
    """Return a sort key: errors of one key before rules between keys, outer keys before inner."""
    return "allOf" in error.absolute_schema_path, len(error.absolute_path)


def _describe_by_their_keys(schema: dict[str, Any], components: dict[str, Any]) -> None:
    """Replace each component's docstring with the description of the key that refers to it."""
    for part in components.values():
        part.pop("description", None)
    for part in (schema, *components.values()):
        for key in part["properties"].values():
            for holder in (key, key.get("items", {})):
                if "$ref" in holder:
                    name = holder["$ref"].rpartition("/")[2]
                    components[name]["description"] = holder["description"]


def listed(value: Any) -> list[str]:
    """Return the items of a list, or of a string with commas as the command line gives it."""
    words = value if isinstance(value, list | tuple) else str(value).split(",")
    return [str(word).strip() for word in words]


def check_subset(images: Collection[str] | None, known: Collection[str], sheet: str | None) -> None:
    """Raise InputError for an id in the config's ``images`` that the sheet does not list."""
    for image in images or ():
        if image not in known:
            hint = close_match(image, known)
            same = _read_as_the_same_number(image, known)
            quotes = f"; YAML reads {same[0]} as {image}: put it in quotes" if same else ""
            raise InputError(f"config.images: {image!r}, {hint}expected ids of {sheet}{quotes}")


def check_numbers(images: Any, known: Collection[str]) -> None:
    """Raise InputError for a number in the config's ``images`` that several ids are read as.

    YAML reads ``7`` and ``007`` as the same number, and which of the two a person wrote is lost.
    """
    for image in images if isinstance(images, list | tuple) else [images]:
        if isinstance(image, int) and not isinstance(image, bool):
            same = _read_as_the_same_number(str(image), known)
            if len(same) > 1:
                raise InputError(
                    f"config.images: the number {image}, expected an id in quotes, since YAML reads"
                    f" {' and '.join(same)} of the sheet as this number"
                )


def _read_as_the_same_number(image: str, known: Collection[str]) -> list[str]:
    """Return the known ids that YAML reads as the same integer as ``image``."""
    number = _yaml_integer(image)
    return [] if number is None else [each for each in known if _yaml_integer(each) == number]


def _yaml_integer(text: str) -> int | None:
    if not _NUMBER_LIKE.fullmatch(text):
        return None
    import yaml

    value = yaml.safe_load(text)
    return value if isinstance(value, int) else None


def _image_ids(value: Any) -> list[str]:
    """Return the ids in ``images``; raise InputError for what YAML has made of an id."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, bool) or not isinstance(each, str | int):
            raise InputError(
                f"config.images: {_as_read(each)}, expected image ids of the sheet{QUOTES_HINT}"
            )
    return listed(value)


def describe_config_error(error: Any) -> str:
    """Return a jsonschema ValidationError as one line: key, value and expected value."""
    where = ".".join(["config", *map(str, error.absolute_path)])
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = min(str(key) for key in error.instance if key not in known)
        hint = close_match(unknown, known)
        return f"{where}: unknown key {unknown!r}, {hint}expected {', '.join(known)}"
    if error.validator == "required":
        return f"{where}: {error.message}"
    parts = (error, error.parent) if error.parent is not None else (error,)
    described = [part.schema["description"] for part in parts if "description" in part.schema]
    expected = described[0] if described else f"{error.validator} {error.validator_value}"
    is_changed = not isinstance(error.instance, str | list | dict) and _takes_text(error.schema)
    hint = QUOTES_HINT if is_changed else ""
    return f"{where}: {_as_read(error.instance)}, expected: {expected}{hint}"


def _takes_text(schema: Mapping[str, Any]) -> bool:
    """Return whether a text fits the schema, in one of its alternatives at least."""
    alternatives = [schema, *schema.get("anyOf", [])]
    words = [each for part in alternatives for each in part.get("enum", [])]
    return any(part.get("type") == "string" for part in alternatives) or any(
        isinstance(word, str) for word in words
    )


def _as_read(value: Any) -> str:
    """Return a value as a user knows it: a date as YAML writes it, any other like Python."""
    return value.isoformat() if isinstance(value, datetime.date) else repr(value)


def _check_keys(config: Any, where: str = "config") -> None:
    """Raise InputError for a key that is no text, which YAML makes of ``on``, ``no`` or ``001``."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if not isinstance(key, str):
                raise InputError(
                    f"{where}: the key {_as_read(key)}, expected a text as the key{QUOTES_HINT}"
                )
            _check_keys(value, f"{where}.{key}")
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            _check_keys(value, f"{where}.{number}")


@cache
def _defaults() -> dict[str, Any]:
    """Return the default of every key except the required ones."""
    settings = RunSettings(dataset="")
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return {name: value for name, value in values.items() if name not in _REQUIRED}


def _with_defaults(values: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with missing keys of each mapping set to their ``defaults``."""
    filled = {**defaults, **values}
    for name, default in defaults.items():
        # An empty default is a mapping whose keys the engine defines.
        if isinstance(default, dict) and default and isinstance(filled[name], dict):
            filled[name] = _with_defaults(filled[name], default)
    return filled


def _check_json(values: Mapping[str, Any]) -> None:
    """Raise InputError for values that YAML has and JSON lacks: dates, NaN, infinity."""
    free = {
        "parameters": values["parameters"],
        "service.engine_options": values["service"]["engine_options"],
    }
    for name, value in free.items():
        try:
            canonical_json(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"config.{name}: {value!r}, expected values of JSON: {error}{QUOTES_HINT}"
            ) from None


def _plain(value: Any) -> Any:
    """Return ``value`` with Snakemake's mappings and lists as plain dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with values from the command line in the form of the file."""
    values: dict[str, Any] = _plain(config)
    # The command line gives 0.5 as a number and true as a string.
    if str(values.get("ome_zarr")) in get_args(OmeZarrVersion):
        values["ome_zarr"] = str(values["ome_zarr"])
    images = values["images"] = None if is_null(values.get("images")) else values.get("images")
    if images is not None and not isinstance(images, Mapping) and images != []:
        values["images"] = _image_ids(images)
    if isinstance(values.get("outputs"), str | list):
        values["outputs"] = _outputs(values["outputs"])
    return values


def _outputs(value: Any) -> list[str]:
    names = [name for name in listed(value) if name]
    for name in names:
        if name not in OUTPUTS:
            hint = close_match(name, OUTPUTS)
            raise InputError(f"config.outputs: {name!r}, {hint}expected {', '.join(OUTPUTS)}")
    return names


def main() -> None:
    """Print the schema of ``config.yaml`` as the YAML file that editors and catalogues read."""
    import yaml

    print("# Written by `make schemas` from samcourier/settings/run_settings.py.")
    print(yaml.safe_dump(config_schema(), sort_keys=False, width=100), end="")


if __name__ == "__main__":
    main()
