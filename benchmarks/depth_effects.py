"""What depth does to sigmoid networks with few labels, from scratch and pretrained; two effects in one plot.

    python -m benchmarks.depth_effects --train mnist_train.parquet --test mnist_test.parquet --out FOLDER

After Erhan et al., "Why does unsupervised pre-training help deep learning?", JMLR 2010: pretrained networks err less,
and less with depth; and they differ less from one seed to the next. Three arms: a stack of Boltzmann machines; the
`mlp`'s own random weights; and weights of +-1/sqrt(fan-in), as Erhan et al. began with. From there on all arms are the
same: head, order, steps, rate. A seed is an initialisation, a pretraining and an order; labels are one balanced draw.

A network of depth d is the lower d layers of its seed's deepest one, in every arm: so depths are paired, seeds are not.
The test set is read once, when all networks are trained, and nothing is chosen on it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import gc
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray
from torch import nn

from auxtasks.backbones import mlp
from auxtasks.backbones.base import Backbone
from auxtasks.data import EpochPlan
from auxtasks.data.row_feed import RowFeed
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.seeding import generator, torch_seed
from auxtasks.tasks import LayerRBM
from auxtasks.training.engine import train
from auxtasks.training.settings import LoopSettings, Phase
from benchmarks.rbm_epoch import plain_sgd, shuffled_digits
from transfer.finetune import Classifier, LabelledBatch
from transfer.plots import save_png

Values: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Key: TypeAlias = tuple[str, int, int]  # arm, depth, seed
Weights: TypeAlias = dict[str, NDArray[np.float32]]  # by name: arrays, which pass from process to process
Errors: TypeAlias = dict[str, dict[int, list[float]]]  # arm, depth: percent, by seed

CLASSES = 10
SILENT = LoopSettings(log_every=0, show_progress=False, device="cpu")
STYLES = {  # arm: Okabe and Ito's colours, marker
    "pretrained": ("#0072B2", "o"),
    "scratch": ("#D55E00", "s"),
    "scratch, fan-in": ("#000000", "^"),
}
QUIET = "#666666"
FAILED = 30.0  # percent: above, a network did not begin to learn


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all arms share; `pretraining_epochs` are of each layer."""

    units: int
    labels: int
    steps: int
    batch: int
    rate: float
    pretraining_epochs: int
    pretraining_batch: int
    pretraining_rate: float


def pretrained(values: Values, depth: int, settings: Settings, seed: int) -> Backbone:
    backbone = plain(values.shape[1], depth, settings, seed)
    pretrain_layerwise(
        backbone,
        values,
        lambda backbone, layer: LayerRBM(backbone, layer, seed=seed),
        steps=settings.pretraining_epochs * -(-len(values) // settings.pretraining_batch),
        batch_size=settings.pretraining_batch,
        seed=seed,
        optimizer=plain_sgd(settings.pretraining_rate),
        loop=SILENT,
    )
    return backbone


def plain(width: int, depth: int, settings: Settings, seed: int) -> Backbone:
    return mlp(width=width, hidden=[settings.units] * depth, activation="sigmoid", seed=seed)


@torch.no_grad()
def with_fan_in(backbone: Backbone, seed: int) -> Backbone:
    """Draw weights anew, uniform within +-1/sqrt(fan-in), with biases of zero."""
    chance = torch.Generator().manual_seed(torch_seed(seed, "weights by fan-in"))
    for module in backbone.module.modules():
        if isinstance(module, nn.Linear):
            reach = module.in_features**-0.5
            module.weight.uniform_(-reach, reach, generator=chance)
            module.bias.zero_()
    return backbone


def balanced_draw(labels: Labels, count: int) -> NDArray[np.int64]:
    """Return rows with as many of each class, the first ones of an order that is random already."""
    each, left = divmod(count, CLASSES)
    if left or each < 1:
        raise SystemExit(f"--labels is a multiple of {CLASSES}, found {count}.")
    rows = [np.flatnonzero(labels == label)[:each] for label in range(CLASSES)]
    short = [label for label, found in enumerate(rows) if len(found) < each]
    if short:
        raise SystemExit(f"--labels {count} takes {each} of each digit; there are fewer of {short}.")
    return np.concatenate(rows)


def fit(
    backbone: Backbone,
    depth: int,
    read: Callable[[NDArray[np.int64]], LabelledBatch],
    items: int,
    settings: Settings,
    seed: int,
) -> Weights:
    """Train the lower layers of a copy, with a random head, by plain gradient descent; return all weights."""
    model = classifier(copy.deepcopy(backbone), depth, seed)
    model.train_top(None)
    train(
        model,
        RowFeed(read, EpochPlan(items, settings.batch, seed)),
        [Phase(settings.steps)],
        seed=seed,
        optimizer=plain_sgd(settings.rate),
        loop=SILENT,
    )
    return {name: value.numpy() for name, value in model.state_dict().items()}


def classifier(backbone: Backbone, depth: int, seed: int) -> Classifier:
    return Classifier(backbone, f"hidden{depth}", "auto", CLASSES, seed=seed)


def train_seed(place: Path, depths: Sequence[int], settings: Settings, seed: int) -> dict[Key, Weights]:
    """Train every arm at every depth with one seed."""
    values, labels = digits_of(place)
    rows = balanced_draw(labels, settings.labels)
    pixels, classes = torch.from_numpy(values[rows]), torch.from_numpy(labels[rows])
    return {
        (arm, depth, seed): fit(
            backbone, depth, lambda at: LabelledBatch(pixels[at], classes[at]), len(rows), settings, seed
        )
        for arm, backbone in beginnings(values, max(depths), settings, seed).items()
        for depth in depths
    }


def train_all(place: Path, depths: Sequence[int], seeds: int, settings: Settings, processes: int) -> dict[Key, Weights]:
    """Train all seeds, some at a time, each on its share of the processors: networks this small use no more."""
    began, found = time.perf_counter(), {}
    work = functools.partial(train_seed, place, depths, settings)
    spawn = multiprocessing.get_context("spawn")  # a fork of a process whose torch has threads hangs
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=begin_worker, initargs=(threads,)) as pool:
        for seed, weights in enumerate(pool.map(work, range(seeds))):
            found.update(weights)
            print(f"seed {seed} is there after {time.perf_counter() - began:.0f} s", flush=True)
    return found


def begin_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    gc.freeze()  # the loop collects garbage after every run: without this, a quarter of a second each


@functools.cache
def digits_of(place: Path) -> tuple[Values, Labels]:
    return shuffled_digits(place)


def beginnings(values: Values, depth: int, settings: Settings, seed: int) -> dict[str, Backbone]:
    """Return what each arm begins with, in the order of `STYLES`."""
    width = values.shape[1]
    made = [
        pretrained(values, depth, settings, seed),
        plain(width, depth, settings, seed),
        with_fan_in(plain(width, depth, settings, seed), seed),
    ]
    return dict(zip(STYLES, made, strict=True))


@torch.no_grad()
def test_errors(
    trained: Mapping[Key, Weights], values: Values, labels: Labels, depth: int, settings: Settings
) -> Errors:
    """Return the test error of every network in percent, by arm and depth, in order of the seeds.

    Args:
        trained: weights of each network.
        values, labels: the test set.
        depth: of the deepest network, whose lower layers all others are.
        settings: as they were trained with.
    """
    batch = LabelledBatch(torch.from_numpy(values), torch.from_numpy(labels))
    errors: Errors = {}
    for (arm, layers, seed), weights in trained.items():
        model = classifier(plain(values.shape[1], depth, settings, seed), layers, seed)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        right = float(model.eval()(batch).metrics["accuracy"])
        errors.setdefault(arm, {}).setdefault(layers, []).append(round(100 * (1 - right), 4))
    return errors


def show(errors: Errors) -> None:
    print(f"\ntest error, %\n{'arm':<18}{'depth':>5}{'mean':>8}{'sd':>7}{'min':>7}{'max':>7}")
    for arm, by_depth in errors.items():
        for depth, found in by_depth.items():
            spread = statistics.stdev(found) if len(found) > 1 else float("nan")
            print(
                f"{arm:<18}{depth:>5}{statistics.mean(found):>8.2f}{spread:>7.2f}{min(found):>7.2f}{max(found):>7.2f}"
            )


def draw(errors: Errors, title: str) -> Figure:
    """Draw error against depth: a dot a seed, a bar between the quartiles, a line through the means.

    Networks that did not begin to learn stand in a panel above: beside them, all others would look alike.
    """
    found = [value for by_depth in errors.values() for values in by_depth.values() for value in values]
    panels = [part for part in ([v for v in found if v > FAILED], [v for v in found if v <= FAILED]) if part]
    figure = Figure(figsize=(7.2, 5.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(panels), 1, height_ratios=[1, 3][-len(panels) :])
    for row, part in enumerate(panels):
        axes = figure.add_subplot(grid[row])
        for place, (arm, by_depth) in enumerate(errors.items()):
            draw_arm(axes, arm, by_depth, beside=0.22 * (place - (len(errors) - 1) / 2))
        room = 0.08 * (max(part) - min(part)) + 0.3
        axes.set_ylim(min(part) - room, max(part) + room)
        finish(axes, [*next(iter(errors.values()))], is_lowest=row + 1 == len(panels))
    figure.axes[0].set_title(title, loc="left", fontweight="bold", fontsize=10)
    figure.axes[-1].legend(frameon=False, fontsize=9.5, loc="best")
    return figure


def draw_arm(axes: Axes, arm: str, by_depth: Mapping[int, Sequence[float]], beside: float) -> None:
    colour, marker = STYLES[arm]
    at = np.array([*by_depth]) + beside
    for x, found in zip(at, by_depth.values(), strict=True):
        aside = generator(0, f"dots of {arm}", index=int(10 * x)).uniform(-0.09, -0.04, len(found))  # left of the bar
        axes.plot(x + aside, found, marker, ms=3, mec="none", color=colour, alpha=0.5)
        axes.plot([x, x], np.percentile(found, [25, 75]), color=colour, lw=5, alpha=0.6, solid_capstyle="butt")
    means = [statistics.mean(found) for found in by_depth.values()]
    axes.plot(at, means, color=colour, marker=marker, ms=4.5, mec="white", mew=0.7, lw=1.0, label=arm)


def finish(axes: Axes, depths: Sequence[int], *, is_lowest: bool) -> None:
    axes.set_ylabel("test error, %" if is_lowest else "not trained, %", color=QUIET)
    axes.set_xlim(min(depths) - 0.5, max(depths) + 0.5)
    axes.xaxis.set_major_locator(FixedLocator([*depths]))
    if is_lowest:
        axes.set_xlabel("hidden layers", color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=9, labelbottom=is_lowest)
    axes.grid(axis="y", color="#e5e5e5", lw=0.8)
    axes.set_axisbelow(True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="parquet of MNIST's training digits")
    parser.add_argument("--test", type=Path, required=True, help="parquet of MNIST's test digits")
    parser.add_argument("--out", type=Path, required=True, help="folder for depth_effects.png and .json")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--labels", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--pretraining-epochs", type=int, default=2, help="of each layer")
    parser.add_argument("--pretraining-batch", type=int, default=100)
    parser.add_argument("--pretraining-rate", type=float, default=0.1)
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    settings = Settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Settings)})
    given.out.mkdir(parents=True, exist_ok=True)
    depths = sorted(set(given.depths))
    began = time.perf_counter()
    trained = train_all(given.train, depths, given.seeds, settings, given.processes)
    errors = test_errors(trained, *shuffled_digits(given.test), max(depths), settings)  # the only use of the test set
    found = {"settings": dataclasses.asdict(settings), "test_error_percent": errors,
             "seconds": time.perf_counter() - began}  # fmt: skip
    (given.out / "depth_effects.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    title = f"Digits from {given.labels:,} labels, {given.units} sigmoids a layer, {given.seeds} seeds"
    save_png(draw(errors, title), given.out / "depth_effects.png")
    show(errors)
    print(f"{found['seconds']:.0f} s; {given.out / 'depth_effects.png'}")


if __name__ == "__main__":
    main()
