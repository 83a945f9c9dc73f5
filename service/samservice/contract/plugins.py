"""Find engines, readers and transports of other distributions by their entry points.

An entry point names a description, which can be imported without the libraries of the plug-in.
:func:`scan` only reads the metadata of the installed distributions. A description is imported when
its name is needed, so that a broken plug-in does not affect the others.
"""

from __future__ import annotations

import logging
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any, Generic, Protocol, TypeVar

from .close_match import close_match

#: The distribution of the built-in engines, readers and transports.
OWN_DISTRIBUTION = "samcourier"
GROUP_PREFIX = "samcourier."

_log = logging.getLogger(__name__)


class PluginProblem(Exception):
    """No distribution or more than one offers the name, or its description cannot be loaded."""


class Description(Protocol):
    """The object that an entry point names."""

    @property
    def name(self) -> str:
        """The name of the entry point."""
        ...


@dataclass(frozen=True)
class Plugin:
    """One entry point.

    Attributes:
        group: Group of the entry point.
        name: Name of the plug-in.
        value: ``module:object``.
        distribution: Name of the distribution that offers it.
        version: Version of that distribution.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        """Return the distribution and its version, as pip lists them."""
        return f"{self.distribution} {self.version}".strip()


@lru_cache(maxsize=1)
def scan() -> tuple[Plugin, ...]:
    """Return the entry points of samcourier's groups from all installed distributions.

    Logs a warning and skips a distribution whose metadata cannot be read.
    """
    found: dict[str, list[Plugin]] = {}
    for distribution in metadata.distributions():
        name = ""
        try:
            # Most distributions have no such entry point, and reading each name costs a parse.
            if GROUP_PREFIX not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = distribution.name
            plugins = [
                Plugin(each.group, each.name, each.value, name, distribution.version)
                for each in distribution.entry_points
                if each.group.startswith(GROUP_PREFIX)
            ]
        except Exception as error:
            _log.warning(
                "the entry points of %s are ignored because its metadata are damaged (%s)",
                name or "a distribution without a name",
                _one_line(error),
            )
            continue
        # If a distribution is on the path twice, Python imports the first.
        found.setdefault(canonical_name(name), plugins)
    return tuple(plugin for plugins in found.values() for plugin in plugins)


def canonical_name(distribution: str) -> str:
    """Return the name of a distribution in its one spelling.

    Source: the specification "Names and normalization" of packaging.python.org (PEP 503).
    """
    return re.sub("[-_.]+", "-", distribution).lower()


D = TypeVar("D", bound=Description)


@dataclass(frozen=True)
class PluginGroup(Generic[D]):
    """One group of entry points.

    Attributes:
        group: Name of the group.
        noun: The word for a plug-in of this group in messages.
        kind: Class of the descriptions.
        built_in: The project's own entry points, {name: value}, as pyproject.toml registers them.
            They also work without metadata: on a BioEngine worker samservice is uploaded as plain
            files, which are not a distribution.
    """

    group: str
    noun: str
    kind: type[D]
    built_in: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """Return the known names: the built-in ones, then the others in alphabetical order."""
        others = sorted(self._offers().keys() - self.built_in.keys())
        return (*self.built_in, *others)

    def find(self, name: str) -> Plugin:
        """Return the plug-in ``name`` without importing it.

        Raises :class:`PluginProblem` with the known names when no distribution offers it, or with
        the distributions when more than one does: neither may shadow the other.
        """
        offers = self._offers().get(name, [])
        if not offers:
            raise PluginProblem(
                f"{self.noun} {name!r} is unknown, {close_match(name, self.names())}"
                f"expected one of {', '.join(self.names())}"
            )
        if len(offers) > 1:
            origins = " and by ".join(sorted(plugin.origin for plugin in offers))
            raise PluginProblem(
                f"{self.noun} {name!r} is offered by {origins},"
                " expected one distribution: uninstall the other"
            )
        return offers[0]

    def load(self, name: str) -> D:
        """Import and return the description of ``name``.

        Raises :class:`PluginProblem` as :meth:`find` does, and with the distribution when its
        entry point cannot be imported or is not a description of this name.
        """
        plugin = self.find(name)
        try:
            loaded: Any = pkgutil.resolve_name(plugin.value)
        except Exception as error:
            raise PluginProblem(
                f"{self.noun} {name!r} of {plugin.origin} cannot be loaded from {plugin.value!r}"
                f" ({_one_line(error)})"
            ) from error
        if not isinstance(loaded, self.kind) or loaded.name != name:
            raise PluginProblem(
                f"{self.noun} {name!r} of {plugin.origin}: {plugin.value!r} is"
                f" {_one_line(repr(loaded))}, expected {self.kind.__name__} with the name {name!r}"
            )
        return loaded

    def _offers(self) -> dict[str, list[Plugin]]:
        offers: dict[str, list[Plugin]] = {name: [] for name in self.built_in}
        for plugin in scan():
            # The metadata of an editable installation may be older than the code.
            is_stale = (
                plugin.distribution == OWN_DISTRIBUTION
                and self.built_in.get(plugin.name) != plugin.value
            )
            if plugin.group == self.group and not is_stale:
                offers.setdefault(plugin.name, []).append(plugin)
        for name, value in self.built_in.items():
            if all(plugin.value != value for plugin in offers[name]):
                offers[name].insert(0, Plugin(self.group, name, value, OWN_DISTRIBUTION, ""))
        return offers


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if isinstance(error, Exception) else text
