"""hypha-rpc's RPC, restricted to the identity that Hypha verified and to the shared services.

A message has two parts. Hypha writes ``from``, ``to``, ``ws`` and ``user`` into the first and
forwards the rest unchanged. hypha-rpc (0.21.47) trusts more than these fields: a ``ctx`` that the
caller puts into either part becomes the context of the call, the second part may overwrite Hypha's
fields, a method's path may lead through the attributes of any object on it, the answer goes to any
client that the caller names, and the parts of large messages are kept without limit.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgpack

from ..contract.errors import ServiceBusy
from .lean_rpc import rpc

#: The fields that Hypha verifies; they are ignored in the second part of a message.
VERIFIED = ("from", "to", "ws", "user")

#: Entries of the object store that are not sessions of callers.
_NO_SESSIONS = ("services", "message_cache")
#: No such method exists, so hypha-rpc answers as for any other unknown method.
_UNKNOWN_METHOD = "services.nowhere"

#: The coroutines in which hypha-rpc sends a message.
_SENDING = ("emit_message", "_emit_message", "_send_chunks")

#: hypha-rpc's default receiver accepts messages of this size.
_MIN_MESSAGE_BYTES = 512_000
MIN_HEARTBEAT_S = 0.1

#: The largest image that a service accepts by default, plus the other arguments of its call.
MAX_CACHED_BYTES = (1 << 31) + (64 << 20)
MAX_CACHED_MESSAGES = 512
#: A message without a new part for this time is abandoned and removed if the cache is full.
ABANDONED_AFTER_S = 60.0


#: Below this rate a Hypha server forwards a chunk faster than the next one arrives and then idles,
#: because it accepts the next chunk only when the last has left. Smaller chunks overlap, but each
#: counts against the limit of 200 messages a second, also for the receiver's acknowledgements.
SLOW_LINK_BYTES_PER_S = 5e6
SLOW_LINK_CHUNK_BYTES = 250_000


@dataclass
class _Cached:
    size_bytes: int = 0
    touched_s: float = field(default_factory=time.monotonic)


class GuardedRPC(rpc.RPC):  # type: ignore[misc]
    """hypha-rpc's RPC without the vulnerabilities that this module describes."""

    #: Called with a caller's context before a large message is kept; it raises to refuse the
    #: caller. None accepts every caller.
    admit: Callable[[dict[str, Any]], None] | None = None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self._cached: dict[str, _Cached] = {}
        self._sends_slowly = False
        super().__init__(*arguments, **settings)

    @property
    def is_sending(self) -> bool:
        """Whether a message has not left yet."""
        return any(
            getattr(task.get_coro(), "__name__", "") in _SENDING for task in self._background_tasks
        )

    async def _send_chunks(self, package: bytes, target_id: str, session_id: str | None) -> None:
        """Send a large message in chunks; their size depends on the rate of the last message."""
        sending = self
        if self._sends_slowly:
            # A copy, because hypha-rpc reads the chunk size again after each wait.
            sending = copy.copy(self)
            sending._long_message_chunk_size = min(
                SLOW_LINK_CHUNK_BYTES, self._long_message_chunk_size
            )
        start_s = time.monotonic()
        await rpc.RPC._send_chunks(sending, package, target_id, session_id)
        seconds = time.monotonic() - start_s
        self._sends_slowly = len(package) < SLOW_LINK_BYTES_PER_S * seconds

    def _on_message(self, message: Any) -> None:
        # A text message cannot carry a call's arguments, so it is ignored.
        if isinstance(message, bytes):
            limit_bytes = max(_MIN_MESSAGE_BYTES, self._long_message_chunk_size * 2)
            with suppress(ValueError, msgpack.exceptions.UnpackException):
                self._take(*_parts(message, limit_bytes))

    def _take(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        """Process a message with a context of the verified fields only."""
        message = {name: value for name, value in second.items() if name not in VERIFIED} | first
        verified = {name: first[name] for name in VERIFIED if name in first}
        message["ctx"] = verified | self.default_context
        if first.get("type") == "method" or self._is_event_of_the_server(first):
            self._fire(first["type"], message)

    def _is_event_of_the_server(self, first: dict[str, Any]) -> bool:
        """Return True for an event of the server, whose message names no client.

        A data channel has no server and therefore no such events.
        """
        sender, is_to_server = first.get("from", "*/"), bool(self._connection.manager_id)
        return is_to_server and str(sender).startswith("*/") and isinstance(first.get("type"), str)

    def _handle_method(self, data: dict[str, Any]) -> None:
        # hypha-rpc would also resolve a path that is a list.
        if not (isinstance(data["method"], str) and self._is_shared(data["method"])):
            data["method"] = _UNKNOWN_METHOD
        for name in ("session", "parent"):
            if name in data and not _names_session(data[name]):
                del data[name]
        if isinstance(data.get("promise"), dict):
            data["promise"] = _promise_to(data["from"], data["promise"])
        if "t" in data:
            data["t"] = _heartbeat_s(data["t"])
        super()._handle_method(data)

    def _is_shared(self, path: str) -> bool:
        """Return True if a path stays within the services and sessions, which are nested dicts."""
        node: Any = self._object_store
        for name in path.split("."):
            if not isinstance(node, dict):
                return False
            if name not in node:
                # hypha-rpc reports the missing name to the caller.
                return True
            # Not ``node.get``, because a service may have a method ``get``.
            node = dict.__getitem__(node, name)
        return True

    def _create_message(
        self, key: str, heartbeat: bool = False, overwrite: bool = False, context: Any = None
    ) -> None:
        # The server's own large answers arrive here too and need no check.
        if self.admit is not None and not str(context["from"]).startswith("*/"):
            self.admit(context)
        self._make_room(messages=1)
        super()._create_message(key, heartbeat, overwrite, context)
        self._cached[key] = _Cached()

    def _append_message(
        self, key: str, data: bytes, heartbeat: bool = False, context: Any = None
    ) -> None:
        self._count(key, data)
        super()._append_message(key, data, heartbeat, context)

    def _set_message(
        self, key: str, index: int, data: bytes, heartbeat: bool = False, context: Any = None
    ) -> None:
        self._count(key, data)
        super()._set_message(key, index, data, heartbeat, context)

    def _remove_message(self, key: str, context: Any = None) -> None:
        self._cached.pop(key, None)
        super()._remove_message(key, context)

    def _process_message(self, key: str, heartbeat: bool = False, context: Any = None) -> None:
        """Join and process the chunks of a message, with the identity of this call's caller."""
        # hypha-rpc sends the heartbeat and raises for an unknown key.
        super()._append_message(key, b"", heartbeat, context)
        chunks = self._object_store["message_cache"].pop(key)
        self._cached.pop(key, None)
        whole = b"".join(chunks[index] for index in range(len(chunks)))
        first, second = _parts(whole, self._max_message_buffer_size)
        self._take(first | {name: context[name] for name in VERIFIED if name in context}, second)

    def _count(self, key: str, data: bytes) -> None:
        entry = self._cached.get(key)
        if entry is not None:
            entry.touched_s = time.monotonic()
            self._make_room(size_bytes=len(data))
            entry.size_bytes += len(data)

    def _make_room(self, messages: int = 0, size_bytes: int = 0) -> None:
        """Remove abandoned messages if the cache is full; raise ServiceBusy if it still is."""

        def is_full() -> bool:
            held_bytes = sum(each.size_bytes for each in self._cached.values())
            return (
                len(self._cached) + messages > MAX_CACHED_MESSAGES
                or held_bytes + size_bytes > MAX_CACHED_BYTES
            )

        if not is_full():
            return
        abandoned_s = time.monotonic() - ABANDONED_AFTER_S
        for key in [key for key, each in self._cached.items() if each.touched_s < abandoned_s]:
            self._remove_message(key)
        if is_full():
            raise ServiceBusy("too many large messages at once, try again later")


def _parts(message: bytes, limit_bytes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both parts of a message; the second is empty when there is none."""
    unpacker = msgpack.Unpacker(io.BytesIO(message), max_buffer_size=limit_bytes)
    first = unpacker.unpack()
    try:
        second = unpacker.unpack()
    except msgpack.exceptions.OutOfData:
        second = {}
    if not (isinstance(first, dict) and isinstance(second, dict)):
        raise ValueError("not a message of hypha-rpc")
    return first, second


def _heartbeat_s(given: Any) -> float:
    interval_s = float(given)
    # max() would let NaN pass.
    return interval_s if interval_s >= MIN_HEARTBEAT_S else MIN_HEARTBEAT_S


def _names_session(value: Any) -> bool:
    return isinstance(value, str) and value.partition(".")[0] not in _NO_SESSIONS


def _promise_to(caller: str, promise: dict[str, Any]) -> dict[str, Any]:
    """Return the promise with its answers addressed to the caller, whichever client it names.

    Another client would receive the answers as calls of this service and trust them.
    """
    answers: dict[str, Any] = {
        name: {"_rtype": "method", "_rtarget": caller, "_rmethod": str(given["_rmethod"])}
        for name, given in promise.items()
        if name in ("resolve", "reject", "heartbeat")
    }
    if "interval" in promise:
        answers["interval"] = _heartbeat_s(promise["interval"])
    return answers
