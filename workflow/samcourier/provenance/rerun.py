"""Read a crate, possibly made by somebody else, to make its masks again.

The content of a crate is not trusted until it is checked. It decides which of the user's files are
read, with which parameters and with which of the engine's options that its description lets come
from a crate. It never decides which server, token or checkpoint is used: the command line does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samservice.contract.engine_description import describe_engine
from samservice.contract.errors import WrongParameter
from samservice.contract.identity import SERVICE_IDENTITY, identity_of

from ..errors import ImageUnfit, InputError
from ..files.strict_json import read_json
from ..images.location import ImageLocation, RemoteImage
from ..images.planes import open_planes
from ..masks.integrity import OmeZarrVersion
from ..results.environment import RECORD, SHEET, RunEnvironment, read_run_environment
from ..results.service_description import ServiceDescription
from ..samples.properties import ANY
from ..samples.sheet import ImageRow, read_sheet
from ..settings.run_settings import TileSettings
from .crate import METADATA, SERVICES
from .mask_table import TABLE, MaskRow, read_table

#: Number of files that are read and hashed at the same time; more would only wait for the disk.
_READER_THREADS = 4
_MAX_BATCH_SIZE = 10_000


@dataclass(frozen=True)
class RecordedRun:
    """The run of a crate.

    ``rows`` are its images that have a mask, ``masks`` the rows of their masks by image id, and
    ``services`` the identities of the services that made them. ``metadata_sha256`` is the digest
    of the crate's metadata file. A setting that is missing or has a wrong type has its default.
    """

    run_environment: RunEnvironment
    rows: tuple[ImageRow, ...]
    masks: Mapping[str, MaskRow]
    services: tuple[dict[str, Any], ...]
    metadata_sha256: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the engine."""
        return dict(self._setting("parameters", dict, {}))

    @property
    def ome_zarr(self) -> OmeZarrVersion:
        """Version of OME-Zarr in which the masks were written."""
        return "0.5" if self._setting("ome_zarr", str, "0.4") == "0.5" else "0.4"

    @property
    def batch_size(self) -> int:
        """Number of images in a batch, from 1 to 10 000."""
        size = self._setting("batch_size", int, 25)
        return int(min(max(size, 1), _MAX_BATCH_SIZE))

    @property
    def tiles(self) -> TileSettings:
        """Sizes of the tiles; a size that is too small has its default."""
        recorded = self._setting("tiles", dict, {})
        sizes = {
            name: recorded[name]
            for name, minimum in (("edge_px", 256), ("halo_px", 16), ("above_px", 1))
            if type(recorded.get(name)) is int and recorded[name] >= minimum
        }
        return TileSettings(**sizes)

    @property
    def engine(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the engine; of the options those that may come from a crate."""
        engine = str(self.services[0].get("engine"))
        return engine, self._engine_options(engine)

    def _engine_options(self, engine: str) -> dict[str, Any]:
        """Return the recorded options; none of a service that the run did not start."""
        service = self._setting("service", dict, {})
        options = service.get("engine_options")
        is_own = service.get("target", "existing") != "existing"
        if not is_own or service.get("engine") != engine or not isinstance(options, dict):
            return {}
        try:
            known = describe_engine(engine).options
        except WrongParameter:
            return {}
        return {name: each for name, each in options.items() if _may_come(known.get(name, {}))}

    def _setting(self, name: str, kind: type, default: Any) -> Any:
        value = self.run_environment.config.get(name, default)
        return value if isinstance(value, kind) and not isinstance(value, bool) else default


def _may_come(option: Mapping[str, Any]) -> bool:
    return option.get("from_crate") is True


def read_crate(crate: Path) -> RecordedRun:
    """Return the run of a crate; ``crate`` is its folder or its metadata file.

    Raises InputError that names the file that is missing, damaged or changed.
    """
    folder = crate.parent if crate.name == METADATA.name else crate
    metadata = folder / METADATA
    try:
        digest = hashlib.sha256(metadata.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{metadata}: {error.strerror}, expected the crate of a run") from None
    _check_hashes(folder, read_json(metadata))
    run_environment = read_run_environment(folder)
    if run_environment is None:
        raise InputError(f"{folder / RECORD}: missing or damaged, expected the record of a run")
    masks = {image: row for image, row in read_table(folder / TABLE).items() if row.labels_sha256}
    rows = tuple(row for row in read_sheet(folder / SHEET, ANY) if row.image in masks)
    if not rows or len(rows) < len(masks):
        raise InputError(f"{folder / SHEET}: {len(rows)} of {len(masks)} images with a mask")
    services = _services(folder / SERVICES, {mask.service for mask in masks.values()})
    return RecordedRun(run_environment, rows, masks, services, digest)


def _check_hashes(folder: Path, metadata: Any) -> None:
    """Raise InputError if the hash of a file differs from the one in the metadata."""
    graph = metadata.get("@graph") if isinstance(metadata, dict) else None
    entities = {each.get("@id"): each for each in graph or () if isinstance(each, dict)}
    for path in (RECORD, SHEET, TABLE, SERVICES):
        recorded = entities.get(path.as_posix(), {}).get("sha256")
        try:
            found = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{folder / path}: {error.strerror}") from None
        if found != recorded:
            raise InputError(f"{folder / path}: changed since the crate was written")


def _services(path: Path, numbers: Collection[str]) -> tuple[dict[str, Any], ...]:
    content = read_json(path)
    services = content.get("services") if isinstance(content, dict) else None
    if not isinstance(services, list):
        services = []
    services = [
        service for number, service in enumerate(services, start=1) if str(number) in numbers
    ]
    if not services:
        raise InputError(f"{path}: names no service, expected the one that made the masks")
    for service in services:
        if not isinstance(service, dict) or any(name not in service for name in SERVICE_IDENTITY):
            raise InputError(f"{path}: a service without {', '.join(SERVICE_IDENTITY)}")
    return tuple(services)


def rows_with_images_in(rows: Sequence[ImageRow], images_dir: Path | None) -> list[ImageRow]:
    """Return the rows with the paths of their files in ``images_dir``.

    A file is searched by its relative path first, then by its name. Without ``images_dir`` the
    paths do not change. The rows have no ground truth, since masks do not depend on it.
    """
    if images_dir is None:
        return [replace(row, truth=None) for row in rows]
    return [
        replace(
            row,
            path=_path_in(images_dir, row.path),
            foreground=_path_in(images_dir, row.foreground) if row.foreground else None,
            truth=None,
        )
        for row in rows
    ]


def _path_in(folder: Path, path: ImageLocation) -> ImageLocation:
    if isinstance(path, RemoteImage):
        inside = folder / path.name
        return inside if inside.exists() else path
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    with_subfolders = folder.joinpath(*parts)
    return with_subfolders if with_subfolders.exists() else folder / path.name


def differing_images(rows: Sequence[ImageRow], masks: Mapping[str, MaskRow]) -> list[str]:
    """Return a line for each image that is missing, unreadable, or has other pixels than recorded.

    ``masks`` has the recorded rows by image id.
    """

    def problem(row: ImageRow) -> str | None:
        try:
            with open_planes(row.path, row.selection) as planes:
                # A plane that a run would cut into tiles may be larger than memory.
                is_large = math.prod(planes.plane_shape[-2:]) > TileSettings().above_px
                digest = planes.sha256(in_bands=is_large and "Z" not in planes.plane_axes)
        except ImageUnfit as error:
            return f"{row.image}: {error}"
        if digest != masks[row.image].pixels_sha256:
            return f"{row.image}: {row.path} has other pixels than the run segmented"
        return None

    with ThreadPoolExecutor(_READER_THREADS) as readers:
        return [line for line in readers.map(problem, rows) if line is not None]


def service_difference(description: ServiceDescription, run: RecordedRun) -> str | None:
    """Return how the service differs from the one that made the masks, None if it is the same.

    The comparison covers the fields that influence the labels (:func:`identity_of`).
    """
    if len(_identities(run.services)) > 1:
        return "several services made the masks: rerun uses only one"
    recorded, found = identity_of(run.services[0]), description.identity
    for name in {**recorded, **found}:
        if found.get(name) != recorded.get(name):
            return f"its {name} is {found.get(name)!r}, the masks' {recorded.get(name)!r}"
    return None


def _identities(services: Sequence[Mapping[str, Any]]) -> set[str]:
    return {repr(identity_of(service)) for service in services}
