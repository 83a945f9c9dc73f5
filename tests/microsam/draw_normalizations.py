"""Draw the picture of docs/micro-sam.md: what the encoder gets, and the objects found in it.

    PYTHONPATH=tests/microsam/plugin .venv-microsam/bin/python tests/microsam/draw_normalizations.py

writes docs/images/micro-sam-normalization.png with the small model of `make test-microsam`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from make_small_model import draw_blobs
from skimage.segmentation import find_boundaries

from samservice.contract.channels import to_model_image
from samservice.engines.base import build_engine
from samservice.engines.microsam_input import encoder_input

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/images/micro-sam-normalization.png"
HOT_PIXEL = (5, 7)


def main() -> None:
    checkpoint = str(ROOT / "build/microsam/small_model.pt")
    engine = build_engine("microsam-small", {"checkpoint": checkpoint, "device": "cpu"})
    image, _ = draw_blobs(5)
    image[HOT_PIXEL] = 65535
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.8), layout="constrained")
    for panel, normalization in zip(panels, ("robust", "minmax"), strict=True):
        pixels = encoder_input(image, "YX", normalization).pixels
        # What micro-sam makes of an image that comes as it is.
        seen = (
            pixels
            if normalization == "robust"
            else to_model_image(pixels, "YX", [(float(pixels.min()), float(pixels.max()))])
        )
        labels = engine.segment(image, "YX", {"normalization": normalization})
        coloured = np.repeat(seen[..., np.newaxis], 3, axis=2)
        coloured[find_boundaries(labels, mode="inner")] = (255, 200, 0)
        panel.imshow(coloured)
        panel.set_title(f"{normalization}: {len(np.unique(labels)) - 1} objects", fontsize=10)
        panel.axis("off")
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
