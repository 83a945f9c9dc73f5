"""The URLs of a run with their signatures and passwords, kept outside of the results folder.

Sheets in the results folder are redacted, since people publish that folder. The jobs of a run find
the whole URLs in a file of the working folder that its owner alone can read. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..files.atomic import write_private
from ..files.strict_json import read_json
from ..images.location import ImageLocation, RemoteImage
from .sheet import ImageRow


def private_urls_path(dataset: str) -> Path:
    """Return the path of the file with the whole URLs of a dataset, in the working folder."""
    return Path(".snakemake", f"samcourier-{dataset}.urls.json")


def write_private_urls(dataset: str, rows: Iterable[ImageRow]) -> None:
    """Write the whole URLs of ``rows`` for the jobs of a run; without any, no file is left."""
    path = private_urls_path(dataset)
    urls = _whole_urls(rows)
    if urls:
        path.parent.mkdir(exist_ok=True)
        write_private(path, json.dumps(urls, indent=1))
    else:
        path.unlink(missing_ok=True)


def with_private_urls(dataset: str, rows: Sequence[ImageRow]) -> list[ImageRow]:
    """Return the rows of a redacted sheet with the whole URLs that :func:`write_private_urls` kept.

    A URL that is not there stays redacted: its image fails with a line that says so.
    """
    if all(_has_full_url(each) for row in rows for each in _locations(row)):
        return list(rows)
    urls = read_json(private_urls_path(dataset))
    known = urls if isinstance(urls, dict) else {}

    def whole(location: ImageLocation) -> ImageLocation:
        url = known.get(str(location)) if not _has_full_url(location) else None
        return RemoteImage(url) if isinstance(url, str) else location

    return [
        replace(
            row,
            path=whole(row.path),
            foreground=row.foreground and whole(row.foreground),
            truth=row.truth and whole(row.truth),
        )
        for row in rows
    ]


def _whole_urls(rows: Iterable[ImageRow]) -> dict[str, str]:
    """Return the whole URL of each location that is redacted in a text, by that text."""
    return {
        str(each): each.url
        for row in rows
        for each in _locations(row)
        if isinstance(each, RemoteImage) and str(each) != each.url
    }


def _locations(row: ImageRow) -> list[ImageLocation]:
    return [each for each in (row.path, row.foreground, row.truth) if each is not None]


def _has_full_url(location: ImageLocation) -> bool:
    return not isinstance(location, RemoteImage) or location.has_full_url
