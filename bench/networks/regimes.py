"""The networks in which the transports are compared: pure data.

Three hosts: client, relay (the Hypha server) and service. ``client_relay`` and
``service_relay`` are the only ways to Hypha, ``direct`` the only way for WebRTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LinkName = Literal["client_relay", "service_relay", "direct"]


@dataclass(frozen=True)
class Link:
    """One link, both ways alike: 10^6 bits a second, one-way delay, share of packets lost."""

    rate_mbit: float
    delay_ms: float = 0.0
    loss_share: float = 0.0

    @property
    def routed(self) -> bool:
        """Whether the packets must pass through the router: the kernel here only does rates."""
        return self.delay_ms > 0 or self.loss_share > 0


@dataclass(frozen=True)
class SetLink:
    """A link becomes another one; delay and loss need one that was routed from the start."""

    name: LinkName
    link: Link


@dataclass(frozen=True)
class DropUdp:
    """UDP goes silent on client and service, whatever the link."""


@dataclass(frozen=True)
class DropLink:
    """Every packet on a link vanishes without a word: its TCP connections are half open."""

    link: LinkName


@dataclass(frozen=True)
class ResetTcp:
    """Every TCP connection that sends on a routed link within ``seconds`` is reset."""

    link: LinkName
    seconds: float


@dataclass(frozen=True)
class RestartRelay:
    """The Hypha server is killed and started again: same port, same secrets."""


Change = SetLink | DropUdp | DropLink | ResetTcp | RestartRelay


@dataclass(frozen=True)
class Event:
    """A change that happens once this share of the images has a mask."""

    after_share: float
    change: Change


@dataclass(frozen=True)
class Phase:
    """What the oracle uses until this share of the images has a mask."""

    until_share: float
    transport: Literal["websocket", "webrtc", "http"]


@dataclass(frozen=True)
class Regime:
    """One network. ``lost`` is the transport that the events take away, if they take one.

    ``one_host`` puts all three on one host; ``http_only`` lets the client reach Hypha only
    through a gate that refuses to upgrade. A regime without ``oracle`` phases is steady when it
    has no events: its oracle is the best fixed transport.
    """

    name: str
    client_relay: Link
    service_relay: Link
    direct: Link
    one_host: bool = False
    udp_blocked: bool = False
    http_only: bool = False
    events: tuple[Event, ...] = ()
    oracle: tuple[Phase, ...] = ()
    lost: Literal["websocket", "webrtc"] | None = None

    def link(self, name: LinkName) -> Link:
        return {
            "client_relay": self.client_relay,
            "service_relay": self.service_relay,
            "direct": self.direct,
        }[name]


FAST = Link(1000)
SLOW = Link(20)
FAR = Link(20, delay_ms=20)

FIRST_THIRD = 1 / 3
SECOND_THIRD = 2 / 3

REGIMES: tuple[Regime, ...] = (
    Regime("loopback", FAST, FAST, FAST, one_host=True),
    Regime("slow_relay", SLOW, SLOW, FAST),
    Regime("slow_everywhere", FAR, FAR, FAR),
    Regime("udp_blocked", FAST, FAST, FAST, udp_blocked=True),
    Regime("http_only", FAST, FAST, FAST, udp_blocked=True, http_only=True),
    Regime("slow_direct", FAST, FAST, SLOW),
    Regime("lossy_direct", SLOW, SLOW, Link(100, delay_ms=5, loss_share=0.01)),
    Regime(
        "direct_collapses",
        SLOW,
        SLOW,
        FAST,
        events=(
            Event(FIRST_THIRD, SetLink("direct", Link(FAST.rate_mbit / 100))),
            Event(SECOND_THIRD, SetLink("direct", FAST)),
        ),
        oracle=(
            Phase(FIRST_THIRD, "webrtc"),
            Phase(SECOND_THIRD, "websocket"),
            Phase(1, "webrtc"),
        ),
    ),
    Regime(
        "relay_restarts",
        FAST,
        FAST,
        FAST,
        events=(Event(FIRST_THIRD, RestartRelay()),),
        oracle=(Phase(FIRST_THIRD, "websocket"), Phase(1, "webrtc")),
        lost="websocket",
    ),
    Regime(
        "udp_dies",
        SLOW,
        SLOW,
        FAST,
        events=(Event(FIRST_THIRD, DropUdp()),),
        oracle=(Phase(FIRST_THIRD, "webrtc"), Phase(1, "websocket")),
        lost="webrtc",
    ),
    Regime(
        "relay_half_open",
        FAST,
        FAST,
        FAST,
        events=(Event(FIRST_THIRD, DropLink("client_relay")),),
        oracle=(Phase(FIRST_THIRD, "websocket"), Phase(1, "webrtc")),
        lost="websocket",
    ),
    Regime(
        "relay_resets",
        Link(100, delay_ms=1),
        FAST,
        SLOW,
        events=(Event(FIRST_THIRD, ResetTcp("client_relay", seconds=0.3)),),
        lost="websocket",
    ),
)
