"""Say in one sentence that many images of a run have no object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from samservice.contract.engine_description import describe_engine
from samservice.contract.errors import WrongParameter

from .outcome import Outcome

#: From this part of the images on, the sentence names what the engine is made for.
_MANY = 0.5


def empty_images(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the images that have a mask without any object."""
    return [each for each in outcomes if each.object_count == 0]


def nothing_found_sentence(outcomes: Sequence[Outcome]) -> str | None:
    """Return a sentence with the number of images without an object, None if there is none.

    Where at least half of the masks are empty, it says which images their engine is made for.
    """
    empty = empty_images(outcomes)
    if not empty:
        return None
    done_count = sum(each.status == "done" for each in outcomes)
    counts = f"{len(empty):,} of {done_count:,} images have no object"
    if not has_found_little(outcomes):
        return counts
    engines = Counter(str(each.log.service.get("engine")) for each in empty if each.log)
    ((engine, _),) = engines.most_common(1)
    suited_for = _suited_for(engine)
    return f"{counts}; the engine {engine} is for {suited_for}" if suited_for else counts


def has_found_little(outcomes: Sequence[Outcome]) -> bool:
    """Return whether at least half of the masks have no object."""
    done_count = sum(each.status == "done" for each in outcomes)
    return done_count > 0 and len(empty_images(outcomes)) >= _MANY * done_count


def _suited_for(engine: str) -> str:
    try:
        return describe_engine(engine).suited_for
    except WrongParameter:
        # An engine of a service elsewhere need not be known here.
        return ""
