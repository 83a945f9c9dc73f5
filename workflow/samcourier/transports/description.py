"""The descriptions of the installed transports; this module uses no network."""

from __future__ import annotations

from dataclasses import dataclass

from samservice.contract.plugins import PluginGroup, PluginProblem

from ..errors import InputError


@dataclass(frozen=True)
class TransportDescription:
    """The object that an entry point of the group ``samcourier.transports`` names.

    Its module must import none of the transport's libraries, because every command imports it.

    Attributes:
        name: The name of the entry point and the transport, and the value of ``transport`` in the
            config.
        summary: One line for users.
        build: ``module:callable``, called with an :class:`.base.Endpoint` and a
            :class:`.session.HyphaSession`; it returns a :class:`.base.Transport` that is not open.
        asks_hypha: Whether the client looks for the replicas of a service over Hypha's WebSocket;
            False for a transport that must work where this is blocked.
    """

    name: str
    summary: str
    build: str
    asks_hypha: bool = True


WEBSOCKET = TransportDescription(
    name="websocket",
    summary="through the Hypha server over one WebSocket",
    build="samcourier.transports.websocket:over_websocket",
)
WEBRTC = TransportDescription(
    name="webrtc",
    summary="straight to the service over a data channel",
    build="samcourier.transports.webrtc:over_webrtc",
)
HTTP = TransportDescription(
    name="http",
    summary="through the Hypha server as single requests",
    build="samcourier.transports.http:over_http",
    asks_hypha=False,
)

#: The name for all built-in transports, which the connection manager measures and ranks.
AUTO = "auto"

TRANSPORTS = PluginGroup(
    group="samcourier.transports",
    noun="transport",
    kind=TransportDescription,
    built_in={
        "websocket": "samcourier.transports.description:WEBSOCKET",
        "webrtc": "samcourier.transports.description:WEBRTC",
        "http": "samcourier.transports.description:HTTP",
    },
)


def known_transports() -> tuple[str, ...]:
    """Return the names of the transports of all installed distributions."""
    return TRANSPORTS.names()


def check_transport_name(name: str) -> None:
    """Raise InputError with the known names unless one distribution offers ``name``.

    ``auto`` is also accepted.
    """
    if name == AUTO:
        return
    try:
        TRANSPORTS.find(name)
    except PluginProblem as problem:
        raise InputError(f"{problem}; or {AUTO}") from None


def describe_transports(wanted: str) -> list[TransportDescription]:
    """Return the wanted transports in order of preference.

    ``auto`` means the built-in ones. The config must name any other transport, so that installing
    a package changes no run. Raises InputError for an unknown name and for a description that
    cannot be imported.
    """
    names = tuple(TRANSPORTS.built_in) if wanted == AUTO else (wanted,)
    try:
        return [TRANSPORTS.load(name) for name in names]
    except PluginProblem as problem:
        raise InputError(str(problem)) from problem
