"""Check that a service can do what a run requests, by the service's own description.

The check runs before the first image is sent, and in ``samcourier verify`` before the first batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samservice.contract.conversion import convert_values
from samservice.contract.parameters import parameter_problems

from ..errors import ImageUnfit, RequestRefused
from ..results.service_description import ServiceDescription
from ..samples.sheet import ImageRow

#: The key and option that set the parameters of all images.
_PARAMETERS_KEY = "config.parameters (--parameters)"


def typed_parameters(
    parameters: Mapping[str, Any], accepted: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return ``parameters`` with texts converted to the types that the service describes.

    Snakemake gives each nested value of ``--config`` as a text. A value that already has its type
    stays as it is, so that the keys of masks do too.
    """
    return dict(parameters) if accepted is None else convert_values(parameters, accepted)


def check_requirements(
    parameters: Mapping[str, Any],
    description: ServiceDescription,
    *,
    keeps_embeddings: bool = False,
) -> None:
    """Raise RequestRefused, with one line for each setting of the run that the service refuses."""
    problems = _problems(parameters, description)
    if problems:
        raise RequestRefused(
            "\n".join(f"{_PARAMETERS_KEY}: {problem}" for problem in problems),
            name="WrongParameter",
        )
    if keeps_embeddings and not description.gives_embeddings:
        raise RequestRefused(
            "config.embeddings (--embeddings): 'keep', but the service with engine"
            f" {description.engine or 'unknown'}, model {description.model or 'unknown'}"
            " gives no embeddings, expected 'none', or an engine, mode and options with embeddings",
            name="EmbeddingsUnsupported",
        )


def check_row_requirements(row: ImageRow, description: ServiceDescription) -> None:
    """Raise ImageUnfit, with one line, if the service refuses the row's model or parameters."""
    if row.model is not None and row.model != description.model:
        raise ImageUnfit(
            f"sheet, image {row.image}, column model: {row.model!r}, expected"
            f" {description.model!r}, which the service has; segment images of another model in a"
            " separate run",
            name="WrongModel",
        )
    problems = _problems(row.parameters, description)
    if problems:
        raise ImageUnfit(
            f"sheet, image {row.image}, column parameters: {'; '.join(problems)}",
            name="WrongParameter",
        )


def _problems(parameters: Mapping[str, Any], description: ServiceDescription) -> list[str]:
    """Return the problems of ``parameters``; none if the service does not describe its own."""
    if description.parameters is None:
        return []
    return parameter_problems(
        typed_parameters(parameters, description.parameters), description.parameters
    )
