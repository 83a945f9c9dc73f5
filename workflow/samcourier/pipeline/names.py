"""Names in the settings that installed packages may add to. Light: every parse looks at them."""

from __future__ import annotations

from samservice.contract.engine_description import check_engine_name
from samservice.contract.errors import WrongParameter

from ..errors import InputError
from ..settings.run_settings import RunSettings
from ..transports.description import check_transport_name

#: Where the engine is built from this installation, so that its name is known before a run.
OWN_ENGINE_TARGETS = ("local", "slurm")


def check_names(settings: RunSettings) -> None:
    """Raise InputError, with the known names, for what no installed package offers.

    A job does not: its run has done so. On a BioEngine worker other packages may be installed than
    here: there the service refuses an unknown engine itself, and ``samcourier verify`` an app that
    runs another one.
    """
    service = settings.service
    try:
        if service.target in OWN_ENGINE_TARGETS:
            check_engine_name(service.engine)
    except WrongParameter as error:
        raise InputError(f"service.engine: {error.message}") from None
    try:
        check_transport_name(settings.transport)
    except InputError as error:
        raise InputError(f"transport: {error}") from None
