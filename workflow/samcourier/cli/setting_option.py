"""One option of the command line for a key of the settings, made from the key's type.

The default, the limits and the help of an option are those of the key in
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

#: Help where a command line says it otherwise than a config.
_HELP = {
    "images": "Only this image; several may be given, @FILE for those on the lines of FILE.",
    "outputs": "A file to make of each mask; several may be given.",
    "retry_failed": "Try again also images that failed by their own fault.",
    "service.authorized_users": "An e-mail address or Hypha id that may call the app, * for"
    " everyone; several may be given.",
    "service.slurm.extra": "A further word for sbatch, as it is; several may be given.",
    "network.ice_servers": "A JSON list of STUN and TURN servers for WebRTC; credentials are named"
    " by environment variables.",
}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


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
            self.fail(f'{value!r} is no JSON object, expected e.g. {{"sigma_px": 2}}', param, ctx)
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
            self.fail(f'{value!r} is no JSON list, expected e.g. [{{"urls": "stun:..."}}]')
        return parsed


def parameter_name(key: str) -> str:
    """Return the name under which a command is given the option of a key."""
    return key.replace(".", "_")


def setting_option(key: str, flag: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return the decorator that adds the option ``flag`` for one key of the settings."""
    kind, description, default = _described(key)
    text = _HELP.get(key) or f"{description[:1].upper()}{description[1:]}."
    # A command line has no null: the option is left out.
    text = text.replace("; null for", "; without it,")
    words = [flag, parameter_name(key)]
    if key == "images":
        return click.option(
            *words, multiple=True, metavar="IMAGE", callback=_named_images, help=text
        )
    if isinstance(kind, inspect.BoolType):
        return click.option(*words, is_flag=True, default=default, help=text)
    if key == "outputs":
        return click.option(*words, multiple=True, type=click.Choice(OUTPUTS), help=text)
    if isinstance(kind, inspect.VarTupleType) and key != "network.ice_servers":
        return click.option(*words, multiple=True, metavar="WORD", help=text)
    shown = default not in (None, {}, ())
    if key == "network.ice_servers":
        default = "[]"
    return click.option(
        *words, type=_click_type(key, kind), default=default, show_default=shown, help=text
    )


def _described(key: str) -> tuple[inspect.Type, str, Any]:
    """Return the type, the description and the default of a key of the settings."""
    folders, name = key.split(".")[:-1], key.rpartition(".")[2]
    struct: type[Any] = RunSettings
    default: Any = RunSettings(dataset="")
    for folder in folders:
        default = getattr(default, folder)
        struct = type(default)
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    (found,) = (each for each in described.fields if each.name == name)
    kind, description = found.type, ""
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
    """Return the choices as the type names them; msgspec sorts them."""
    struct: Any = RunSettings
    *folders, name = key.split(".")
    for folder in folders:
        struct = typing.get_type_hints(struct)[folder]
    hint = typing.get_type_hints(struct)[name]
    return [str(each) for each in typing.get_args(hint)] or [str(each) for each in values]


def _named_images(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the ids given; no id begins with the @ of a file."""
    named = ((each,) if not each.startswith("@") else _ids_in(Path(each[1:])) for each in given)
    return tuple(image for images in named for image in images)


def _ids_in(path: Path) -> list[str]:
    """Return the image ids on the lines of ``path``. Raises InputError when there is none."""
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
