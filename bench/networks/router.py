"""A line between two hosts that forwards packets through TUN devices: rate, delay, loss, resets.

Runs as a process of its own inside the router's namespace. It makes two TUN devices a line, one
for either host to be given, and takes one JSON command a line on its standard input. TCP, UDP
and ICMP pass alike, so that WebRTC meets the same line as a WebSocket does.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

TUN_SET_IFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000

#: What a line holds back at most; a router with more would only add delay.
QUEUE_S = 0.05
#: Room for a burst even on a line so slow that QUEUE_S holds no packet.
QUEUE_MIN_BYTES = 32 * 1024
MTU_BYTES = 1500
PACKETS_AT_ONCE = 64

TCP = 6
RST = 0x04
RST_ACK = 0x14


@dataclass(frozen=True)
class Treatment:
    """What happens to packets; ``rate_mbit`` None is no limit, ``mode`` forward, drop, reset."""

    rate_mbit: float | None = None
    delay_ms: float = 0.0
    loss_share: float = 0.0
    mode: str = "forward"


class Line:
    """One direction: decides of every packet when it arrives, or that it never does. No I/O."""

    def __init__(self, treatment: Treatment, chance: random.Random) -> None:
        self.treatment = treatment
        self._chance = chance
        self._busy_until_s = 0.0
        self._last_arrival_s = 0.0

    def arrival_s(self, now_s: float, packet_bytes: int) -> float | None:
        """Return when a packet given to the line now comes out of it; None when it is lost."""
        treatment = self.treatment
        if treatment.mode != "forward" or self._chance.random() < treatment.loss_share:
            return None
        sent_s = now_s
        if treatment.rate_mbit is not None:
            bytes_per_s = treatment.rate_mbit * 1e6 / 8
            waits_s = max(self._busy_until_s - now_s, 0.0)
            if waits_s > max(QUEUE_S, QUEUE_MIN_BYTES / bytes_per_s):
                return None
            sent_s = now_s + waits_s + packet_bytes / bytes_per_s
            self._busy_until_s = sent_s
        # A delay that shrinks must not let packets overtake.
        self._last_arrival_s = max(self._last_arrival_s, sent_s + treatment.delay_ms / 1000)
        return self._last_arrival_s


def resets(packet: bytes) -> tuple[bytes, bytes] | None:
    """Return the RST for the sender and that for the receiver of an IPv4 TCP packet, or None."""
    if packet[0] >> 4 != 4 or packet[9] != TCP:
        return None
    header_bytes = (packet[0] & 0x0F) * 4
    source, destination = packet[12:16], packet[16:20]
    ports = struct.unpack_from("!HH", packet, header_bytes)
    sequence, acknowledged = struct.unpack_from("!II", packet, header_bytes + 4)
    offset, flags = packet[header_bytes + 12], packet[header_bytes + 13]
    if flags & RST:
        return None
    payload_bytes = len(packet) - header_bytes - (offset >> 4) * 4
    # SYN and FIN count as one byte each.
    next_sequence = (sequence + payload_bytes + (flags >> 1 & 1) + (flags & 1)) % 2**32
    to_sender = _segment(destination, source, ports[::-1], (acknowledged, next_sequence), RST_ACK)
    to_receiver = _segment(source, destination, ports, (sequence, acknowledged), RST_ACK)
    return to_sender, to_receiver


def _segment(
    source: bytes,
    destination: bytes,
    ports: tuple[int, ...],
    numbers: tuple[int, int],
    flags: int,
) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 0, 0, 0)
    pseudo = source + destination + struct.pack("!BBH", 0, TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, TCP, 0) + source + destination
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class Direction:
    """One direction with its two devices and the packets on their way."""

    line: Line
    source_fd: int
    target_fd: int
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, now_s: float) -> None:
        """Read what the source sent and send on what needs no waiting."""
        for _ in range(PACKETS_AT_ONCE):
            try:
                packet = os.read(self.source_fd, MTU_BYTES)
            except OSError:
                # Nothing more to read, or the device went with its namespace.
                return
            if self.line.treatment.mode == "reset":
                for reset, fd in zip(
                    resets(packet) or (), (self.source_fd, self.target_fd), strict=False
                ):
                    _send(fd, reset)
                continue
            arrival_s = self.line.arrival_s(now_s, len(packet))
            if arrival_s is not None:
                self.waiting.append((arrival_s, packet))

    def deliver(self, now_s: float) -> None:
        """Hand over every packet whose time has come."""
        while self.waiting and self.waiting[0][0] <= now_s:
            _send(self.target_fd, self.waiting.popleft()[1])


def _send(fd: int, packet: bytes) -> None:
    # A device that is full, or down while its namespace goes, loses packets as any other does.
    try:
        os.write(fd, packet)
    except OSError:
        return


def open_tun(name: str) -> int:
    """Make a TUN device of this name in this namespace; it lives as long as the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUN_SET_IFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def forward(directions: dict[str, tuple[Direction, Direction]]) -> None:
    """Forward until standard input ends; ``{"line": NAME, "treatment": {...}}`` changes one."""
    every = [direction for pair in directions.values() for direction in pair]
    by_fd = {direction.source_fd: direction for direction in every}
    poll = select.epoll()
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    while True:
        due_s = min((d.waiting[0][0] for d in every if d.waiting), default=None)
        wait_s = None if due_s is None else max(due_s - time.monotonic(), 0)
        for fd, _ in poll.poll(wait_s):
            if fd in by_fd:
                by_fd[fd].take(time.monotonic())
                continue
            command = sys.stdin.readline()
            if not command:
                return
            change = json.loads(command)
            for direction in directions[change["line"]]:
                direction.line.treatment = Treatment(**change["treatment"])
            print("changed", flush=True)
        now_s = time.monotonic()
        for direction in every:
            direction.deliver(now_s)


def main() -> None:
    parser = argparse.ArgumentParser(description="forward packets between TUN devices")
    parser.add_argument("lines", nargs="+", help="names; devices are called NAME-a and NAME-b")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    directions = {}
    for name in options.lines:
        near_fd, far_fd = open_tun(f"{name}-a"), open_tun(f"{name}-b")
        directions[name] = (
            Direction(Line(Treatment(), chance), near_fd, far_fd),
            Direction(Line(Treatment(), chance), far_fd, near_fd),
        )
    print("ready", flush=True)
    forward(directions)


if __name__ == "__main__":
    main()
