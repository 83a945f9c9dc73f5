"""The modules of micro-sam that the engine uses, in each layout in which micro-sam has them.

micro-sam 1.8 has the code for SAM 1 in ``micro_sam``; the development version, which adds SAM 2 as
``micro_sam.v2``, has the same functions in ``micro_sam.v1``. Only this module names modules of
micro_sam; the others call its functions. Each function imports when it is called, because the
first import takes seconds, and raises ModuleNotFoundError without micro-sam.

Source: https://github.com/computational-cell-analytics/micro-sam (1.8.14; branch dev, August 2026)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@cache
def package() -> str:
    """Return the package that has the code for SAM 1: ``micro_sam.v1`` or ``micro_sam``."""
    moved = find_spec("micro_sam.v1") and find_spec("micro_sam.v1.automatic_segmentation")
    return "micro_sam.v1" if moved else "micro_sam"


def util() -> Any:
    """Return the module with ``models``, ``get_device`` and ``precompute_image_embeddings``."""
    return import_module(f"{package()}.util")


def automatic_segmentation() -> Any:
    """Return the module with ``get_predictor_and_segmenter`` and ``automatic_tracking``."""
    return import_module(f"{package()}.automatic_segmentation")


def instance_segmentation() -> Any:
    """Return the module with the segmenters' classes."""
    return import_module(f"{package()}.instance_segmentation")


def multi_dimensional_segmentation() -> Any:
    """Return the module that joins the objects of planes and of time points."""
    return import_module(f"{package()}.multi_dimensional_segmentation")


def build_sam() -> Any:
    """Return the module that builds a SAM of any size."""
    return import_module(f"{package()}.models.build_sam")


def vit_t_problem() -> str | None:
    """Return why this micro-sam cannot build a model of type vit_t, None where it can."""
    if util().VIT_T_SUPPORT:
        return None
    try:
        import_module("mobile_sam")
    except ImportError as error:
        return " ".join(str(error).split())
    return "the installed mobile_sam is not the one of MobileSAM"


@contextmanager
def to_image_replaced(replacement: Callable[[Any], Any]) -> Iterator[None]:
    """Replace ``_to_image``, by which micro-sam makes the encoder's bytes of a plane or tile.

    The calling thread alone gets the replacement; micro-sam converts in the thread that calls it.
    """
    _make_to_image_replaceable()
    before = _replacement.set(replacement)
    try:
        yield
    finally:
        _replacement.reset(before)


_replacement: ContextVar[Callable[[Any], Any] | None] = ContextVar("_replacement", default=None)


@cache
def _make_to_image_replaceable() -> None:
    """Let ``_to_image`` ask for a replacement, in each module of SAM 1 that holds it.

    It is a function of ``micro_sam.util``, which ``micro_sam.v1.util`` also holds by its name.
    """
    for holder in {package(), "micro_sam"}:
        module: Any = import_module(f"{holder}.util")
        module._to_image = _replaceable(module._to_image)


def _replaceable(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda image: (_replacement.get() or original)(image)
