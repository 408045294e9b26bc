"""An epoch of our Boltzmann machine against one of scikit-learn's, in turns in one process.

    python -m benchmarks.rbm_epoch --data mnist_train.parquet

Both keep as many Markov chains as a batch has items, do one Gibbs step with drawn visible units, and follow the
gradient without momentum. Ours is timed as users run it: the whole of `pretrain_layerwise`, with its look at the data.
Both models are then measured by one function, on the same held-out digits. Ours begins with biases that give the data's
means, scikit-learn's with zeros; a last run of ours begins with zeros as well, so that this can be told apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from auxtasks.backbones import mlp
from auxtasks.data import decode_images, load_source
from auxtasks.features.layer_inputs import InputSummary
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.seeding import generator
from auxtasks.tasks import LayerRBM
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

Values: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

LAYER = "hidden1"
OURS, THEIRS = "ours, float32", "scikit-learn, float32"  # the pair that counts
FLIPS = 20  # draws of the unit that is flipped in each digit


@dataclasses.dataclass(frozen=True)
class Settings:
    """What both machines are told."""

    units: int
    batch: int
    epochs: int
    rate: float
    threads: int


class Machine(NamedTuple):
    """A trained machine: weights (H, D), biases (H,) and (D,); and what it took, start and all."""

    weight: Tensor
    hidden: Tensor
    visible: Tensor
    dtype: str
    seconds: float


class FromZero(LayerRBM):
    """Begins with visible biases of zero, as scikit-learn's does."""

    def prepare(self, summary: InputSummary) -> None:
        super().prepare(dataclasses.replace(summary, mean=torch.full_like(summary.mean, 0.5)))


def shuffled_digits(place: Path, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return pixels (N, 784) in [0, 1] and labels (N,), in a random order: the files are sorted by label."""
    source = load_source(place, columns={"image": "image", "label": "label"})
    table = decode_images(source, size=(28, 28), channels=1)
    order = generator(seed, "order of the digits").permutation(len(table))
    values = table.pixels[order].reshape(len(order), -1).astype(np.float32)
    values /= 255
    return values, table.labels[order]


def ours(
    values: NDArray[np.float32],
    settings: Settings,
    seed: int,
    *,
    precision: Literal["no", "bf16"] = "no",
    task: type[LayerRBM] = LayerRBM,
) -> Machine:
    backbone = mlp(width=values.shape[1], hidden=[settings.units], activation="sigmoid")
    made = []

    def make_task(*place: object) -> LayerRBM:
        made.append(task(*place, persistent=True, chains=settings.batch, initial_scale=0.01, seed=seed))  # type: ignore[arg-type]
        return made[-1]

    began = time.perf_counter()
    pretrain_layerwise(
        backbone,
        values,
        make_task,
        steps=settings.epochs * -(-len(values) // settings.batch),
        batch_size=settings.batch,
        seed=seed,
        optimizer=plain_sgd(settings.rate),
        loop=LoopSettings(mixed_precision=precision, log_every=0, show_progress=False, device="cpu"),
    )
    seconds = time.perf_counter() - began
    linear, head = made[0].linear.module, made[0].head
    assert linear.bias is not None  # an mlp's
    return Machine(linear.weight.detach(), linear.bias.detach(), head.bias.detach(), str(linear.weight.dtype), seconds)


def plain_sgd(rate: float) -> OptimizerSettings:
    return OptimizerSettings(
        name="sgd", learning_rate=rate, momentum=0.0, weight_decay=0.0, warmup_steps=0, schedule="constant",
        clip_norm=None,
    )  # fmt: skip


def theirs(values: Values, settings: Settings, seed: int) -> Machine:
    machine = BernoulliRBM(
        n_components=settings.units,
        learning_rate=settings.rate,
        batch_size=settings.batch,
        n_iter=settings.epochs,
        random_state=seed,
    )
    with threadpool_limits(settings.threads):
        began = time.perf_counter()
        machine.fit(values)
        seconds = time.perf_counter() - began
    parts = (machine.components_, machine.intercept_hidden_, machine.intercept_visible_)
    weight, hidden, visible = (torch.from_numpy(np.ascontiguousarray(part)).float() for part in parts)
    return Machine(weight, hidden, visible, str(machine.components_.dtype), seconds)


@torch.no_grad()
def likelihood(machine: Machine, values: NDArray[np.float32]) -> float:
    """Return the mean pseudo-log-likelihood of digits, in nats a digit, of anybody's machine."""
    units, width = machine.weight.shape
    task = LayerRBM(mlp(width=width, hidden=[units], activation="sigmoid"), LAYER)
    bias = task.linear.module.bias
    assert bias is not None  # an mlp's
    task.linear.module.weight.copy_(machine.weight)
    bias.copy_(machine.hidden)
    task.head.bias.copy_(machine.visible)
    found = []
    for flips in range(FLIPS):
        task.seed = flips
        found.append(task.evaluate(values)["pseudo_log_likelihood"])
    return statistics.mean(found)


def in_turns(arms: Mapping[str, Callable[[int], Machine]], repeats: int) -> dict[str, list[Machine]]:
    """Run all arms `repeats` times, every second time from the last to the first."""
    runs: dict[str, list[Machine]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name in list(arms)[:: -1 if repeat % 2 else 1]:
            runs[name].append(arms[name](repeat))
            print(f"repeat {repeat + 1}: {name}: {runs[name][-1].seconds:.1f} s", flush=True)
    return runs


def summary_of(runs: Sequence[Machine], epochs: int, held_out: NDArray[np.float32]) -> dict[str, object]:
    seconds = [run.seconds / epochs for run in runs]
    found = [likelihood(run, held_out) for run in runs]
    return {
        "dtype": runs[0].dtype, "seconds_per_epoch": statistics.median(seconds), "each": seconds,
        "pseudo_log_likelihood": statistics.mean(found), "lowest": min(found), "highest": max(found),
    }  # fmt: skip


def show(rows: Mapping[str, Mapping[str, object]]) -> None:
    print(f"\n{'':<34}{'weights':<16}{'s an epoch':>11}{'of ours':>9}   pseudo-log-likelihood, nats a digit")
    for name, row in rows.items():
        ratio = float(str(row["seconds_per_epoch"])) / float(str(rows[OURS]["seconds_per_epoch"]))
        print(f"{name:<34}{row['dtype']:<16}{row['seconds_per_epoch']:>11.2f}{ratio:>9.2f}   "
              f"{row['pseudo_log_likelihood']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet of MNIST's training digits")
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--items", type=int, default=60_000, help="digits in all, those held out included")
    parser.add_argument("--held-out", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of BLAS")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    settings = Settings(given.units, given.batch, given.epochs, given.rate, given.threads)
    torch.set_num_threads(given.threads)
    values = shuffled_digits(given.data)[0][: given.items]
    held_out, values = values[: given.held_out], values[given.held_out :]
    doubles = values.astype(np.float64)
    print(f"{len(values):,} digits an epoch, {len(held_out):,} held out; {settings}")
    arms: dict[str, Callable[[int], Machine]] = {
        OURS: functools.partial(ours, values, settings),
        "ours, bf16": functools.partial(ours, values, settings, precision="bf16"),
        THEIRS: functools.partial(theirs, values, settings),
        "scikit-learn, float64": functools.partial(theirs, doubles, settings),
    }
    short = dataclasses.replace(settings, epochs=1)
    ours(values[: 20 * given.batch], short, 0), theirs(values[: 20 * given.batch], short, 0)  # warm-up
    runs = in_turns(arms, given.repeats)
    runs["ours, float32, biases from zero"] = [ours(values, settings, 0, task=FromZero)]
    rows = {name: summary_of(found, given.epochs, held_out) for name, found in runs.items()}
    show(rows)
    print(json.dumps({"settings": dataclasses.asdict(settings), "items": len(values), "arms": rows}))


if __name__ == "__main__":
    main()
