"""Names of a config that installed packages may add to. Light: every parse looks at them."""

from __future__ import annotations

from samservice.contract.engine_description import check_engine_name
from samservice.contract.errors import WrongParameter

from ..errors import InputError
from ..settings.run_settings import RunSettings
from ..transports.description import check_transport_name

#: Where the engine is built from this installation, so that its name is known before a run.
OWN_ENGINE_TARGETS = ("local", "slurm")


def check_engine_of_target(target: str, engine: str) -> None:
    """Raise InputError, with the known names, for an engine that no installed package offers.

    Elsewhere other packages may be installed: there the service itself refuses it, and
    ``samcourier verify`` an app that runs another engine.
    """
    if target not in OWN_ENGINE_TARGETS:
        return
    try:
        check_engine_name(engine)
    except WrongParameter as error:
        raise InputError(error.message) from None


def check_names(settings: RunSettings) -> None:
    """Raise InputError for an engine or a transport that no installed package offers."""
    check_engine_of_target(settings.service.target, settings.service.engine)
    check_transport_name(settings.transport)
