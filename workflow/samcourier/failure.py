"""The record of a failure in the logs."""

from __future__ import annotations

from typing import Annotated, Self

from msgspec import Meta, Struct

from .errors import CourierError


class Failure(Struct, frozen=True, forbid_unknown_fields=True):
    """Why something failed: the failure class, the error's name and its text."""

    kind: Annotated[
        str,
        Meta(
            description="Failure class: image, missing, unread, changed, transport, service,"
            " overload, request, denied, input, storage or unexpected.",
            extra_json_schema={"minLength": 1},
        ),
    ]
    name: Annotated[str, Meta(description="Name of the error's class.")]
    message: Annotated[str, Meta(description="The error in words.")]

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Return ``error`` as written to the logs; an error without a kind is ``unexpected``."""
        if isinstance(error, CourierError):
            return cls(error.kind, error.name, str(error))
        return cls("unexpected", type(error).__name__, str(error) or type(error).__name__)
