"""Calls through the Hypha server as single HTTP requests, which pass almost every network."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import numpy as np

from samservice.contract.errors import parse_service_error
from samservice.hypha.lean_httpx import httpx
from samservice.hypha.network import is_loopback, tls_context
from samservice.hypha.refusals import explain_refusal

from ..errors import CourierError, Denied, Overloaded, RequestRefused, ServiceGone, TransportFailed
from .base import Endpoint
from .session import HyphaSession
from .translate import is_from_far_side, last_line, translate

_STATUS_CLASS: dict[int, type[CourierError]] = {
    401: Denied,
    403: Denied,
    404: ServiceGone,
    413: TransportFailed,
    429: Overloaded,
    502: TransportFailed,
    503: TransportFailed,
    504: TransportFailed,
}

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")

#: Small compared with what a slow link carries between two checks of the progress.
PIECE_BYTES = 128 * 1024


def over_http(endpoint: Endpoint, session: HyphaSession) -> HttpTransport:
    """Build the HTTP transport; see :mod:`.description`."""
    return HttpTransport(endpoint)


class HttpTransport:
    """``POST /{workspace}/services/{service}/{method}`` with msgpack in both directions."""

    name = "http"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: httpx.AsyncClient | None = None
        self._moved_bytes = 0
        self._receiving: set[httpx.Response] = set()

    async def open(self, timeout_s: float) -> None:
        """Call the service's ``describe``, which checks URL, token and service."""
        headers = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
        if self._endpoint.token:
            headers["Authorization"] = f"Bearer {self._endpoint.token}"
        await self.close()
        self._client = make_client(self._endpoint, headers=headers, timeout=None)
        try:
            await self.call("describe", {}, timeout_s)
        except BaseException as error:
            # This answer also shows that the service is reachable.
            if isinstance(error, RequestRefused) and error.name == "NoSuchMethod":
                return
            await self.close()
            raise

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the service within ``timeout_s`` seconds; see :class:`.base.Transport`."""
        path = f"{self._service_path()}/{method}"
        body = await asyncio.to_thread(msgpack.packb, arguments, default=_encode_ndarray)
        # The failure of another call may have closed it while this one was packed.
        client = self._client
        if client is None:
            raise TransportFailed("http: the connection is closed")
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._post(client, path, body)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise TransportFailed(
                f"http: {type(error).__name__}: {error}".rstrip(": "), name=type(error).__name__
            ) from error
        if not _is_from_hypha(response):
            raise _intermediary_failure(response)
        if response.status_code != 200:
            raise _failure(response, method, self._endpoint.token)
        try:
            return await asyncio.to_thread(_unpack, response.content)
        except (ValueError, KeyError, TypeError) as error:
            raise TransportFailed(
                f"http: the answer of {len(response.content)} bytes is not msgpack: {error}",
                name=type(error).__name__,
            ) from error

    async def _post(self, client: httpx.AsyncClient, path: str, body: bytes) -> httpx.Response:
        """Send the body piece by piece, so that :meth:`progress` changes with each piece."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                yield piece
                self._moved_bytes += len(piece)

        headers = {"Content-Length": str(len(body))}
        async with client.stream("POST", path, content=pieces(), headers=headers) as response:
            self._receiving.add(response)
            try:
                await response.aread()
            finally:
                self._receiving.discard(response)
                self._moved_bytes += response.num_bytes_downloaded
        return response

    def progress(self) -> int:
        """Return the bytes handed to the network and received from it."""
        return self._moved_bytes + sum(each.num_bytes_downloaded for each in self._receiving)

    def state(self) -> str:
        """Return ``open`` or ``closed``."""
        return "closed" if self._client is None else "open"

    def _service_path(self) -> str:
        # A full id contains its own workspace, which may differ from the caller's.
        workspace, _, service = self._endpoint.service_id.rpartition("/")
        workspace = workspace or self._endpoint.workspace or ""
        if not workspace:
            raise TransportFailed(
                "http: this transport needs service.workspace, or workspace/client:name as the id"
            )
        return f"/{workspace}/services/{service}"

    async def close(self) -> None:
        """Close the connections that are kept alive."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def make_client(endpoint: Endpoint, **settings: Any) -> httpx.AsyncClient:
    """Return a client for the endpoint's server, with the site's proxies and certificates.

    ``settings`` go to ``httpx.AsyncClient``. Raises TransportFailed with the name of the setting
    or variable that is wrong.
    """
    url, ca_bundle = endpoint.server_url.rstrip("/"), endpoint.network.ca_bundle
    try:
        return httpx.AsyncClient(
            base_url=url,
            verify=tls_context(ca_bundle) or True,
            trust_env=not is_loopback(url),
            **settings,
        )
    except OSError as error:
        where = f"network.ca_bundle {ca_bundle}" if ca_bundle else "SSL_CERT_FILE, SSL_CERT_DIR"
        raise TransportFailed(f"http: {where}: {error}", name=type(error).__name__) from error
    except httpx.InvalidURL as error:
        # The text of this error may quote a part of a password.
        where = _proxy_variables() or "service.server_url"
        raise TransportFailed(f"http: {where} is not a URL", name="InvalidURL") from error
    except (ImportError, ValueError) as error:
        where = _proxy_variables() or "service.server_url"
        raise TransportFailed(f"http: {where}: {error}", name=type(error).__name__) from error


def _proxy_variables() -> str:
    """Return the names of the proxy variables; if some are not HTTP proxies, only of those.

    The values are left out, because they may contain a password.
    """
    given = {name: value for name, value in os.environ.items() if name.upper() in _PROXIES}
    odd = [
        name
        for name, value in given.items()
        if "://" in value and not value.lower().startswith(("http://", "https://"))
    ]
    return ", ".join(sorted(odd or given))


def _is_from_hypha(response: httpx.Response) -> bool:
    """Tell whether Hypha wrote the response.

    Hypha sends msgpack, and JSON for errors; gateways and firewalls send pages.
    """
    kind = response.headers.get("content-type", "")
    return "msgpack" in kind or ("json" in kind and response.status_code != 200)


def _intermediary_failure(response: httpx.Response) -> CourierError:
    """Return the failure for a response of a gateway or firewall instead of Hypha."""
    status = response.status_code
    error_class = Overloaded if status == 429 else TransportFailed
    kind = response.headers.get("content-type", "no content type")
    return error_class(
        f"http: status {status} with {kind}: a gateway or firewall answered instead of Hypha",
        name=f"HTTP{status}",
    )


def _failure(response: httpx.Response, method: str, token: str | None = None) -> CourierError:
    """Return the failure for a status other than 200; a named error in the text is preferred."""
    text = _detail(response)
    if response.status_code == 404 and text.startswith(f"{method} not found"):
        return RequestRefused(f"the service has no method {method!r}", name="NoSuchMethod")
    translated = translate(RuntimeError(text), "http")
    # For an error of the method, Hypha guesses the status (404, 403, 400) from its words.
    is_from_service = translated.name != "RuntimeError" or is_from_far_side(text)
    error_class = None if is_from_service else _STATUS_CLASS.get(response.status_code)
    failure = translated
    if error_class is not None:
        failure = error_class(
            f"http: status {response.status_code}: {last_line(text)}",
            name=f"HTTP{response.status_code}",
        )
    explained = explain_refusal(last_line(text), token)
    if explained and isinstance(failure, Denied) and parse_service_error(text) is None:
        return Denied(f"http: {explained}", name=failure.name)
    return failure


def _detail(response: httpx.Response) -> str:
    """Return the reason in an error response, from msgpack, JSON or plain text."""
    try:
        if "msgpack" in response.headers.get("content-type", ""):
            answer = msgpack.unpackb(response.content)
        else:
            answer = response.json()
    except ValueError:
        return response.text
    return str(answer.get("detail", answer)) if isinstance(answer, dict) else str(answer)


_DTYPE = re.compile(r"[<>|=]?[A-Za-z]{1,9}[0-9]{0,3}")


def _unpack(content: bytes) -> Any:
    return msgpack.unpackb(content, object_hook=_decode_ndarray, strict_map_key=False)


def _encode_ndarray(value: object) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return {
            "_rtype": "ndarray",
            "_rvalue": array.tobytes(),
            "_rshape": list(array.shape),
            "_rdtype": str(array.dtype),
        }
    raise TypeError(f"{type(value).__name__} cannot be sent over HTTP")


def _decode_ndarray(value: dict[Any, Any]) -> Any:
    if value.get("_rtype") != "ndarray":
        return value
    # numpy's own parser of dtype names raises more than ValueError.
    if not _DTYPE.fullmatch(value["_rdtype"]):
        raise ValueError(f"unknown dtype {value['_rdtype']!r:.40}")
    array = np.frombuffer(value["_rvalue"], dtype=value["_rdtype"])
    return array.reshape(value["_rshape"])
