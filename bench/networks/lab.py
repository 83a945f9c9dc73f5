"""Three hosts with the links of one regime between them, changeable while a run goes on.

Namespaces client, relay and service; a link is a veth pair with a token bucket at either end,
or, where it has delay or loss, a pair of TUN devices of the router. No host forwards packets,
and the only route to Hypha's address leads over the relay links: candidates of WebRTC meet on
the direct link or not at all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from namespaces import Namespace, NetworkFailed, end
from regimes import Change, DropLink, DropUdp, Link, LinkName, Regime, ResetTcp, SetLink
from router import Treatment

RELAY_ADDRESS = "10.77.0.1"
HYPHA_PORT = 9527
GATE_PORT = 9528
LINK_QUEUE_MS = 50
#: Below this rate a burst of many packets would be felt as a pause.
FAST_RATE_MBIT = 200

LINK_NAMES: tuple[LinkName, ...] = ("client_relay", "service_relay", "direct")

#: By link, its two ends: host, the name of the device there, its address.
_ENDS: dict[LinkName, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "client_relay": (("client", "relay", "10.77.1.1"), ("relay", "client", "10.77.1.2")),
    "service_relay": (("service", "relay", "10.77.2.1"), ("relay", "service", "10.77.2.2")),
    "direct": (("client", "direct", "10.77.3.1"), ("service", "direct", "10.77.3.2")),
}


class Lab:
    """The hosts of one regime. ``host`` gives the namespace of client, relay or service."""

    def __init__(self, regime: Regime, hosts: dict[str, Namespace], router: Router | None) -> None:
        self._regime = regime
        self._hosts = hosts
        self._router = router
        self._reset_ends: threading.Timer | None = None

    def host(self, name: str) -> Namespace:
        return self._hosts["relay" if self._regime.one_host else name]

    def restore(self) -> None:
        """Bring every link and filter to what the regime says at the start of a run."""
        self.settle()
        if self._regime.one_host:
            return
        for name in LINK_NAMES:
            self._shape(name, self._regime.link(name))
        for host in ("client", "relay", "service"):
            self._filter(host, ())
        if self._regime.udp_blocked:
            self._drop_udp()
        if self._regime.http_only:
            self._filter("relay", (f'iifname "client" tcp dport != {GATE_PORT} drop',))

    def apply(self, change: Change) -> None:
        """Carry out a change of the network. RestartRelay is not one of it."""
        match change:
            case SetLink(name, link):
                self._shape(name, link)
            case DropUdp():
                self._drop_udp()
            case DropLink(link):
                for host, device, _ in _ENDS[link]:
                    self._filter(host, (f'iifname "{device}" drop',))
            case ResetTcp(link, seconds):
                assert self._router is not None
                self._router.treat(link, Treatment(mode="reset"))
                self._reset_ends = threading.Timer(
                    seconds, self._shape, (link, self._regime.link(link))
                )
                self._reset_ends.start()
            case _:
                raise ValueError(f"no change of the network: {change}")

    def settle(self) -> None:
        """Wait for a reset under way to end."""
        if self._reset_ends is not None:
            self._reset_ends.join()

    def _drop_udp(self) -> None:
        # At the input, where it is silent: dropped at the output, the sender gets an error.
        for host in ("client", "service"):
            self._filter(host, ("meta l4proto udp drop",))

    def _filter(self, host: str, rules: tuple[str, ...]) -> None:
        """Make these the only rules for what the host receives."""
        text = "\n".join(
            (
                "add table inet samcourier",
                "flush table inet samcourier",
                "add chain inet samcourier input { type filter hook input priority 0; }",
                *(f"add rule inet samcourier input {rule}" for rule in rules),
            )
        )
        self._hosts[host].run("nft", "-f", "-", given=text)

    def _shape(self, name: LinkName, link: Link) -> None:
        if self._router is not None and self._regime.link(name).routed:
            treatment = Treatment(link.rate_mbit, link.delay_ms, link.loss_share)
            self._router.treat(name, treatment)
            return
        burst = "256kb" if link.rate_mbit >= FAST_RATE_MBIT else "32kb"
        shaping = f"tbf rate {link.rate_mbit:g}mbit burst {burst} latency {LINK_QUEUE_MS}ms"
        for host, device, _ in _ENDS[name]:
            self._hosts[host].run("tc", "qdisc", "replace", "dev", device, "root", *shaping.split())


class Router:
    """The process that forwards the routed links, in a namespace of its own."""

    def __init__(self, links: list[LinkName], stack: ExitStack) -> None:
        self._namespace = Namespace("router")
        stack.callback(self._namespace.remove)
        self._namespace.create()
        command = (sys.executable, str(Path(__file__).with_name("router.py")), *links)
        self._process = subprocess.Popen(
            self._namespace.inside(*command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(end, self._process)
        self._turn = threading.Lock()
        self._expect("ready")

    def give(self, link: LinkName, end: str, host: Namespace, device: str) -> None:
        """Hand one end of a link, ``a`` or ``b``, to a host as this device."""
        self._namespace.ip("link", "set", f"{link}-{end}", "netns", host.name, "name", device)

    def treat(self, link: LinkName, treatment: Treatment) -> None:
        """Change what happens to a link's packets, both ways; done when this returns."""
        with self._turn:
            assert self._process.stdin is not None
            command = {"line": link, "treatment": asdict(treatment)}
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            self._expect("changed")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if said != word:
            raise NetworkFailed(f"the router said {said!r} instead of {word!r}")


@contextmanager
def built_lab(regime: Regime) -> Iterator[Lab]:
    """Build the hosts and links of a regime; take all of it down at the end."""
    with ExitStack() as stack:
        names = ("relay",) if regime.one_host else ("client", "relay", "service")
        hosts = {name: Namespace(name) for name in names}
        for host in hosts.values():
            stack.callback(host.remove)
            host.create()
        # On the loopback device, and yet no loopback address, which WebRTC would not offer.
        hosts["relay"].ip("address", "add", f"{RELAY_ADDRESS}/32", "dev", "lo")
        router = None
        if not regime.one_host:
            routed = [name for name in LINK_NAMES if regime.link(name).routed]
            router = Router(routed, stack) if routed else None
            _join(regime, hosts, router)
        lab = Lab(regime, hosts, router)
        stack.callback(lab.settle)
        lab.restore()
        yield lab


def _join(regime: Regime, hosts: dict[str, Namespace], router: Router | None) -> None:
    """Make the links, their addresses, and the routes to Hypha."""
    for name in LINK_NAMES:
        (near, near_device, near_address), (far, far_device, far_address) = _ENDS[name]
        if router is not None and regime.link(name).routed:
            router.give(name, "a", hosts[near], near_device)
            router.give(name, "b", hosts[far], far_device)
        else:
            peer = ("peer", "name", far_device, "netns", hosts[far].name)
            hosts[near].ip("link", "add", near_device, "type", "veth", *peer)
        for host, device, address, other in (
            (near, near_device, near_address, far_address),
            (far, far_device, far_address, near_address),
        ):
            hosts[host].ip("address", "add", address, "peer", other, "dev", device)
            hosts[host].ip("link", "set", device, "up")
    for host in ("client", "service"):
        hosts[host].ip("route", "add", RELAY_ADDRESS, "dev", "relay")
