"""A SAM with a tiny image encoder, so that micro-sam's real code runs without a download.

micro-sam's smallest own weights are 375 MB behind a public server, and cost 36 CPU seconds an
image. Its code, however, takes any Segment Anything model: this module builds one with a
two-layer encoder for 128 x 128 inputs, and stores it in a file that carries its architecture.
:class:`small_microsam_engine.SmallMicroSamEngine` loads such a file; from there on everything that
runs is micro-sam's.

torch, torch_em and micro_sam are imported inside the functions: they cost seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samservice.engines import microsam_api

ARCHITECTURE_KEY = "samservice_architecture"


@dataclass(frozen=True)
class SmallArchitecture:
    """Sizes of the model; every other size is Segment Anything's own.

    ``image_size_px`` is the side of the square the encoder sees (a multiple of 16): an image is
    scaled so that its longer side fits, the embedding is (1, 256, image_size_px / 16, same).
    """

    encoder_width: int = 128
    encoder_depth: int = 2
    encoder_heads: int = 4
    global_attention_layers: tuple[int, ...] = (1,)
    image_size_px: int = 128
    decoder_features: int = 16


def build_small_sam(architecture: SmallArchitecture | None = None) -> tuple[Any, Any]:
    """Return ``(sam, unetr)`` with fresh weights; they share the image encoder.

    ``sam`` is a ``segment_anything.modeling.Sam``, ``unetr`` the ``torch_em.model.UNETR`` that
    predicts foreground, centre and boundary distances, (B, 3, Y, X) in 0..1, for
    micro-sam's automatic instance segmentation. Seed torch before for repeatable weights.
    """
    from torch_em.model import UNETR

    chosen = architecture or SmallArchitecture()
    sam = microsam_api.build_sam()._build_sam(
        chosen.encoder_width,
        chosen.encoder_depth,
        chosen.encoder_heads,
        list(chosen.global_attention_layers),
        image_size=chosen.image_size_px,
    )
    unetr = UNETR(
        backbone="sam",
        encoder=sam.image_encoder,
        out_channels=3,
        use_sam_stats=True,
        final_activation="Sigmoid",
        use_skip_connection=False,
        resize_input=True,
        use_conv_transpose=False,
        initial_features=chosen.decoder_features,
    )
    return sam, unetr


def save_small_sam(path: Path, sam: Any, unetr: Any, architecture: SmallArchitecture) -> None:
    """Write the model to ``path``, weights as float16, to be read by :func:`load_small_sam`."""
    import torch

    decoder_state = {
        name: weight
        for name, weight in unetr.state_dict().items()
        if not name.startswith("encoder")
    }
    checkpoint = {
        ARCHITECTURE_KEY: asdict(architecture),
        "sam_state": {name: weight.half() for name, weight in sam.state_dict().items()},
        "decoder_state": {name: weight.half() for name, weight in decoder_state.items()},
    }
    torch.save(checkpoint, path)


def load_small_sam(path: Path, device: str) -> tuple[Any, Any]:
    """Return ``(predictor, decoder)`` as micro-sam's ``get_predictor_and_decoder`` does.

    ``predictor`` is a ``SamPredictor``, ``decoder`` a ``micro_sam`` ``DecoderAdapter``, both in
    float32 on ``device``.
    """
    import torch

    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    stored = checkpoint[ARCHITECTURE_KEY]
    stored["global_attention_layers"] = tuple(stored["global_attention_layers"])
    sam, unetr = build_small_sam(SmallArchitecture(**stored))
    sam.load_state_dict(_as_float32(checkpoint["sam_state"]))
    encoder = sam.image_encoder.state_dict()
    unetr.load_state_dict(
        {f"encoder.{name}": weight for name, weight in encoder.items()}
        | _as_float32(checkpoint["decoder_state"])
    )
    sam.to(device).eval()
    unetr.to(device).eval()
    predictor = microsam_api.util().SamPredictor(sam)
    predictor.model_type = "small"
    predictor.model_name = path.name
    predictor.checkpoint_path = path
    return predictor, microsam_api.instance_segmentation().DecoderAdapter(unetr)


def _as_float32(state: dict[str, Any]) -> dict[str, Any]:
    return {name: weight.float() for name, weight in state.items()}
