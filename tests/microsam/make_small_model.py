"""Train the small model of the micro-sam tests on synthetic blobs, once.

    make build/microsam/small_model.pt

Nothing is downloaded: images and labels are drawn, the weights start random, everything is
seeded.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from small_sam import SmallArchitecture, build_small_sam, save_small_sam

ARCHITECTURE = SmallArchitecture()
SIDE_PX = 128
STEPS = 160
BATCH = 2
LEARNING_RATE = 4e-3
SEED = 7


def draw_blobs(seed: int, shape: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> tuple[Any, Any]:
    """Return ``(image, labels)``: uint16 and uint32, both (Y, X), of touching noisy ellipses."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    labels = np.zeros(shape, np.uint32)
    signal = np.zeros(shape, np.float32)
    for _ in range(int(shape[0] * shape[1] / 400)):
        centre = rng.uniform((4, 4), (shape[0] - 4, shape[1] - 4))
        radii = rng.uniform(6, 12, 2)
        angle = rng.uniform(0, np.pi)
        along = (rows - centre[0]) * np.cos(angle) + (columns - centre[1]) * np.sin(angle)
        across = (columns - centre[1]) * np.cos(angle) - (rows - centre[0]) * np.sin(angle)
        inside = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1
        if (labels[inside] > 0).mean() > 0.02:
            continue
        inside &= labels == 0
        labels[inside] = labels.max() + 1
        signal[inside] = rng.uniform(0.5, 1.0)
    blurred = ndimage.gaussian_filter(signal, 1.0) + 0.05
    image = rng.poisson(blurred * 400) * 20
    return image.astype(np.uint16), labels


def average_precision_50(truth: Any, predicted: Any) -> float:
    """Return TP / (TP + FP + FN) of two label images, objects matched at IoU above 0.5."""
    overlap, _, _ = np.histogram2d(
        truth.ravel(),
        predicted.ravel(),
        bins=(np.arange(truth.max() + 2) - 0.5, np.arange(predicted.max() + 2) - 0.5),
    )
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    hits = int((overlap / np.maximum(union, 1) > 0.5)[1:, 1:].sum())
    count_truth = len(np.unique(truth[truth > 0]))
    count_predicted = len(np.unique(predicted[predicted > 0]))
    return hits / max(count_truth + count_predicted - hits, 1)


def train(steps: int = STEPS) -> tuple[Any, Any]:
    """Return ``(sam, unetr)`` trained to predict foreground and the two distances."""
    import torch
    from torch_em.transform.label import PerObjectDistanceTransform

    # One thread: several only wait for each other at this size.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    sam, unetr = build_small_sam(ARCHITECTURE)
    unetr.to(memory_format=torch.channels_last).train()
    weights = [weight for weight in unetr.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15
    )
    to_target = PerObjectDistanceTransform(apply_label=False)
    for step in range(steps):
        drawn = [draw_blobs(1_000 + step * BATCH + number) for number in range(BATCH)]
        images = np.stack([image / image.max() * 255 for image, _ in drawn]).astype(np.float32)
        target = torch.from_numpy(np.stack([to_target(labels) for _, labels in drawn]))
        predicted = unetr(torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1))
        foreground = target[:, :1]
        loss = torch.nn.functional.binary_cross_entropy(predicted[:, :1], foreground)
        loss = loss + 3 * ((predicted[:, 1:] - target[:, 1:]) * foreground).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    unetr.to(memory_format=torch.contiguous_format)
    torch.set_num_threads(threads)
    return sam, unetr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args().path
    path.parent.mkdir(parents=True, exist_ok=True)
    sam, unetr = train()
    unfinished = path.with_suffix(".unfinished")
    save_small_sam(unfinished, sam, unetr, ARCHITECTURE)
    unfinished.rename(path)
    print(f"{path}: {path.stat().st_size} bytes, {time.process_time():.0f} CPU-s")


if __name__ == "__main__":
    main()
