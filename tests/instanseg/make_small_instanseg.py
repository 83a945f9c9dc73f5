"""Train a small InstanSeg model on synthetic blobs and write it as TorchScripts, once.

    make build/instanseg/small_model.pt

Nothing is downloaded: images and labels are drawn, the weights start random, everything is
seeded. Network, loss and post-processing are InstanSeg's own (0.1.2). A second file beside the
first holds a model of nuclei and cells: the same network with two decoders, of which the second
predicts nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from instanseg.utils.loss.instanseg_loss import InstanSeg, InstanSeg_Torchscript
from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet
from make_small_model import average_precision_50, draw_blobs
from scipy import ndimage

from samservice.contract.channels import to_gray

STEPS = 250
BATCH = 2
LEARNING_RATE = 4e-3
SEED = 7
#: Width of the network at each scale, coarsest first.
LAYERS = [32, 16, 8]
#: Outputs for each pixel: the vector to the object's centre, its uncertainty, the seed map.
HEADS = [[2, 1, 1]]
#: The TorchScript looks at 64 x 64 pixels around each seed.
WINDOW_PX = 64


def seed_loss(predicted: Any, labels: Any, mask: Any = None) -> Any:
    """Return InstanSeg's ``l1_distance`` loss; there it requires one more package, ``edt``."""
    target = torch.from_numpy(relative_distance(labels[0].numpy()))
    return (predicted[0] - (target - 0.5) * 15).abs().mean()


def relative_distance(labels: Any) -> Any:
    """Return the distance to the edge of each object as a part of its largest, (Y, X) float32."""
    found = np.zeros(labels.shape, np.float32)
    for label, where in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if where is not None:
            padded = np.pad(labels[where] == label, 1)
            distance = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
            found[where] += distance / distance.max()
    return found


def train(steps: int = STEPS) -> Any:
    """Return the trained network with its classifier of pixels."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    network = InstanSeg_UNet(in_channels=1, out_channels=HEADS, layers=LAYERS, norm="BATCH")
    method = InstanSeg(n_sigma=1, device="cpu", window_size=WINDOW_PX)
    method.seed_loss = seed_loss
    network = method.initialize_pixel_classifier(network, MLP_width=5)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15
    )
    for step in range(steps):
        drawn = [draw_blobs(1000 + BATCH * step + number) for number in range(BATCH)]
        images = torch.from_numpy(np.stack([to_gray(image, "YX")[None] for image, _ in drawn]))
        labels = torch.from_numpy(np.stack([each[None].astype(np.int64) for _, each in drawn]))
        loss = method(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {float(loss):.3f}", flush=True)
    return network


def score(script: Any, count: int = 10) -> float:
    """Return the mean AP50 on images that were not seen in training."""
    scores = []
    for seed in range(count):
        image, truth = draw_blobs(seed)
        given = torch.from_numpy(to_gray(image, "YX")[None, None])
        predicted = script(given)[0, 0].numpy().astype(np.uint32)
        scores.append(average_precision_50(truth, predicted))
    return float(np.mean(scores))


def with_second_decoder(trained: Any) -> Any:
    """Return the network with one more decoder, whose seed map is below every threshold."""
    network = InstanSeg_UNet(in_channels=1, out_channels=2 * HEADS, layers=LAYERS, norm="BATCH")
    network.encoder, network.decoders[0] = trained.encoder, trained.decoders[0]
    network.pixel_classifier = trained.pixel_classifier
    for weight in network.decoders[1].parameters():
        torch.nn.init.zeros_(weight)
    return network


def save(network: Any, path: Path, gives_both: bool = False) -> None:
    """Write the network and InstanSeg's post-processing as a TorchScript."""
    script = InstanSeg_Torchscript(
        network, cells_and_nuclei=gives_both, n_sigma=1, backbone_dim_in=1, pixel_size=0.5
    )
    torch.jit.save(torch.jit.script(script.eval()), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args().path
    started_s = time.process_time()
    network = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file of both first: make takes the other one for the sign that all is done.
    save(with_second_decoder(network), path.with_stem(f"{path.stem}_of_both"), gives_both=True)
    save(network, path)
    count = sum(weight.numel() for weight in network.parameters())
    print(
        f"{path}: {count:,} parameters, AP50 {score(torch.jit.load(path)):.2f} on unseen images,"
        f" {time.process_time() - started_s:.0f} CPU-s"
    )


if __name__ == "__main__":
    main()
