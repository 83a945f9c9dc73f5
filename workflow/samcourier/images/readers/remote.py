"""Zarr stores at https:// and s3:// addresses, through zarr's fsspec store.

Only the keys asked for are fetched. Of the answers, 404 alone means that a key is missing, which
for a chunk is the array's fill value. Everything else is an error of the image: after a few tries
where another try may help, at once otherwise.

S3 answers 403 for a missing key where the caller may not list the bucket. For a chunk that is an
error, since it cannot be told from a chunk that may not be read. For metadata it counts as missing,
since most of the names are tried and not there; if no image is found then, the 403 is the reason.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yarl
import zarr
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.http import HTTPFileSystem
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.errors import GroupNotFoundError
from zarr.storage import FsspecStore, WrapperStore

from ...errors import ImageMissing, ImageUnread
from ...files.zarr_names import ATTRIBUTES_FILES, METADATA_FILES
from ..location import RemoteImage
from .base import one_line

#: A key is tried so often; the waits between sum up to 7.5 s at most.
TRIES = 5
FIRST_WAIT_S = 0.5
#: Of a silent server, before a try counts as failed.
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0

_METADATA = frozenset({*METADATA_FILES, *ATTRIBUTES_FILES, ".zmetadata"})
_FORBIDDEN = 403
_RETRIED_STATUSES = frozenset({408, 425, 429})


class RetryingStore(WrapperStore[FsspecStore]):
    """Tries a key again where another try may help, and translates errors to ImageUnread.

    After the first key that failed for good, no other one is fetched.

    Attributes:
        forbidden: Names of metadata for which the server answered 403.
    """

    def __init__(
        self,
        store: FsspecStore,
        location: RemoteImage,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(store)
        self.forbidden: list[str] = []
        self._location = location
        self._sleep = sleep
        self._failure: str | None = None

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of ``key``, None if there is no such key. Raises ImageUnread."""
        number = 0
        while True:
            number += 1
            if self._failure is not None:
                raise ImageUnread(self._failure)
            try:
                return await self._store.get(key, prototype, byte_range)
            except Exception as error:
                if _status(error) == _FORBIDDEN and key.rpartition("/")[2] in _METADATA:
                    self.forbidden.append(key)
                    return None
                if number == TRIES or not may_help_to_retry(error):
                    self._failure = self._message(key, error, number)
                    raise ImageUnread(self._failure) from error
            # Jitter: the chunks that failed together are not fetched together again.
            await self._sleep(random.uniform(0.5, 1.0) * FIRST_WAIT_S * 2 ** (number - 1))

    def _message(self, key: str, error: Exception, number: int) -> str:
        status = _status(error)
        answer = one_line(error) if status is None else f"the server answered {status}"
        if status == _FORBIDDEN:
            answer += (
                " (forbidden; S3 also for a missing chunk, where the bucket may not be listed),"
                " expected the right to read it"
            )
        elif number > 1:
            answer += f", {number} times"
        return f"{self._location}: {key} could not be read ({answer})"


def may_help_to_retry(error: Exception) -> bool:
    """Return True for an error that another try may not have: a busy server, a lost connection.

    A certificate that is not trusted, credentials that are missing or a key that is forbidden are
    the same a second later.
    """
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _RETRIED_STATUSES
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL | PermissionError):
        return False
    passing = (aiohttp.ClientError, ConnectionError, TimeoutError, EOFError)
    return isinstance(error, passing) or _is_botocore_connection_error(error)


@contextmanager
def opened_group(location: RemoteImage) -> Iterator[tuple[zarr.Group, list[str]]]:
    """Open the root group at a URL for reading; its connections end with the block.

    Yields also the names of the metadata for which the server answers 403, as they are asked for.
    Raises ImageMissing when there is none, ImageUnread when it cannot be read, and whatever zarr
    raises for damaged metadata.
    """
    if not location.has_full_url:
        raise ImageUnread(
            f"{location}: signature or password were left out of this copy, expected the whole URL"
        )
    files = _s3_files() if location.url.startswith("s3://") else _HttpFiles(location)
    path = location.base.removeprefix("s3://")
    store = RetryingStore(FsspecStore(files, read_only=True, path=path), location)
    try:
        yield _root_group(store, location), store.forbidden
    finally:
        sync(_close(files))


def _root_group(store: RetryingStore, location: RemoteImage) -> zarr.Group:
    try:
        return zarr.open_group(store, mode="r")
    except GroupNotFoundError as error:
        if store.forbidden:
            raise ImageUnread(
                f"{location}: the server answered 403 (forbidden) for"
                f" {', '.join(sorted(set(store.forbidden)))}, expected the right to read them"
            ) from error
        raise ImageMissing(
            f"{location}: no Zarr there, expected an OME-Zarr, the only format that is read from"
            " a URL"
        ) from error


class _HttpFiles(HTTPFileSystem):  # type: ignore[misc]
    """Files below one URL, each with the query of that URL."""

    # Instances would be kept with their connections, and their arguments with the signature.
    cachable = False

    def __init__(self, location: RemoteImage) -> None:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        )
        host = urlsplit(location.url).hostname or ""
        # A proxy and the passwords of ~/.netrc are for other machines.
        kwargs = {"timeout": timeout, "trust_env": not _is_this_machine(host)}
        super().__init__(asynchronous=True, client_kwargs=kwargs)
        self._query = location.query

    def encode_url(self, url: str) -> yarl.URL:
        """Return the URL of a file with the query as it was given: signatures cover its bytes."""
        encoded = yarl.URL(url)
        return yarl.URL(f"{encoded}?{self._query}", encoded=True) if self._query else encoded

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return the bytes of a file, or part of them, also from a server that ignores ranges."""
        headers = {"Accept-Encoding": "identity"}
        is_part = start is not None or end is not None
        if is_part:
            headers["Range"] = "bytes=" + _range(start, end)
        session = await self.set_session()
        async with session.get(self.encode_url(url), headers=headers) as answer:
            self._raise_not_found_for_status(answer, url)
            content: bytes = await answer.read()
        return content[start:end] if is_part and answer.status == 200 else content


def _range(start: int | None, end: int | None) -> str:
    """Return the range of a slice in a header; a negative start counts from the end."""
    if start is not None and start < 0 and end is None:
        return str(start)
    return f"{start or 0}-{'' if end is None else end - 1}"


@cache
def has_s3_credentials() -> bool:
    import botocore.session

    return botocore.session.Session().get_credentials() is not None


def _s3_files() -> AsyncFileSystem:
    """Return the files of S3, without a signature where this machine has no credentials."""
    from s3fs import S3FileSystem

    class S3Files(S3FileSystem):  # type: ignore[misc]
        cachable = False
        # The store tries again, with jitter and for all files alike.
        retries = 1

        async def _process_limits(self, url: str, start: int | None, end: int | None) -> str:
            """Return a range without asking for the size of the file."""
            return "bytes=" + _range(start, end)

    config = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
    }
    return S3Files(
        anon=not has_s3_credentials(),
        asynchronous=True,
        # More would ask for the size of each file first.
        max_concurrency=1,
        config_kwargs=config,
    )


async def _close(files: Any) -> None:
    """Close the connections of a file system that zarr's event loop used."""
    for client in (getattr(files, "_session", None), getattr(files, "_s3", None)):
        if client is not None:
            await client.close()


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error of aiohttp or s3fs, None if there was no answer."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status or None
    response = getattr(error.__cause__ or error, "response", None)
    metadata = response.get("ResponseMetadata") if isinstance(response, dict) else None
    return metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None


def _is_botocore_connection_error(error: Exception) -> bool:
    try:
        from botocore.exceptions import ConnectionError as NotConnected
        from botocore.exceptions import HTTPClientError
    except ImportError:
        return False
    return isinstance(error, NotConnected | HTTPClientError)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
