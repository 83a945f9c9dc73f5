"""Convert and check the options and parameters of an engine whose description is known here.

Every parse of the Snakefile does this, so this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from samservice.contract.conversion import convert_values
from samservice.contract.engine_description import ENGINES, EngineDescription, describe_engine
from samservice.contract.errors import WrongParameter
from samservice.contract.parameters import parameter_problems

from ..errors import InputError
from ..settings.run_settings import RunSettings
from .names import OWN_ENGINE_TARGETS

#: Why a name or text of the config may be something else by now.
QUOTES_HINT = (
    "; YAML reads 001, 1e3, 12:30, no, null and dates as other values than a text: put a name in"
    " quotes"
)


def with_typed_values(settings: RunSettings) -> RunSettings:
    """Return ``settings`` with engine options and parameters in the types of the engine.

    Texts are converted where their meaning is certain: Snakemake gives each nested value of
    ``--config`` as a text. Raises InputError, one line, for a value that the engine does not take.
    The settings of an engine that is described elsewhere alone are returned as they are:
    ``samcourier verify`` checks them against the description of the service.
    """
    description = _description(settings)
    if description is None:
        return settings
    service = settings.service
    options = convert_values(service.engine_options, description.options)
    given = {
        name: value
        for name, value in options.items()
        if value is not None or description.options.get(name, {}).get("default", "") is not None
    }
    _check(given, description.options, "service.engine_options", "option")
    parameters = dict(settings.parameters)
    accepted = description.parameters(options) if description.parameters else None
    if accepted is not None:
        parameters = convert_values(parameters, accepted)
        _check(parameters, accepted, "parameters", "parameter")
    service = msgspec.structs.replace(service, engine_options=options)
    return msgspec.structs.replace(settings, service=service, parameters=parameters)


def _description(settings: RunSettings) -> EngineDescription | None:
    """Return the description of the engine that the run starts, None if it is not known here."""
    service = settings.service
    # A worker gets the built-in engines from this machine; it may have other versions of others.
    known = service.target in OWN_ENGINE_TARGETS or (
        service.target == "bioengine" and service.engine in ENGINES.built_in
    )
    if not known:
        return None
    try:
        return describe_engine(service.engine)
    except WrongParameter as error:
        raise InputError(f"service.engine: {error.message}") from None


def _check(
    values: Mapping[str, Any], accepted: Mapping[str, Mapping[str, Any]], key: str, noun: str
) -> None:
    for name, value in values.items():
        for problem in parameter_problems({name: value}, accepted, noun):
            schema = accepted.get(name, {})
            is_changed = schema.get("type") == "string" and not isinstance(value, str)
            hint = QUOTES_HINT if is_changed else ""
            if schema.get("exact") and isinstance(value, str):
                hint = ", not a text; --config gives each nested value as a text, so set it in the"
                hint += " config file"
            raise InputError(f"{key}: {problem}{hint}")
