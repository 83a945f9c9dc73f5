"""The meaning of the values that a TIFF stores: as they are, inverted, or indices of colours.

Source: TIFF 6.0, tag 262, PhotometricInterpretation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from ...errors import ImageUnfit
from .base import one_line

_KIND = tifffile.PHOTOMETRIC
_PHOTOMETRIC_TAG = 262
#: Values are intensities, or samples of red, green and blue.
_AS_STORED: set[int] = {
    *(_KIND.MINISBLACK, _KIND.RGB, _KIND.MASK, _KIND.LINEAR_RAW),
    *(_KIND.DEPTH_MAP, _KIND.SEMANTIC_MASK),
}
_REFUSED: dict[int, str] = {
    _KIND.SEPARATED: "a CMYK TIFF, whose values are inks",
    _KIND.YCBCR: "a YCbCr TIFF without JPEG, whose values are brightness and colour differences",
    _KIND.CIELAB: "a CIELab TIFF, whose values are lightness and colour differences",
    _KIND.ICCLAB: "an ICCLab TIFF, whose values are lightness and colour differences",
    _KIND.ITULAB: "an ITULab TIFF, whose values are lightness and colour differences",
    _KIND.CFA: "a TIFF of a colour filter array, whose pixels have one of three colours each",
    _KIND.LOGL: "a LogL TIFF, whose values are logarithms",
    _KIND.LOGLUV: "a LogLuv TIFF, whose values are logarithms",
}
#: The decoders of JPEG return red, green and blue: JPEG, old JPEG, and JPEG of NDPI.
_JPEG = {6, 7, 33007}
_NO_COMPRESSION = 1
_MOST_8_BITS = 255


@dataclass(frozen=True)
class StoredValues:
    """How the values of a file become intensities.

    Attributes:
        white: The largest possible value where white is zero, else None.
        colours: uint8, (number of values,) or (number of values, 3), where the values are indices
            of colours, else None.
    """

    white: int | None = None
    colours: np.ndarray | None = None

    @property
    def sample_count(self) -> int:
        """The number of samples along a new last axis, 0 for no new axis."""
        return self.colours.shape[1] if self.colours is not None and self.colours.ndim > 1 else 0

    def dtype(self, stored: np.dtype) -> np.dtype:
        """Return the dtype of the intensities of values with the dtype ``stored``."""
        return stored if self.colours is None else self.colours.dtype

    def intensities(self, stored: np.ndarray) -> np.ndarray:
        """Return the intensities, or colours with a new last axis."""
        if self.colours is not None:
            return np.take(self.colours, stored, axis=0)
        if self.white is None:
            return stored
        if stored.dtype.kind == "b":
            return np.asarray(~stored)
        return np.asarray(stored.dtype.type(self.white) - stored)


def stored_values(
    path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> StoredValues:
    """Return what the header says about the values of a series.

    ImageJ and microscope software store intensities and the colours to show them in, which may be
    inverted in ImageJ: there the values are taken as they are. Raises ImageUnfit for values that
    are neither intensities nor colours, and for a compression that cannot be decoded.
    """
    page = series.keyframe
    if page.dtype is None:
        raise ImageUnfit(
            f"{path}: pixels of {page.bitspersample} bits in the sample format"
            f" {_name(page.sampleformat)}, expected integers or floats"
        )
    _check_decoders(path, page)
    kind = page.photometric if _PHOTOMETRIC_TAG in page.tags else _KIND.MINISBLACK
    if kind in _AS_STORED or (kind == _KIND.YCBCR and page.compression in _JPEG):
        return StoredValues()
    if kind not in (_KIND.MINISWHITE, _KIND.PALETTE):
        what = _REFUSED.get(kind, f"a TIFF of the photometric interpretation {_name(kind)}")
        raise ImageUnfit(f"{path}: {what}, expected grey or RGB")
    is_imagej = tiff.is_imagej or tiff.is_nih
    if kind == _KIND.MINISWHITE:
        is_stored = is_imagej or (page.bitspersample == 1 and _is_of_tifffile(page))
        return StoredValues(white=None if is_stored else _white(path, page, series.dtype))
    is_scale = is_imagej or _has_display_colours(tiff)
    return StoredValues(colours=None if is_scale else _colours(path, series))


def _has_display_colours(tiff: tifffile.TiffFile) -> bool:
    """Return True for microscope formats, whose palettes only say how to show intensities."""
    return bool(
        tiff.is_ome
        or tiff.is_stk
        or tiff.is_lsm
        or tiff.is_fluoview
        or tiff.is_micromanager
        or tiff.is_sis
        or tiff.is_scanimage
    )


def _is_of_tifffile(page: tifffile.TiffPage) -> bool:
    """Return True for a file of tifffile, which writes booleans with white as zero by default."""
    return page.is_shaped or page.software.startswith("tifffile")


def _white(path: Path, page: tifffile.TiffPage, dtype: np.dtype) -> int:
    if dtype.kind not in "bu":
        raise ImageUnfit(
            f"{path}: white is zero in pixels of {dtype}, expected unsigned integers, or black as"
            " zero"
        )
    bits = page.bitspersample
    return (1 << (bits if isinstance(bits, int) else max(bits))) - 1


def _colours(path: Path, series: tifffile.TiffPageSeries) -> np.ndarray | None:
    """Return the colour of each value, None if the values themselves are intensities.

    They are where no colour component falls as the values rise: a scale to show them in.
    """
    page = series.keyframe
    if page.colormap is None or page.samplesperpixel != 1:
        raise ImageUnfit(f"{path}: a palette TIFF without its colours, expected grey or RGB")
    colours = np.asarray(page.colormap).T
    if (np.diff(colours.astype(np.int64), axis=0) >= 0).all():
        return None
    if len(series.pages) > 1:
        raise ImageUnfit(
            f"{path}: {len(series.pages)} pages of palette colours, expected grey or RGB pages"
        )
    # Some software stores 8 bits in the lower half of the 16 bits of a component.
    eight_bits = (colours if colours.max() <= _MOST_8_BITS else colours >> 8).astype(np.uint8)
    is_grey = (eight_bits == eight_bits[:, :1]).all()
    return eight_bits[:, 0] if is_grey else eight_bits


def _check_decoders(path: Path, page: tifffile.TiffPage) -> None:
    tables = [("compression", page.compression, tifffile.TIFF.DECOMPRESSORS)]
    if page.compression not in _JPEG:
        tables.append(("predictor", page.predictor, tifffile.TIFF.UNPREDICTORS))
    for what, value, decoders in tables:
        if value == _NO_COMPRESSION:
            continue
        try:
            decoders[value]
        except (KeyError, NotImplementedError, ImportError) as error:
            raise ImageUnfit(
                f"{path}: the {what} {_name(value)} cannot be decoded"
                f" ({one_line(error.args[0] if error.args else error)}), expected one that"
                " tifffile and imagecodecs decode, e.g. none, LZW or Deflate"
            ) from None


def _name(value: object) -> str:
    return str(getattr(value, "name", value))
