"""What a run asks of a service, held against what the service says of itself.

Before the first image is sent, and before the first batch starts: see ``samcourier verify``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samservice.contract.parameters import parameter_problems

from ..errors import ImageUnfit, RequestRefused
from ..results.service_description import ServiceDescription
from ..samples.sheet import ImageRow

#: Where the parameters of all images stand.
_PLACE = "config.parameters (--parameters)"


def check_requirements(
    parameters: Mapping[str, Any],
    description: ServiceDescription,
    *,
    keeps_embeddings: bool = False,
) -> None:
    """Raise RequestRefused, a line for each thing asked of all images that the service refuses."""
    problems = _problems(parameters, description)
    if problems:
        raise RequestRefused(
            "\n".join(f"{_PLACE}: {problem}" for problem in problems), name="WrongParameter"
        )
    if keeps_embeddings and not description.gives_embeddings:
        raise RequestRefused(
            "config.embeddings (--embeddings): 'keep', but the service with engine"
            f" {description.engine or 'unknown'}, model {description.model or 'unknown'}"
            " gives no embeddings, expected 'none', or a service that does: microsam in mode ais"
            " without tiles",
            name="EmbeddingsUnsupported",
        )


def check_row_requirements(row: ImageRow, description: ServiceDescription) -> None:
    """Raise ImageUnfit, one line, for a model or parameters of a sheet's row that are refused."""
    if row.model is not None and row.model != description.model:
        raise ImageUnfit(
            f"sheet, image {row.image}, column model: {row.model!r}, expected"
            f" {description.model!r}, which the service has; segment images of another model in a"
            " run of their own",
            name="WrongModel",
        )
    problems = _problems(row.parameters, description)
    if problems:
        raise ImageUnfit(
            f"sheet, image {row.image}, column parameters: {'; '.join(problems)}",
            name="WrongParameter",
        )


def _problems(parameters: Mapping[str, Any], description: ServiceDescription) -> list[str]:
    """Return what is wrong, nothing of a service that does not say what it accepts."""
    if description.parameters is None:
        return []
    return parameter_problems(parameters, description.parameters)
