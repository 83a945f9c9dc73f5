"""Units of length and time as files write them, and their names in OME-NGFF. Standard library only.

All conversions are exact: lengths are fractions of a micrometre.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MICROMETER = "micrometer"

_PREFIXES = {
    "yocto": ("y", -24), "zepto": ("z", -21), "atto": ("a", -18), "femto": ("f", -15),
    "pico": ("p", -12), "nano": ("n", -9), "micro": ("μ", -6), "milli": ("m", -3),
    "centi": ("c", -2), "deci": ("d", -1), "": ("", 0), "hecto": ("h", 2), "kilo": ("k", 3),
    "mega": ("M", 6), "giga": ("G", 9), "tera": ("T", 12), "peta": ("P", 15), "exa": ("E", 18),
    "zetta": ("Z", 21), "yotta": ("Y", 24),
}  # fmt: skip

#: Micrometres in each unit of length that OME-NGFF names.
UM_PER_LENGTH = {
    **{f"{prefix}meter": Fraction(10) ** (power + 6) for prefix, (_, power) in _PREFIXES.items()},
    "angstrom": Fraction(1, 10_000),
    "inch": Fraction(25_400),
    "foot": Fraction(304_800),
    "yard": Fraction(914_400),
    "mile": Fraction(1_609_344_000),
}
#: Units of OME-XML that OME-NGFF does not name.
_OTHER_LENGTHS = {"thou": Fraction(254, 10), "pt": Fraction(25_400, 72), "li": Fraction(25_400, 12)}

#: Symbol of each unit of length in OME-XML, whose micro sign is U+00B5.
OME_SYMBOLS = {
    **{f"{prefix}meter": f"{symbol}m" for prefix, (symbol, _) in _PREFIXES.items()},
    **{MICROMETER: "µm", "angstrom": "Å", "inch": "in", "foot": "ft", "yard": "yd", "mile": "mi"},
}
_SYMBOLS = {unicodedata.normalize("NFKC", text): name for name, text in OME_SYMBOLS.items()}
_SYMBOLS |= {"um": MICROMETER, "Å": "angstrom"}
_WORDS = {
    **dict.fromkeys(("micron", "microns"), MICROMETER),
    **dict.fromkeys(("angstroms", "ångström", "ångstrom"), "angstrom"),
    **{"inches": "inch", "feet": "foot", "yards": "yard", "miles": "mile"},
}

#: Symbol of each unit of time in OME-XML.
OME_TIME_SYMBOLS = {
    **{"second": "s", "millisecond": "ms", "microsecond": "µs", "nanosecond": "ns"},
    **{"minute": "min", "hour": "h", "day": "d"},
}
_TIMES = {
    **{unicodedata.normalize("NFKC", text): name for name, text in OME_TIME_SYMBOLS.items()},
    **dict.fromkeys(("sec", "secs"), "second"),
    **dict.fromkeys(("msec", "msecs"), "millisecond"),
    **{"us": "microsecond", "mins": "minute", "hr": "hour", "hrs": "hour"},
}


def length_unit(text: str, *, any_case: bool = False) -> str | None:
    """Return the OME-NGFF name of a unit of length, None for a unit that is not known.

    Names are read in any case, with American or British spelling, and in the plural. Symbols are
    case-sensitive, since ``Mm`` is a megametre; with ``any_case``, as for ImageJ, where users type
    the unit, ``MM`` and ``Mm`` are millimetres. ``pixel`` and ``reference frame`` are no lengths.
    """
    text = _plain_text(text)
    lower = text.lower()
    if any_case and lower in _SYMBOLS:
        return _SYMBOLS[lower]
    if text in _SYMBOLS or text in _OTHER_LENGTHS:
        return _SYMBOLS.get(text, text)
    word = _WORDS.get(lower, re.sub("met(er|re)s?$", "meter", lower))
    return word if word in UM_PER_LENGTH else None


def time_unit(text: str) -> str | None:
    """Return the OME-NGFF name of a unit of time, None for a unit that is not known."""
    lower = _plain_text(text).lower()
    name = _TIMES.get(lower, lower.removesuffix("s") if len(lower) > 3 else lower)
    return name if name in OME_TIME_SYMBOLS else None


def um_per(unit: str | None) -> Fraction | None:
    """Return the micrometres in a unit that :func:`length_unit` returned, None for any other."""
    if unit is None:
        return None
    return UM_PER_LENGTH.get(unit, _OTHER_LENGTHS.get(unit))


def _plain_text(text: str) -> str:
    """Return the text with one form of each micro sign, also of one escaped as ``\\u00B5``."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    # UTF-8 that was read as Latin-1 has a capital A with a circumflex before the micro sign.
    return unicodedata.normalize("NFKC", text.replace("\u00c2\u00b5", "\u00b5")).strip()
