"""Masks of a series' time points, linked by micro-sam, are micro-sam's own automatic tracking."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from samservice.engines import microsam_api

pytestmark = [
    pytest.mark.microsam,
    pytest.mark.skipif(
        importlib.util.find_spec("micro_sam") is None, reason="micro_sam is not installed"
    ),
]


@pytest.fixture
def linker_without_download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give trackastra random weights; return the names of the models that are asked for."""
    import torch
    from trackastra.model import Trackastra
    from trackastra.model.model import TrackingTransformer

    asked = []

    def from_pretrained(name: str, device: str) -> Any:
        asked.append(name)
        torch.manual_seed(0)
        transformer = TrackingTransformer(
            coord_dim=2, feat_dim=7, d_model=32, nhead=2, num_encoder_layers=1, num_decoder_layers=1
        )
        return Trackastra(transformer.eval(), {"features": "wrfeat", "ndim": 2, "window": 4}, "cpu")

    monkeypatch.setattr(Trackastra, "from_pretrained", from_pretrained)
    return asked


@pytest.mark.filterwarnings("ignore:Changing the sparsity structure of a csr_array")
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "ilp", "tracking_model": "ctc"},
        {"mode": "ilp", "gap_closing": 1},
    ],
    ids=str,
)
def test_linked_masks_are_micro_sams_own_tracks(
    engine: Any,
    small_checkpoint: Path,
    recipe: ModuleType,
    linker_without_download: list[str],
    options: dict[str, Any],
) -> None:
    from small_sam import load_small_sam

    image, _ = recipe.draw_blobs(5, (96, 96))
    series = np.stack([np.roll(image, 3 * t, axis=1) for t in range(4)])
    micro_sam = microsam_api.multi_dimensional_segmentation()
    predictor, decoder = load_small_sam(small_checkpoint, "cpu")
    segmenter = microsam_api.instance_segmentation().InstanceSegmentationWithDecoder(
        predictor, decoder
    )
    # automatic_tracking itself passes gap_closing and min_time_extent twice, a TypeError (1.8.14).
    expected, lineages = micro_sam.automatic_tracking_implementation(
        series, predictor, segmenter, verbose=False, **options
    )

    masks = np.zeros(series.shape, np.uint32)
    for t, plane in enumerate(series):
        mask = engine.segment(plane, "YX", {"normalization": "minmax"})
        masks[t] = np.where(mask, mask + masks.max(), 0)
    linked, own_lineages = micro_sam.track_across_frames(series, masks, verbose=False, **options)

    assert expected.max() > 2
    assert any(np.isin(np.unique(expected[0])[1:], expected[1]))
    np.testing.assert_array_equal(linked, expected)
    assert own_lineages == lineages
    assert linker_without_download == [options.get("tracking_model", "general_2d")] * 2
