"""What is known of a reader before a file is opened, and which readers are installed.

Imports no reader: finding images looks at it, which must not cost a run's preview seconds.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from samservice.contract.plugins import PluginGroup, PluginProblem

#: How much of a file's beginning :attr:`Reader.magic` may look at.
HEAD_BYTES = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """What an entry point of the group ``samcourier.readers`` names.

    Its module imports neither NumPy nor the reader's libraries. A file is recognised by what it
    begins with: names lie. One with a suffix but no ``magic`` is recognised by its name.

    Attributes:
        name: That of the entry point.
        kind: How messages call such an image, e.g. ``TIFF``.
        open: ``module:function``, a :data:`.base.Open`, imported when the first image is opened.
        magic: Bytes of which a file begins with one, at most ``HEAD_BYTES`` each.
        suffixes: In lower case with the dot; folders are searched for such files.
        folder_files: Names of which a folder that is an image holds one.
    """

    name: str
    kind: str
    open: str
    magic: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    folder_files: tuple[str, ...] = ()

    def recognises_file(self, path: Path, head: bytes) -> bool:
        """Tell whether a file that begins with ``head`` is for this reader."""
        if self.magic:
            return head.startswith(self.magic)
        return bool(self.suffixes) and path.name.lower().endswith(self.suffixes)

    def recognises_folder(self, path: Path) -> bool:
        """Tell whether the folder ``path`` is an image for this reader."""
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
    """The readers of other distributions, and a sentence for each that cannot be used."""

    readers: tuple[Reader, ...]
    problems: tuple[str, ...]


@lru_cache(maxsize=1)
def installed_readers() -> InstalledReaders:
    """Return the readers of other distributions.

    One that cannot be loaded, or whose name several distributions offer, is left out with a
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
