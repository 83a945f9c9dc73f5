"""The engine of these tests, by the door of every other: micro-sam with the small model."""

from __future__ import annotations

from dataclasses import replace

from samservice.engines.descriptions import MICROSAM

MICROSAM_SMALL = replace(
    MICROSAM,
    name="microsam-small",
    summary="micro-sam with a model that is small enough for a test",
    build="small_microsam_engine:SmallMicroSamEngine",
)
