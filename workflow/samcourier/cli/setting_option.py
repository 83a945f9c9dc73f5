"""Make the command-line option for a key of the settings from the key's type.

An option takes its default, its limits and its help from the key in
:mod:`samcourier.settings.run_settings`.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec import inspect

from ..errors import InputError
from ..results.layout import OUTPUTS
from ..settings.run_settings import RunSettings

R = TypeVar("R")

POSITIVE = click.FloatRange(min=0, min_open=True)

#: Help texts of the options whose form on the command line differs from that in a config.
_HELP = {
    "images": "Process only the image with this id; may be repeated. @FILE names a text file with"
    " one id per line.",
    "outputs": "A file to make from each mask; may be repeated.",
    "retry_failed": "Also retry images that failed for a reason of their own, e.g. a damaged file.",
    "replace": "Make finished masks of an older version of the engine again, and with --only those"
    " with other parameters.",
    "service.authorized_users": "E-mail address or Hypha id of a user who may call the app, * for"
    " everyone; may be repeated.",
    "service.slurm.extra": "An additional argument for sbatch; may be repeated.",
    "network.ice_servers": "A JSON list of STUN and TURN servers for WebRTC. It gives credentials"
    " as names of environment variables.",
}


#: Keys whose values are names that installed packages may add to.
_NAMES = ("service.engine", "transport")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object on the command line."""

    name = "JSON"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value, parse_constant=_refuse_constant)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            self.fail(
                f'{value!r} is not a JSON object, expected e.g. {{"sigma_px": 2}}', param, ctx
            )
        return parsed


class JsonList(click.ParamType[list[Any]]):
    """A JSON list on the command line."""

    name = "JSON"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        try:
            parsed = json.loads(value, parse_constant=_refuse_constant)
        except (TypeError, ValueError):
            parsed = value
        if not isinstance(parsed, list):
            self.fail(f'{value!r} is not a JSON list, expected e.g. [{{"urls": "stun:..."}}]')
        return parsed


def parameter_name(key: str) -> str:
    """Return the name of the parameter by which a command receives the option of ``key``."""
    return key.replace(".", "_")


def setting_option(
    key: str, flag: str, own_default: Any = None
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return the decorator that adds the option ``flag`` for one key of the settings.

    ``own_default`` replaces the default of the settings for one command; None keeps it.
    """
    kind, description, default = _describe_key(key)
    if own_default is not None:
        default = own_default
    # A text that begins with a value shows it as the user types it.
    begins_with_value = isinstance(kind, inspect.LiteralType) or key in _NAMES
    first = description[:1] if begins_with_value else description[:1].upper()
    text = _HELP.get(key) or f"{first}{description[1:]}."
    # A command line has no null: the user leaves the option out.
    text = text.replace("; null for", "; without it,")
    names = [flag, parameter_name(key)]
    if key == "images":
        return click.option(
            *names, multiple=True, metavar="IMAGE", callback=_read_image_ids, help=text
        )
    if isinstance(kind, inspect.BoolType):
        return click.option(*names, is_flag=True, default=default, help=text)
    if key == "outputs":
        return click.option(*names, multiple=True, type=click.Choice(OUTPUTS), help=text)
    if isinstance(kind, inspect.VarTupleType) and key != "network.ice_servers":
        return click.option(*names, multiple=True, metavar="WORD", help=text)
    shows_default = default not in (None, {}, ())
    if key == "network.ice_servers":
        default = "[]"
    return click.option(
        *names, type=_click_type(key, kind), default=default, show_default=shows_default, help=text
    )


def _describe_key(key: str) -> tuple[inspect.Type, str, Any]:
    """Return the type, the description and the default of a key of the settings."""
    folders, name = key.split(".")[:-1], key.rpartition(".")[2]
    struct: type[Any] = RunSettings
    default: Any = RunSettings(dataset="")
    for folder in folders:
        default = getattr(default, folder)
        struct = type(default)
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    (field,) = (each for each in described.fields if each.name == name)
    kind, description = field.type, ""
    if isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
    return kind, description, getattr(default, name)


def _click_type(key: str, kind: inspect.Type) -> click.ParamType[Any] | None:
    if key in ("service.token_file", "network.ca_bundle"):
        return click.Path(path_type=Path)
    if key == "embeddings_folder":
        return click.Path(file_okay=False, path_type=Path)
    if key == "network.ice_servers":
        return JsonList()
    if isinstance(kind, inspect.LiteralType):
        return click.Choice(_in_order(key, kind.values))
    if isinstance(kind, inspect.IntType):
        return click.IntRange(kind.ge)
    if isinstance(kind, inspect.FloatType):
        return POSITIVE
    if isinstance(kind, inspect.DictType):
        return JsonObject()
    return None


def _in_order(key: str, values: Sequence[Any]) -> list[str]:
    """Return the choices in the order of the type, since msgspec sorts ``values``."""
    struct: Any = RunSettings
    *folders, name = key.split(".")
    for folder in folders:
        struct = typing.get_type_hints(struct)[folder]
    hint = typing.get_type_hints(struct)[name]
    return [str(each) for each in typing.get_args(hint)] or [str(each) for each in values]


def _read_image_ids(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the ids in ``values`` and in the files named as @FILE; no id begins with @."""
    ids = ((each,) if not each.startswith("@") else _ids_in(Path(each[1:])) for each in values)
    return tuple(image for images in ids for image in images)


def _ids_in(path: Path) -> list[str]:
    """Return the image ids on the lines of ``path``. Raises InputError if there is none."""
    problem = "names no image"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        lines, problem = [], getattr(error, "strerror", "not UTF-8")
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(
            f"--only @{path}: {problem}, expected a text file with an image id on each line"
        )
    return ids
