"""Write sets of OME-TIFF files whose pixels tell where they lie: each plane has one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SHAPE = (12, 16)


@dataclass(frozen=True)
class At:
    """Planes of an image: ``count`` pages from ``page`` of ``file``, at z, c and t.

    ``file`` None leaves the name and the UUID out.
    """

    file: str | None = None
    page: int = 0
    z: int = 0
    c: int = 0
    t: int = 0
    count: int = 1


def uuid_of(file: str) -> str:
    return f"urn:uuid:{file.encode().hex():0>32}"


def image_xml(name: str, planes: Sequence[At], um: float = 0.5, zct: Any = (1, 1, 1)) -> str:
    """Return an element Image; without ``planes`` it has metadata alone."""
    z, c, t = zct
    inner = "".join(f'<Channel ID="Channel:{n}" Name="{name}-c{n}"/>' for n in range(c))
    for each in planes:
        place = f'FirstZ="{each.z}" FirstC="{each.c}" FirstT="{each.t}"'
        inner += f'<TiffData IFD="{each.page}" {place} PlaneCount="{each.count}">'
        if each.file is not None:
            inner += f"<UUID FileName={quoteattr(each.file)}>{uuid_of(each.file)}</UUID>"
        inner += "</TiffData>"
    return (
        f'<Image ID="Image:{name}" Name={quoteattr(name)}><Pixels ID="Pixels:{name}"'
        f' DimensionOrder="XYZCT" Type="uint16" SizeX="{SHAPE[1]}" SizeY="{SHAPE[0]}" SizeZ="{z}"'
        f' SizeC="{c}" SizeT="{t}" PhysicalSizeX="{um}" PhysicalSizeY="{um}">'
        f"{inner or '<MetadataOnly/>'}</Pixels></Image>"
    )


def ome_xml(inner: str, file: str | None = None) -> str:
    """Return a document; with ``file`` it has that file's UUID."""
    own = f' UUID="{uuid_of(file)}"' if file is not None else ""
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{NAMESPACE}"{own}>{inner}</OME>'


def binary_only(metadata_file: str, file: str) -> str:
    inner = f'<BinaryOnly MetadataFile="{metadata_file}" UUID="{uuid_of(metadata_file)}"/>'
    return ome_xml(inner, file)


def write_tiff(path: Path, values: Sequence[int], xml: str | None = None, **options: Any) -> None:
    """Write one page for each value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer_options = {
        name: options.pop(name) for name in ("bigtiff", "byteorder") if name in options
    }
    with tifffile.TiffWriter(path, **writer_options) as writer:
        for number, value in enumerate(values):
            writer.write(
                np.full(SHAPE, value, np.uint16),
                description=xml.encode() if xml is not None and number == 0 else None,
                metadata=None,
                contiguous=False,
                **options,
            )


def write_set(folder: Path, pages: Mapping[str, Sequence[int]], inner: str, **options: Any) -> None:
    """Write files with ``pages``, each with the whole metadata and its own UUID."""
    for name, values in pages.items():
        write_tiff(folder / name, values, ome_xml(inner, name), **options)


def write_positions(folder: Path, count: int = 3, prefix: str = "exp_MMStack_Pos") -> list[str]:
    """Write one image a file, value n + 1 and pixel size n + 1 in um, each naming all images."""
    names = [f"{prefix}{n}.ome.tif" for n in range(count)]
    inner = "".join(image_xml(f"Pos{n}", [At(name)], n + 1) for n, name in enumerate(names))
    write_set(folder, {name: [n + 1] for n, name in enumerate(names)}, inner)
    return names


def write_companion(folder: Path, stem: str = "d", images: int = 1) -> list[str]:
    """Write two channels a file each for every image, and the companion file that describes them.

    Image n has the values 10 n + 1 and 10 n + 2, and a pixel size of n + 1 um.
    """
    companion, inner, files = f"{stem}.companion.ome", "", []
    for n in range(images):
        names = [f"{stem}_{n}_Ch{c + 1}.ome.tif" for c in range(2)]
        planes = [At(name, c=c) for c, name in enumerate(names)]
        inner += image_xml(f"well {n}", planes, n + 1, (1, 2, 1))
        for c, name in enumerate(names):
            write_tiff(folder / name, [10 * n + c + 1], binary_only(companion, name))
        files += names
    (folder / companion).write_text(ome_xml(inner, companion), encoding="utf-8")
    return files
