"""micro-sam's own classes around a checkpoint of :mod:`small_sam`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_sam import load_small_sam

from samservice.engines import microsam_api
from samservice.engines.microsam import MicroSamEngine
from samservice.engines.microsam_load import pickle_restored


class SmallMicroSamEngine(MicroSamEngine):
    """``checkpoint`` is a file of :func:`small_sam.save_small_sam`."""

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"engine": "microsam-small"}

    def load_model(self, model: str, checkpoint: Path | None, mode: str) -> tuple[Any, Any]:
        assert checkpoint is not None
        with pickle_restored():
            predictor, decoder = load_small_sam(checkpoint, self._device)
            wanted = None if mode == "auto" else mode
            is_tiled = bool(self._tiling)
            classes = microsam_api.instance_segmentation()
            return predictor, classes.get_instance_segmentation_generator(
                predictor, is_tiled, decoder, wanted
            )
