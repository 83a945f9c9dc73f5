"""Sets of OME-TIFF files: the images that their metadata describe, and the files of each image.

The metadata stand in the first page of a TIFF or in a companion file, and may name planes in other
files. Standard library only: finding images reads the metadata of thousands of files.

Source: https://ome-model.readthedocs.io/en/stable/ome-tiff/specification.html
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ...errors import ImageMissing, ImageUnfit

#: Ending of the files that hold only the metadata of a set.
COMPANION_SUFFIX = ".companion.ome"

#: Names of series that are no images of a slide: in Aperio, Hamamatsu and Bio-Formats' OME-TIFF.
_ACCESSORY_NAME = re.compile(r"(.*[\s/:_#-])?(label|macro|map|thumbnail|overview)( image)?")
_IMAGE_DESCRIPTION = 270
#: Format of a page's number of entries, of one entry, of an offset, and the first page's position.
_CLASSIC, _BIG = ("H", "HHI4s", "I", 4), ("Q", "HHQ8s", "Q", 8)
_FORMATS = {b"II*\0": ("<", _CLASSIC), b"MM\0*": (">", _CLASSIC)}
_FORMATS |= {b"II+\0": ("<", _BIG), b"MM\0+": (">", _BIG)}
_MOST_ENTRIES = 4096
_XML_STARTS = (b"<", codecs.BOM_UTF8 + b"<", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: Read at once: it holds the first page and its description in most files.
_HEAD_BYTES = 8192
#: Longest description that is read; that of 100 000 planes has about 30 MB.
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class OmeImage:
    """An image with planes.

    Attributes:
        element: The OME element Image.
        name: Its name, "" if it has none.
        files: Names of the files that hold its planes, in the order of the metadata.
    """

    element: ElementTree.Element
    name: str
    files: tuple[str, ...]

    @property
    def pixels(self) -> ElementTree.Element:
        """The element Pixels."""
        found = self.element.find("{*}Pixels")
        assert found is not None, "images without Pixels have no planes"
        return found


@dataclass(frozen=True)
class OmeMetadata:
    """The metadata of one or more files.

    Attributes:
        path: The file that holds the metadata.
        root: The element OME.
        images: The images that have planes, in order.
        is_companion: Whether that file holds no pixels.
    """

    path: Path
    root: ElementTree.Element
    images: tuple[OmeImage, ...]
    is_companion: bool = False

    @property
    def folder(self) -> Path:
        """The folder of all files of the set."""
        return self.path.parent

    @property
    def files(self) -> frozenset[str]:
        """Names of the files that hold planes."""
        return frozenset(name for image in self.images for name in image.files)

    def scenes_in(self, path: Path) -> list[int]:
        """Return the indices of the images with a plane in ``path``; all for a file without one."""
        inside = [n for n, image in enumerate(self.images) if path.name in image.files]
        return inside or list(range(len(self.images)))

    def images_in(self, path: Path) -> list[int]:
        """Return :meth:`scenes_in` without a slide's label and thumbnail beside its image."""
        scenes = self.scenes_in(path)
        return [n for n in scenes if not is_accessory_name(self.images[n].name)] or scenes

    def missing_files(self, image: OmeImage) -> list[str]:
        """Return the names of the image's files that are not in the folder."""
        return [name for name in image.files if not (self.folder / name).is_file()]


def read_ome_metadata(path: Path) -> OmeMetadata | None:
    """Return the OME metadata that describe ``path``, a TIFF or a companion file.

    None if there are none, or none that can be parsed. Raises ImageMissing when they lie in another
    file that does not exist, ImageUnfit when that file has none or does not name ``path``.
    """
    root = _root(path)
    binary_only = None if root is None else root.find("{*}BinaryOnly")
    if binary_only is None:
        return None if root is None else _metadata(path, root)
    name = binary_only.get("MetadataFile") or ""
    holder = path.parent / _beside(path, name, "its metadata lie")
    if not name or not holder.is_file():
        raise ImageMissing(
            f"{path}: its metadata lie in {name!r}: no such file, expected this file beside it"
        )
    root = _root(holder)
    metadata = None if root is None else _metadata(holder, root)
    if metadata is None or path.name not in metadata.files:
        raise ImageUnfit(
            f"{path}: its metadata lie in {name!r}, expected this file to name its planes"
        )
    return metadata


def image_xml(metadata: OmeMetadata, image: OmeImage) -> str:
    """Return OME-XML of this image alone, for a reader that opens the file of its first plane."""
    root = ElementTree.Element(metadata.root.tag, {"UUID": image.files[0]})
    root.extend([*metadata.root.findall("{*}StructuredAnnotations"), image.element])
    return ElementTree.tostring(root, encoding="unicode")


def check_files(path: Path, metadata: OmeMetadata, image: OmeImage) -> None:
    """Check that the files of an image are there; ``path`` is the file that the user named.

    Raises ImageMissing for a missing file, ImageUnfit for a file in another folder, which is never
    opened.
    """
    for name in image.files:
        _beside(path, name, "its planes lie")
    if missing := metadata.missing_files(image):
        shown = ", ".join(missing[:4]) + (" ..." if len(missing) > 4 else "")
        raise ImageMissing(
            f"{path}: its planes lie also in {shown}: no such file, expected all"
            f" {len(image.files)} files of the image beside it"
        )


def is_accessory_name(name: str) -> bool:
    """Return True for the name of a slide's label, overview or thumbnail, e.g. ``macro image``."""
    return _ACCESSORY_NAME.fullmatch(name.strip().lower()) is not None


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a named pipe would block until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_ome_xml(path: Path) -> bytes | None:
    """Return the OME-XML of a metadata file, or of the first page of a TIFF, None if it has none.

    A damaged TIFF gives None, as does what is no regular file: its reader says what is wrong.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            head = file.read(_HEAD_BYTES)
            if head[:4] not in _FORMATS:
                is_xml = head.startswith(_XML_STARTS)
                return head + file.read(_MOST_BYTES) if is_xml else None
            texts = (each.rstrip(b"\0 \r\n\t") for each in _descriptions(file.fileno(), head))
            return next((each for each in texts if each.endswith(b"OME>")), None)
    except (OSError, struct.error, OverflowError):
        return None


def image_names(content: bytes) -> list[str]:
    """Return the names of all images of OME-XML, "" for one without; [] for no OME-XML."""
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError):
        return []
    return [image.get("Name") or "" for image in root.findall("{*}Image")]


def _root(path: Path) -> ElementTree.Element | None:
    content = read_ome_xml(path)
    if content is None:
        return None
    # Some software declares UTF-8 and writes the micro sign in another encoding.
    for xml in (content, content.decode("cp1252", "replace")):
        try:
            return ElementTree.fromstring(xml)
        except (ElementTree.ParseError, ValueError, LookupError):
            continue
    return None


def _metadata(path: Path, root: ElementTree.Element) -> OmeMetadata:
    has_pixels = _is_tiff(path)
    _name_files(path, root, own=path.name if has_pixels else "")
    images = []
    for element in root.findall("{*}Image"):
        uuids = element.iterfind("{*}Pixels/{*}TiffData/{*}UUID")
        files = dict.fromkeys(each.get("FileName", "") for each in uuids)
        if files:
            images.append(OmeImage(element, element.get("Name") or "", tuple(files)))
    return OmeMetadata(path, root, tuple(images), is_companion=not has_pixels)


def _is_tiff(path: Path) -> bool:
    with open(path, "rb", buffering=0) as file:
        return file.read(4) in _FORMATS


def _name_files(path: Path, root: ElementTree.Element, own: str) -> None:
    """Let each TiffData element name the file of its planes as it is now; remove those without.

    ``own`` is the name of the TIFF that holds the metadata, "" for a companion. A TIFF may have
    been renamed since they were written. It is recognised by its UUID, or where it has none by
    being the only file that the metadata name.
    """
    own_uuid = (root.get("UUID") or "").strip()
    named = {each.get("FileName") or "" for each in root.iterfind(".//{*}TiffData/{*}UUID")}
    is_renamed = bool(own) and not own_uuid and len(named) == 1 and _is_lost(path, *named)
    namespace = root.tag.removesuffix("OME")
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        for data in pixels.findall("{*}TiffData"):
            uuid = data.find("{*}UUID")
            text = "" if uuid is None else (uuid.text or "").strip()
            name = "" if uuid is None else uuid.get("FileName") or text
            is_own = name.lower() == own.lower() or bool(own_uuid and text == own_uuid)
            file = own if own and (is_own or is_renamed or not name) else name
            for old in data.findall("{*}UUID"):
                data.remove(old)
            if not file or data.get("PlaneCount", data.get("NumPlanes")) == "0":
                pixels.remove(data)
            else:
                new = ElementTree.SubElement(data, f"{namespace}UUID", {"FileName": file})
                new.text = file


def _is_lost(path: Path, name: str) -> bool:
    return "/" not in name and "\\" not in name and not (path.parent / name).exists()


def _beside(path: Path, name: str, what: str) -> str:
    """Return ``name``. Raises ImageUnfit for a file in another folder, which is never opened."""
    if "/" in name or "\\" in name:
        raise ImageUnfit(f"{path}: {what} in {name!r}, expected files beside it")
    return name


def _descriptions(file: int, head: bytes) -> Iterator[bytes]:
    """Yield the texts of the first page's ImageDescription tags; Micro-Manager writes two.

    ``file`` is the descriptor of a TIFF, ``head`` its first bytes.
    """

    def read(position: int, length: int) -> bytes:
        if position + length <= len(head):
            return head[position : position + length]
        return os.pread(file, length, position)

    order, (count, entry, offset, at) = _FORMATS[head[:4]]
    (position,) = struct.unpack_from(order + offset, head, at)
    count_size, size = struct.calcsize(order + count), struct.calcsize(order + entry)
    (entries,) = struct.unpack(order + count, read(position, count_size))
    table = read(position + count_size, size * min(entries, _MOST_ENTRIES))
    for start in range(0, len(table) // size * size, size):
        tag, _, length, value = struct.unpack_from(order + entry, table, start)
        if tag != _IMAGE_DESCRIPTION or length > _MOST_BYTES:
            continue
        if length <= len(value):
            yield value[:length]
        else:
            yield read(struct.unpack(order + offset, value)[0], length)
