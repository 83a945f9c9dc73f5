"""micro-sam's AIS with random weights of vit_b on a GPU, for its speed.

Random weights find no objects, so each state gets the maps of drawn nuclei after the device has
computed its own, in the service and in micro-sam's own call alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from staged_engines import nuclei_maps

from samservice.engines import microsam_api
from samservice.engines.microsam import MicroSamEngine
from samservice.engines.microsam_stages import ModelState
from samservice.engines.stages import Prepared

MODEL = "vit_b"


def write_random_checkpoint(path: Path) -> None:
    """Write random weights of vit_b and of a decoder, in micro-sam's format."""
    import torch

    torch.manual_seed(1)
    sam = microsam_api.util().sam_model_registry[MODEL]()
    unetr = microsam_api.instance_segmentation().get_unetr(sam.image_encoder, device="cpu")
    decoder = {
        name: weight
        for name, weight in unetr.state_dict().items()
        if not name.startswith("encoder")
    }
    torch.save({"model_state": sam.state_dict(), "decoder_state": decoder}, path)


class VitBEngine(MicroSamEngine):
    """The engine of the service, with a record of when encoder and decoder work.

    ``device_spans`` gets begin and end of each of their calls, by time.monotonic().
    """

    def __init__(self, checkpoint: Path, device: str, dtype: str) -> None:
        super().__init__(MODEL, str(checkpoint), "ais", device, dtype=dtype)
        self.device_spans: list[tuple[float, float]] = []
        self._drawn: dict[tuple[int, ...], dict[str, np.ndarray]] = {}
        decoder = self._segmenter._decoder
        for owner, name in (
            (self._predictor.model.image_encoder, "forward"),
            (decoder, "_forward_impl"),
            (decoder, "postprocess_masks"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name)))

    def draw_maps(self, size_px: int) -> None:
        """Draw the maps that replace those of images of this size."""
        self._drawn[(size_px, size_px)] = nuclei_maps(size_px)

    def infer(self, prepared: Sequence[Prepared]) -> list[ModelState]:
        return [
            ModelState(state.shape, state.shown, (self._drawn[state.shape],))
            for state in super().infer(prepared)
        ]

    def infer_together(self, prepared: Prepared, count: int) -> None:
        """Put one image through the device ``count`` times in one batch, whatever its labels."""
        self._model.maps([*prepared.content.source] * count)

    def segment_by_micro_sam(self, image: np.ndarray) -> np.ndarray:
        """Segment as micro-sam's documentation does it."""
        initialize = self._segmenter.initialize

        def with_drawn_maps(*arguments: Any, **named: Any) -> None:
            initialize(*arguments, **named)
            self._segmenter.set_state(self._drawn[image.shape])

        self._segmenter.initialize = with_drawn_maps
        try:
            return microsam_api.automatic_segmentation().automatic_instance_segmentation(
                self._predictor, self._segmenter, image, ndim=2, verbose=False
            )
        finally:
            del self._segmenter.initialize

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        def call(*arguments: Any, **named: Any) -> Any:
            begin_s = time.monotonic()
            result = function(*arguments, **named)
            if self._device.startswith("cuda"):
                torch.cuda.synchronize()
            self.device_spans.append((begin_s, time.monotonic()))
            return result

        return call
