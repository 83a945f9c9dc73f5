"""Cellpose's own network with a small encoder, and the engine cellpose-tiny for its weights.

Cellpose builds its encoder by ``cellpose.vit.sam_model_registry["vit_l"]``; while a model is built,
this is another encoder of the same class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from samservice.contract.engine_description import EngineDescription
from samservice.engines.cellpose import CellposeEngine

TINY = EngineDescription(
    name="cellpose-tiny",
    summary="Cellpose with a small encoder, for tests",
    build="tiny_cellpose:TinyCellposeEngine",
    options={
        "checkpoint": {"default": None, "type": "string", "description": "file of weights"},
        "dtype": {"default": "float32", "type": "string", "description": "of the weights"},
    },
)


@contextmanager
def tiny_encoder() -> Iterator[None]:
    """Build models of Cellpose with a small encoder in this context."""
    from cellpose import vit

    original = vit.sam_model_registry
    vit.sam_model_registry = {"vit_l": _tiny_sam}
    try:
        yield
    finally:
        vit.sam_model_registry = original


def _tiny_sam(checkpoint: Any = None) -> Any:
    import torch
    from segment_anything.modeling import ImageEncoderViT

    return SimpleNamespace(
        image_encoder=ImageEncoderViT(
            depth=2,
            embed_dim=96,
            img_size=1024,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=4,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=(0, 1),
            window_size=14,
            out_chans=128,
        )
    )


class TinyCellposeEngine(CellposeEngine):
    """The engine with the small encoder."""

    def load_model(self, weights: Path) -> Any:
        with tiny_encoder():
            return super().load_model(weights)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"engine": "cellpose-tiny"}
