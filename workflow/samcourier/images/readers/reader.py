"""The descriptions of readers, and the installed readers.

This module imports no reader: finding images uses it, and must not slow down a run's preview by
seconds.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from samservice.contract.plugins import PluginGroup, PluginProblem

#: Number of first bytes of a file that :attr:`Reader.magic` may compare.
HEAD_BYTES = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """The object that an entry point of the group ``samcourier.readers`` names.

    Its module imports neither NumPy nor the reader's libraries. A file is recognised by its first
    bytes, because names may be wrong. A reader without ``magic`` recognises a file by its suffix.

    Attributes:
        name: Name of the entry point.
        kind: Name of the format in messages, e.g. ``TIFF``.
        open: ``module:function``, a :data:`.base.Open`, imported when the first image is opened.
        magic: Possible first bytes of a file, at most ``HEAD_BYTES`` each.
        suffixes: Of the files to find in folders, in lower case with the dot.
        folder_files: Names of files; a folder with one of them is an image.
        text_suffixes: Suffixes of files that are recognised by their names, since their first bytes
            are those of any XML.
    """

    name: str
    kind: str
    open: str
    magic: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    folder_files: tuple[str, ...] = ()
    text_suffixes: tuple[str, ...] = ()

    def recognises_file(self, path: Path, head: bytes) -> bool:
        """Return True if this reader reads a file with the first bytes ``head``."""
        if self.text_suffixes and path.name.lower().endswith(self.text_suffixes):
            return True
        if self.magic:
            return head.startswith(self.magic)
        return bool(self.suffixes) and path.name.lower().endswith(self.suffixes)

    def recognises_folder(self, path: Path) -> bool:
        """Return True if the folder ``path`` is an image for this reader."""
        return any(os.path.isfile(path / name) for name in self.folder_files)


READERS = PluginGroup(
    group="samcourier.readers",
    noun="reader",
    kind=Reader,
    built_in={
        "ome-zarr": "samcourier.images.readers.built_in:OME_ZARR",
        "tiff": "samcourier.images.readers.built_in:TIFF",
        "png": "samcourier.images.readers.built_in:PNG",
        "jpeg": "samcourier.images.readers.built_in:JPEG",
        "czi": "samcourier.images.readers.built_in:CZI",
        "lif": "samcourier.images.readers.built_in:LIF",
        "nd2": "samcourier.images.readers.built_in:ND2",
    },
)


@dataclass(frozen=True)
class InstalledReaders:
    """The readers of other distributions, and a message for each unusable one."""

    readers: tuple[Reader, ...]
    problems: tuple[str, ...]


@lru_cache(maxsize=1)
def installed_readers() -> InstalledReaders:
    """Return the readers of other distributions.

    A reader that cannot be loaded, or whose name several distributions offer, is skipped with a
    warning; the others work.
    """
    readers, problems = [], []
    for name in READERS.names():
        try:
            if name in READERS.built_in:
                READERS.find(name)
            else:
                readers.append(READERS.load(name))
        except PluginProblem as problem:
            _log.warning("%s", problem)
            problems.append(str(problem))
    return InstalledReaders(tuple(readers), tuple(problems))
