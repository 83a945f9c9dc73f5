"""Distributions as pip leaves them, in a folder that Python looks into during a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from samcourier.images.readers.reader import installed_readers
from samservice.contract.plugins import scan


def write_distribution(folder: Path, name: str, entry_points: str, **modules: str) -> None:
    """Write the metadata of ``name`` 1.0 and its modules, {name: source}."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)


Install = Callable[..., None]


@contextmanager
def installing(folder: Path) -> Iterator[Install]:
    """Yield :func:`write_distribution` for ``folder``, in which Python finds what it writes."""
    written: set[str] = set()

    def install(name: str, entry_points: str, **modules: str) -> None:
        write_distribution(folder, name, entry_points, **modules)
        written.update(modules)
        forget()

    sys.path.insert(0, str(folder))
    try:
        yield install
    finally:
        sys.path.remove(str(folder))
        for module in written:
            sys.modules.pop(module, None)
        forget()


def forget() -> None:
    """Have the next look scan again."""
    scan.cache_clear()
    installed_readers.cache_clear()
