"""All time limits of a connection, and how often something is tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """The time limits of calls, openings, heartbeats, backoff and outages, in seconds.

    Every call has its own deadline, because hypha-rpc can hang where it should fail (the server's
    rate limit, a full buffer, a reply that is too large).
    """

    attempt_timeout_s: float = 600.0
    image_timeout_s: float = 1800.0
    open_timeout_s: float = 20.0
    #: WebRTC connects within a fraction of a second or, if UDP is blocked, fails after a minute.
    webrtc_open_timeout_s: float = 4.0
    #: When a transport has not opened after this long, the next one is opened at the same time.
    head_start_s: float = 1.0
    probe_timeout_s: float = 60.0
    #: The backoff of a failed transport before it is tried again; doubled each time.
    first_backoff_s: float = 1.0
    max_backoff_s: float = 120.0
    #: A heartbeat is sent over a transport in use that was not heard for this long...
    heartbeat_s: float = 0.5
    #: ...or for this share of the time without payload, if that is longer: the service's answers
    #: to all jobs come over one connection, which Hypha closes at 200 messages a second...
    heartbeat_share: float = 0.1
    #: ...but at least this often.
    heartbeat_max_s: float = 10.0
    #: A transport is lost when it is silent for this long while another one hears the service...
    silence_s: float = 1.2
    #: ...or for this multiple of the seconds predicted for its calls, if that is longer...
    silence_factor: float = 3.0
    #: ...or for this long while nothing can be predicted.
    silence_unmeasured_s: float = 10.0
    #: The limit of silence without another transport: the service may be computing.
    silence_alone_s: float = 120.0
    overload_wait_s: float = 0.5
    overload_wait_max_s: float = 20.0
    service_retries: int = 1
    #: How often a call that was lost over every transport, although the service was heard, is sent
    #: again; with pauses of 1 s, doubled each time, for half a minute.
    loss_retries: int = 5
    #: The longest outage, in which no transport reaches the service, before the run stops, also at
    #: its start: a server that restarts is back by then.
    outage_limit_s: float = 30.0
    outage_pause_s: float = 1.0
    #: The longest pause, so that the end of an outage of an hour is noticed within this.
    outage_pause_max_s: float = 16.0

    def open_timeout_for(self, transport: str) -> float:
        """Return the seconds a transport may take to open."""
        return self.webrtc_open_timeout_s if transport == "webrtc" else self.open_timeout_s

    def backoff_s(self, failures: int) -> float:
        """Return the backoff in seconds after ``failures`` failures before this one."""
        return float(min(self.first_backoff_s * 2.0 ** min(failures, 30), self.max_backoff_s))

    def pause_s(self, pauses: int) -> float:
        """Return the seconds before another round over all transports, after ``pauses`` pauses."""
        return float(min(self.outage_pause_s * 2.0 ** min(pauses, 30), self.outage_pause_max_s))

    def overload_ceiling_s(self, wait_count: int) -> float:
        """Return the longest pause in seconds after ``wait_count`` pauses: doubling, bounded."""
        return float(
            min(self.overload_wait_s * 2.0 ** min(wait_count, 30), self.overload_wait_max_s)
        )
