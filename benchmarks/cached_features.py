"""Training on frozen outputs that are kept, against computing them anew every epoch; in turns in one process.

    AUXTASKS_DATA=FOLDER python -m benchmarks.cached_features

The limit is one pass over the pictures plus N passes of what trains over arrays in memory. What trains is a linear head
on a pooled layer, and, at another cut, the layers above with a head: these train on what crosses the cut. Then a table
of what misses: of each change whether the outputs were found or computed anew.

The pictures are faces: of LFW's people with 20 photos or more where AUXTASKS_DATA has them, drawn ones elsewhere.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks.backbones import convnet
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.backbones.text import TextState, TokenBatch
from auxtasks.backbones.transformers import transformers
from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.data.augment import Augment
from auxtasks.data.texts import TextTable, encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.features.batches import model_batch
from auxtasks.features.cache import FeatureCache
from auxtasks.features.crossings import crossings
from auxtasks.features.epochs import epoch_batches
from auxtasks.features.extract import extract
from auxtasks.seeding import generator, torch_seed

BATCH = 64
LAYERS: dict[str, Pool] = {"stage4": "mean"}
CUT = "stage3"
WAYS = ("kept", "limit", "recomputed")


# --- data -------------------------------------------------------------------------------------------------------------


def pictures(items: int) -> tuple[str, ImageTable]:
    """Return what the pictures are, and so many of them at most."""
    file = Path(os.environ.get("AUXTASKS_DATA", "none")) / "faces" / "lfw.parquet"
    if not file.is_file():
        options = {"people": items // 20, "photos": 20, "size": 60}
        drawn = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"}, options=options)
        return "drawn faces", decode_images(drawn, size=(60, 60), channels=1)
    faces = load_source(file, columns={"image": "image", "label": "name"})
    people = np.asarray(faces["label"])
    place = np.empty(len(people), np.int64)  # of a photo among those of its person
    for person in np.unique(people):
        rows = np.flatnonzero(people == person)
        place[rows] = np.arange(len(rows))
    several = np.flatnonzero(np.bincount(people)[people] >= 20)
    chosen = several[np.argsort(place[several], kind="stable")[:items]]  # evenly from all of them
    table = decode_images(faces.select(np.sort(chosen)), size=(60, 60), channels=1)
    known, labels = np.unique(table.labels, return_inverse=True)
    names = tuple(table.class_names[person] for person in known)
    return "LFW", dataclasses.replace(table, labels=labels, class_names=names)


# --- a linear head on a pooled layer ----------------------------------------------------------------------------------


def optimizer_of(modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(modules.parameters(), lr=0.02)


def step(optimizer: torch.optim.Optimizer, logits: Tensor, labels: Tensor) -> None:
    loss = nn.functional.cross_entropy(logits, labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def new_head(width: int, table: ImageTable) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(0, "head"))
        return nn.Linear(width, len(table.class_names))


def train_head(backbone: Backbone, table: ImageTable, epochs: int, way: str, folder: Path) -> Tensor:
    """Train a head for some epochs; return its weights."""
    head = new_head(backbone.layer_dims["stage4"], table)
    optimizer = optimizer_of(head)
    labels = torch.from_numpy(table.labels)
    cache = FeatureCache(folder)
    features = extract(backbone, table, LAYERS)["stage4"] if way == "limit" else None
    for epoch in range(epochs):
        if way == "kept":  # asked for anew, as another run on the same data does
            features = cache.features(backbone, table, LAYERS)["stage4"]
        elif way == "recomputed":
            features = extract(backbone, table, LAYERS)["stage4"]
        assert features is not None
        if way == "kept":
            for rows, inputs in epoch_batches(features, BATCH, seed=0, epoch=epoch):
                step(optimizer, head(inputs), labels[rows])
        else:
            for rows in in_order(len(table), epoch):
                step(optimizer, head(torch.from_numpy(features[rows])), labels[rows])
    return head.weight.detach()


def in_order(items: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Yield rows in the order in which `epoch_batches` has them, without a part of ours."""
    order = generator(0, "order", epoch).permutation(items)
    return (order[start : start + BATCH] for start in range(0, items, BATCH))


# --- the layers above a cut, and a head -------------------------------------------------------------------------------


def train_above(backbone: Backbone, table: ImageTable, epochs: int, way: str, folder: Path) -> Tensor:
    """Train what is above the cut, and a head; return the head's weights."""
    backbone = copy.deepcopy(backbone).eval()
    upper = backbone.upper(CUT)
    head = new_head(backbone.output_dim, table)
    optimizer = optimizer_of(nn.ModuleList([upper, head]))
    labels = torch.from_numpy(table.labels)
    kept: Callable[[NDArray[np.int64]], Tensor | TextState]
    if way == "limit":
        values = torch.cat([lower_outputs(backbone, table, rows) for rows in blocks(len(table))])
        kept = values.__getitem__
    elif way == "kept":
        kept = crossings(backbone, table, CUT, cache=FeatureCache(folder)).batch
    else:

        def kept(rows: NDArray[np.int64]) -> Tensor:
            return lower_outputs(backbone, table, rows)

    for epoch in range(epochs):
        for rows in in_order(len(table), epoch):
            step(optimizer, head(upper(kept(rows))), labels[rows])
    return head.weight.detach()


def lower_outputs(backbone: Backbone, table: ImageTable, rows: NDArray[np.int64]) -> Tensor:
    with torch.no_grad():
        found: Tensor = backbone.lower(CUT)(model_batch(backbone, table, rows))
    return found


def blocks(items: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + 256, items)) for start in range(0, items, 256))


# --- in turns ---------------------------------------------------------------------------------------------------------

Train = Callable[[Backbone, ImageTable, int, str, Path], Tensor]


def compare(title: str, train: Train, backbone: Backbone, table: ImageTable, epochs: int, rounds: int) -> None:
    """Time all ways in turns, every second round from the last to the first; print medians of the rounds' ratios."""
    train(backbone, table, 1, "limit", Path())  # warm-up
    ratios: dict[str, list[float]] = {"kept / limit": [], "recomputed / kept": []}
    apart = 0.0
    for number in range(rounds):
        seconds: dict[str, float] = {}
        weights: dict[str, Tensor] = {}
        for way in WAYS[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                weights[way] = train(backbone, table, epochs, way, Path(folder))
                seconds[way] = time.perf_counter() - began
        for ratio, found in ratios.items():
            above, below = ratio.split(" / ")
            found.append(seconds[above] / seconds[below])
        apart = max(apart, *(float((weights[way] - weights["limit"]).abs().max()) for way in WAYS))
        print(f"{title}: round {number + 1}: " + "  ".join(f"{way} {seconds[way]:.2f} s" for way in WAYS), flush=True)
    for ratio, found in ratios.items():
        print(f"{title}: {epochs} epochs, {ratio}: median {statistics.median(found):.3f} of {len(found)}, "
              f"{min(found):.3f} to {max(found):.3f}")  # fmt: skip
    print(f"{title}: the trained heads differ by {apart:.1e} at most\n")


# --- what misses ------------------------------------------------------------------------------------------------------


def small() -> Backbone:
    return convnet(size=32, widths=[8, 16], blocks=[1, 1], embedding=8)


def texts(size: int) -> TextTable:
    lines = ["the cat sat on the mat", "a dog ran on the mat", "the red dog sat", "the big cat ran"]
    return encode_texts(load_source({"text": lines}, columns={"text": "text"}), tokenizer(size), length=16)


def tokenizer(size: int) -> object:
    return train_tokenizer(["the cat sat on the mat", "a dog ran on the mat", "the red dog sat"] * 3, size=size)


def reader(size: int) -> Backbone:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return transformers({"model_type": "bert", **sizes}, length=16, tokenizer=tokenizer(size))


def nudged(layer: str) -> Backbone:
    backbone = small()
    next(parameter for _, parameter in backbone.parameters_of(layer)).data.view(-1)[0] += 1e-6
    return backbone


def other_activation() -> Backbone:
    backbone = small()
    for parent in backbone.module.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.GELU())
                return backbone
    raise AssertionError("no activation to exchange")


def other_input() -> Backbone:
    backbone = small()
    backbone.input = dataclasses.replace(backbone.input, mean=(0.1,))
    return backbone


def other_pixel(table: ImageTable) -> ImageTable:
    pixels = np.array(table.pixels)
    pixels[0, 0, 0, 0] ^= 1
    images = list(pixels[..., 0])
    source = load_source({"image": images}, columns={"image": "image"})
    return decode_images(source, size=pixels.shape[1:3], channels=1)


def computed(backbone: Backbone, ask: Callable[[Backbone], object]) -> bool:
    """Whether items went through the lowest layer; an example, which measures a shape, does not count."""
    passed = []
    lowest = backbone.stages[0]

    def counted(module: nn.Module, x: Tensor | TokenBatch) -> object:
        passed.append(len(x.ids) if isinstance(x, TokenBatch) else len(x))
        return lowest.apply(module, x)

    backbone.stages = (dataclasses.replace(lowest, apply=counted), *backbone.stages[1:])
    ask(backbone)
    return max(passed, default=0) > 1


def misses(table: ImageTable, folder: Path) -> dict[str, bool]:
    """Return of each change whether it missed."""
    cache = FeatureCache(folder)
    layers: dict[str, Pool] = {"stage1": "grid"}
    plain = decode_images(
        load_source({"image": list(table.pixels[:32, ..., 0])}, columns={"image": "image"}),
        size=table.pixels.shape[1:3],
        channels=1,
    )
    moved = Augment(size=(32, 32))

    def features(
        table: ImageTable | TextTable = plain,
        of: Mapping[str, Pool] = layers,
        cache: FeatureCache = cache,
        **asked: bool,
    ) -> Callable[[Backbone], object]:
        return lambda backbone: cache.features(backbone, table, of, **asked)

    def views(count: int = 2, augment: Augment = moved, seed: int = 0) -> Callable[[Backbone], object]:
        return lambda backbone: crossings(
            backbone, plain, "stage1", cache=cache, views=count, augment=augment, seed=seed
        )

    first = small()
    features()(first)
    views()(first)
    features(texts(60), {"block1": "mean"})(reader(60))
    other_text = reader(60)
    other_text.tokenizer = tokenizer(30)
    asked: dict[str, tuple[Backbone, Callable[[Backbone], object]]] = {
        "nothing": (small(), features()),
        "nothing, asked of another FeatureCache": (small(), features(cache=FeatureCache(folder))),
        "a weight above the layer": (nudged("stage2"), features()),
        "a weight of the layer": (nudged("stage1"), features()),
        "a weight below the layer": (nudged("stem"), features()),
        "structure: an activation": (other_activation(), features()),
        "the layer": (small(), features(of={"stage2": "grid"})),
        "the pooling": (small(), features(of={"stage1": "mean"})),
        "the preprocessing: mean": (other_input(), features()),
        "the mirror image": (small(), features(mirror=True)),
        "the dtype": (small(), features(cache=FeatureCache(folder, dtype="bfloat16"))),
        "one bit of a pixel": (small(), features(other_pixel(plain))),
        "the order of the items": (small(), features(plain.subset([*range(1, 32), 0]))),
        "one item fewer": (small(), features(plain.subset(range(31)))),
        "the tokenizer": (other_text, features(texts(60), {"block1": "mean"})),
        "nothing, augmented views": (small(), views()),
        "the number of views": (small(), views(3)),
        "the augmentation": (small(), views(augment=dataclasses.replace(moved, flip=0.4))),
        "the seed of the views": (small(), views(seed=1)),
    }
    return {what: computed(backbone, ask) for what, (backbone, ask) in asked.items()}


def show_misses(table: ImageTable) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = misses(table, Path(folder))
    print("what changed" + " " * 34 + "outcome")
    for what, missed in found.items():
        print(f"{what:<46}{'computed anew' if missed else 'found'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=2000)
    given = parser.parse_args()
    backbone = convnet(size=48)
    name, table = pictures(given.items)
    print(
        f"{len(table):,} pictures of {len(table.class_names)} people, {name}; torch threads {torch.get_num_threads()}"
    )
    compare("head on stage4", train_head, backbone, table, given.epochs, given.rounds)
    # A quarter of the epochs: what trains is most of the time here, whichever way the outputs come.
    compare(f"all above {CUT}", train_above, backbone, table, -(-given.epochs // 4), given.rounds)
    show_misses(table)


if __name__ == "__main__":
    main()
