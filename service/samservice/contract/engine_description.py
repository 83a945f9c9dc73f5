"""The description of an engine before it is built: its name, options and requirements.

This module imports no engine: the client checks names where the model's libraries may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import WrongParameter
from .parameters import Schema
from .plugins import Plugin, PluginGroup, PluginProblem
from .schema_problems import problems_of_schemas


@dataclass(frozen=True)
class EngineDescription:
    """The object that an entry point of the group ``samcourier.engines`` names.

    Its module imports neither the model's libraries nor the engine's own module: the engine may be
    installed only where the service runs.

    Attributes:
        name: The name of the entry point, and the value of ``service.engine`` in the config.
        summary: One line for the user.
        suited_for: The images that the engine is made for, e.g. "bright nuclei on a dark ground";
            the user reads it where the engine found nothing in many images. "" for any image.
        build: ``module:callable``. It is called with the options as keywords, returns a
            :class:`samservice.engines.base.Engine`, and may take minutes.
        options: The keywords of ``build``, {name: schema} in the form of an engine's parameters
            (:meth:`samservice.engines.base.Engine.describe`); None is accepted where it is the
            default. Each schema has a ``type``; with ``exact: true`` no text is converted to it.
            With ``from_crate: true``, ``samcourier rerun`` takes the option from a crate, which may
            be another author's: such an option neither names a file nor permits anything.
        requirements: pip requirements of the packages that ``build`` imports.
        parameters: Returns the parameters of an engine with the given options, as its ``describe``
            does, or None where only the built engine knows them. It lets a config be checked before
            the engine is built, and imports none of the model's libraries.

    Raises ValueError for a field of another type and for an option with a wrong schema.
    """

    name: str
    summary: str
    build: str
    suited_for: str = ""
    options: Mapping[str, Schema] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    parameters: Callable[[Mapping[str, Any]], Mapping[str, Schema] | None] | None = None

    def __post_init__(self) -> None:
        for field_name in ("name", "summary", "build", "suited_for"):
            value = getattr(self, field_name)
            if not isinstance(value, str) or "\n" in value:
                raise ValueError(f"{field_name} is {value!r}, expected a text of one line")
        # A single text would count as a requirement for each of its letters.
        if isinstance(self.requirements, str) or not all(
            isinstance(each, str) for each in self.requirements
        ):
            raise ValueError(
                f"requirements are {self.requirements!r}, expected a tuple of texts for pip"
            )
        for problem in problems_of_schemas(self.options, "option"):
            raise ValueError(problem)


ENGINES = PluginGroup(
    group="samcourier.engines",
    noun="engine",
    kind=EngineDescription,
    built_in={
        "watershed": "samservice.engines.descriptions:WATERSHED",
        "microsam": "samservice.engines.descriptions:MICROSAM",
        "cellpose": "samservice.engines.descriptions:CELLPOSE",
    },
)


#: The engine of a run that names none. It has no model to download.
DEFAULT_ENGINE = "watershed"


def known_engines() -> tuple[str, ...]:
    """Return the names of all engines that installed distributions offer."""
    return ENGINES.names()


def check_engine_name(name: str) -> None:
    """Raise :class:`WrongParameter` with the known names unless a distribution offers ``name``."""
    find_engine(name)


def find_engine(name: str) -> Plugin:
    """Return the plug-in of an engine.

    Raises :class:`WrongParameter` as :func:`check_engine_name` does.
    """
    try:
        return ENGINES.find(name)
    except PluginProblem as problem:
        raise WrongParameter(str(problem)) from None


def describe_engine(name: str) -> EngineDescription:
    """Return the description of an engine.

    Raises :class:`WrongParameter` for an unknown name or a description that cannot be imported.
    """
    try:
        return ENGINES.load(name)
    except PluginProblem as problem:
        raise WrongParameter(str(problem)) from problem
