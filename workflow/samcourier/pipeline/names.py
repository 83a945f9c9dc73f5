"""Check the names of engine and transport, which installed packages may add.

Every parse of the Snakefile checks them, so this module imports nothing heavy.
"""

from __future__ import annotations

from samservice.contract.engine_description import check_engine_name
from samservice.contract.errors import WrongParameter

from ..errors import InputError
from ..settings.run_settings import RunSettings
from ..transports.description import check_transport_name

#: Targets whose engine runs from this installation, so that its name is known before a run.
OWN_ENGINE_TARGETS = ("local", "slurm")


def check_names(settings: RunSettings) -> None:
    """Raise InputError, with the known names, for a name that no installed package provides.

    Jobs skip this check, since their run has made it. A BioEngine worker may have other packages
    than this machine: its service refuses an unknown engine, and ``samcourier verify`` refuses an
    app that runs another engine.
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
