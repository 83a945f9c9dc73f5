"""Where an image is: a path, or the URL of an OME-Zarr. Standard library only.

A URL may hold a user name and password, or a signature in its query. Text that people or other
programs read never shows them:
:func:`samcourier.formatting.redacted` replaces them, and ``str`` of a
:class:`RemoteImage` is redacted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..formatting import LEFT_OUT, URL, redacted

SCHEMES = ("https", "http", "s3")
URL_RULE = "a path, or an OME-Zarr at an https://, http:// or s3:// URL"


@dataclass(frozen=True, repr=False)
class RemoteImage:
    """The URL of an OME-Zarr, or of an image in one; :meth:`parse` checks it.

    ``str`` and ``repr`` are redacted: only ``url`` holds signature and password.
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> RemoteImage:
        """Return the location that the URL ``text`` names, without a slash at its end.

        Raises ValueError, whose message does not show the URL, for one that cannot be read.
        """
        scheme = text.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise ValueError(f"a URL with the scheme {scheme!r}, expected {URL_RULE}")
        if not URL.fullmatch(text) or "#" in text:
            raise ValueError(
                "a URL with a space, a quote, # or <>, expected such characters as %20 and the like"
            )
        try:
            parts = urlsplit(text)
            has_port = parts.port is not None
        except ValueError:
            raise ValueError("a URL without a valid host and port, expected one") from None
        if not parts.hostname:
            raise ValueError("a URL without a host, expected one")
        if scheme == "s3" and ("@" in parts.netloc or has_port or parts.query):
            raise ValueError(
                "an s3:// URL with more than bucket and path, expected credentials and endpoint in"
                " the environment (docs/formats.md)"
            )
        return cls(parts._replace(scheme=scheme, path=parts.path.rstrip("/")).geturl())

    @property
    def name(self) -> str:
        """The last part of the path, the host if there is none."""
        parts = urlsplit(self.url)
        return PurePosixPath(parts.path).name or str(parts.hostname)

    @property
    def base(self) -> str:
        """The URL without its query."""
        return urlsplit(self.url)._replace(query="").geturl()

    @property
    def query(self) -> str:
        """The query, "" if there is none."""
        return urlsplit(self.url).query

    @property
    def has_full_url(self) -> bool:
        """Whether nothing was left out, as :func:`samcourier.formatting.redacted` does."""
        return LEFT_OUT not in self.url

    def child(self, inside: str) -> RemoteImage:
        """Return the location of a group or an array inside, with the same query."""
        parts = urlsplit(self.url)
        return RemoteImage(parts._replace(path=f"{parts.path}/{inside}").geturl())

    def __str__(self) -> str:
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


ImageLocation = Path | RemoteImage


def is_url(text: str) -> bool:
    """Return True if ``text`` is a URL with any scheme, and not a path; C:// is a drive."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def image_location(text: str) -> ImageLocation:
    """Return the path or URL in a cell of a sheet. Raises ValueError as RemoteImage.parse does."""
    return RemoteImage.parse(text) if is_url(text) else Path(text)


def whole_text(location: ImageLocation) -> str:
    """Return the text that :func:`image_location` reads, with signature and password."""
    return location.url if isinstance(location, RemoteImage) else str(location)
