"""Training a head on frozen features that are kept, against computing them anew every epoch; in turns in one process.

The limit is one pass over the pictures plus N passes of the head over arrays in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from auxtasks.backbones import convnet
from auxtasks.backbones.base import Backbone
from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.features.cache import FeatureCache
from auxtasks.features.extract import extract

LAYERS = {"stage4": "mean"}


def pictures() -> ImageTable:
    faces = load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": 100, "photos": 20, "size": 60},
    )
    return decode_images(faces, size=(60, 60), channels=1)


def head_epoch(head: nn.Linear, optimizer: torch.optim.Optimizer, features: np.ndarray, labels: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(labels))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        loss = nn.functional.cross_entropy(head(torch.from_numpy(features[rows])), torch.from_numpy(labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def timed(backbone: Backbone, table: ImageTable, epochs: int, how: str) -> float:
    """Return seconds for `epochs` of head training, by the way asked for."""
    head = nn.Linear(backbone.layer_dims["stage4"], len(table.class_names))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        if how == "kept":
            cache = FeatureCache(Path(folder))
            for _ in range(epochs):
                head_epoch(head, optimizer, cache.features(backbone, table, LAYERS)["stage4"], table.labels)
        elif how == "limit":
            features = extract(backbone, table, LAYERS)["stage4"]
            for _ in range(epochs):
                head_epoch(head, optimizer, features, table.labels)
        else:
            for _ in range(epochs):
                head_epoch(head, optimizer, extract(backbone, table, LAYERS)["stage4"], table.labels)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    backbone, table = convnet(size=48), pictures()
    timed(backbone, table, 1, "limit")  # warm-up
    against_limit, speed_up = [], []
    for number in range(given.rounds):
        seconds = {how: timed(backbone, table, given.epochs, how) for how in ("kept", "limit", "recomputed")}
        against_limit.append(seconds["kept"] / seconds["limit"])
        speed_up.append(seconds["recomputed"] / seconds["kept"])
        print(f"round {number + 1}: " + "  ".join(f"{how} {value:.2f} s" for how, value in seconds.items()), flush=True)
    print(f"{given.epochs} epochs, kept / limit: median {statistics.median(against_limit):.3f}")
    print(f"{given.epochs} epochs, recomputed / kept: median {statistics.median(speed_up):.1f}")


if __name__ == "__main__":
    main()
