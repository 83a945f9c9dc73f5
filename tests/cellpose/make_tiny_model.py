"""Train the small model of the Cellpose tests on drawn nuclei, once.

    make build/cellpose/tiny_model

Nothing is downloaded: images and labels are drawn, the weights start random, everything is seeded.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tiny_cellpose import tiny_encoder

SIDE_PX = 256
STEPS = 350
BATCH = 2
LEARNING_RATE = 2e-3
SEED = 5


def draw_nuclei(
    seed: int, shape: tuple[int, int] = (SIDE_PX, SIDE_PX)
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(image, labels)``: uint16 and uint32, both (Y, X), of noisy ellipses."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.uint32)
    for _ in range(shape[0] * shape[1] // 500):
        y, x = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        a, b = random.uniform(9, 15, 2)
        angle = random.uniform(0, np.pi)
        along = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
        across = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
        inside = (along / a) ** 2 + (across / b) ** 2 < 1
        if not labels[inside].any():
            labels[inside] = labels.max() + 1
    signal = ndimage.gaussian_filter((labels > 0) * random.uniform(0.6, 1.0), 1.0)
    image = random.poisson((signal + 0.1) * 300) * 15
    return image.astype(np.uint16), labels


def train(steps: int) -> Any:
    """Return the trained network, with Cellpose's own flows as targets and its own loss."""
    import torch
    from cellpose import dynamics, transforms, vit

    torch.manual_seed(SEED)
    with tiny_encoder():
        net = vit.CPSAM(dtype=torch.float32)
    drawn = [draw_nuclei(seed) for seed in range(16)]
    images = [transforms.normalize_img(image[..., None].astype(np.float32)) for image, _ in drawn]
    flows = dynamics.labels_to_flows([labels.astype(np.int32) for _, labels in drawn])
    net.train()
    # Dropping whole blocks of a network with two leaves nothing.
    net.rdrop = 0
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    random = np.random.default_rng(SEED)
    for _ in range(steps):
        chosen = random.integers(len(drawn), size=BATCH)
        image = np.stack([images[n].transpose(2, 0, 1) for n in chosen])
        target = np.stack([flows[n] for n in chosen])
        if random.random() < 0.5:
            image, target = image[..., ::-1].copy(), target[..., ::-1].copy()
            target[:, 3] *= -1
        found = net(torch.from_numpy(image))[0]
        wanted = torch.from_numpy(target.astype(np.float32))
        loss = torch.nn.functional.mse_loss(found[:, :2], 5 * wanted[:, 2:4]) / 2
        inside = (wanted[:, 1] > 0.5).float()
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(found[:, 2], inside)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    start_s = time.process_time()
    net = train(options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    net.save_model(str(options.out))
    count = sum(each.numel() for each in net.parameters())
    print(f"{options.out}: {count} parameters, {time.process_time() - start_s:.0f} CPU-s")


if __name__ == "__main__":
    main()
