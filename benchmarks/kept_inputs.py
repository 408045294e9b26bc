"""Layer-wise training with each layer's inputs kept, against computing them anew for every batch; in turns.

    python -m benchmarks.kept_inputs --data mnist_train.parquet

What is saved is also predicted, twice. From timed parts: the passes through the lower layers, and the reading of what
goes into them, less the reading of what is kept. And from multiply-adds: of a layer with W weights, training a tied
autoencoder takes 5 W an item (encoder and decoder forwards, the gradients of both weights and of the hidden units), a
pass W. The latter takes the loops' seconds to be multiply-adds and nothing else, and so promises the most.

The one pass that computes a layer's inputs is made either way, since a layer is begun from their means: so it is not
subtracted from what keeping saves. Only writing it to a disk is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from auxtasks.backbones import mlp
from auxtasks.backbones.base import Backbone
from auxtasks.data import EpochPlan
from auxtasks.features.cache import FeatureCache
from auxtasks.features.layer_inputs import Inputs, LayerInputs, read_rows
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.seeding import torch_seed
from auxtasks.tasks import LayerAutoencoder
from auxtasks.training.settings import LoopSettings
from benchmarks.rbm_epoch import shuffled_digits

Values: TypeAlias = NDArray[np.float32]

MEMORY, MAPPED, ANEW = "in memory", "memory-mapped", "computed anew"
SEED = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs have in common; steps are of each layer."""

    hidden: tuple[int, ...]
    steps: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a run: in the loop of each layer, and outside the loops."""

    loops: tuple[float, ...]
    outside: float

    @property
    def whole(self) -> float:
        return sum(self.loops) + self.outside


@dataclasses.dataclass(frozen=True)
class Parts:
    """Seconds of a layer's parts, for all steps: by itself, on the batches of the run.

    Attributes:
        lower: reading pixels and passing them through all lower layers.
        reads: reading kept inputs, by where they are kept.
        passes: computing the inputs of all items once, by where they go.
    """

    lower: float
    reads: Mapping[str, float]
    passes: Mapping[str, float]

    def saved(self, kept: str) -> float:
        return self.lower - self.reads[kept]


@contextlib.contextmanager
def cache_of(variant: str) -> Iterator[FeatureCache | None]:
    """Give a cache in a folder of its own to what is memory-mapped, and none to others."""
    with tempfile.TemporaryDirectory() as folder:
        yield FeatureCache(Path(folder)) if variant == MAPPED else None


def train_stack(values: Values, settings: Settings, variant: str) -> tuple[Backbone, Timing]:
    backbone = mlp(width=values.shape[1], hidden=settings.hidden, activation="sigmoid", seed=SEED)
    with cache_of(variant) as cache:
        began = time.perf_counter()
        result = pretrain_layerwise(
            backbone,
            values,
            LayerAutoencoder,
            steps=settings.steps,
            batch_size=settings.batch,
            seed=SEED,
            loop=LoopSettings(log_every=0, show_progress=False, device="cpu"),
            keep_inputs=variant != ANEW,
            cache=cache,
        )
        seconds = time.perf_counter() - began
    loops = tuple(stage.seconds for stage in result.stages.values())
    return backbone, Timing(loops, seconds - sum(loops))


def in_turns(values: Values, settings: Settings, repeats: int) -> tuple[Backbone, dict[str, list[Timing]]]:
    """Run all variants `repeats` times, every second time from the last to the first; return a trained stack too."""
    runs: dict[str, list[Timing]] = {MEMORY: [], MAPPED: [], ANEW: []}
    for repeat in range(repeats):
        for variant in list(runs)[:: -1 if repeat % 2 else 1]:
            backbone, timing = train_stack(values, settings, variant)
            runs[variant].append(timing)
            print(f"repeat {repeat + 1}: {variant}: {timing.whole:.2f} s", flush=True)
    return backbone, runs


def timed_passes(backbone: Backbone, values: Values, variant: str, use: Callable[[str, Inputs], None]) -> list[float]:
    """Return seconds of computing each higher layer's inputs from those of the layer below; `use` gets them."""
    seconds = []
    with cache_of(variant) as cache:
        inputs = LayerInputs(backbone, values, cache)
        for layer in backbone.layer_names[1:]:
            began = time.perf_counter()
            found = inputs.of(layer)
            seconds.append(time.perf_counter() - began)
            use(layer, found)
    return seconds


def timed_steps(settings: Settings, items: int, layer: str, do: Callable[[NDArray[np.int64]], object]) -> float:
    """Return seconds of doing something with the rows of each step of a layer's training."""
    plan = EpochPlan(items, settings.batch, torch_seed(SEED, f"layerwise {layer}"))
    rows = [plan.rows(step) for step in range(settings.steps)]
    began = time.perf_counter()
    for each in rows:
        do(each)
    return time.perf_counter() - began


def timed_parts(backbone: Backbone, values: Values, settings: Settings) -> list[Parts]:
    """Time the parts of each higher layer's training once."""
    names = backbone.layer_names
    reads: dict[str, dict[str, float]] = {layer: {} for layer in names}
    passes: dict[str, list[float]] = {}
    for kept in (MEMORY, MAPPED):

        def read_all(layer: str, inputs: Inputs, kept: str = kept) -> None:
            reads[layer][kept] = timed_steps(settings, len(values), layer, lambda rows: read_rows(inputs, rows))

        passes[kept] = timed_passes(backbone, values, kept, read_all)
    found = []
    for place, (below, layer) in enumerate(itertools.pairwise(names)):
        lower = timed_lower(backbone, values, settings, below, layer)
        found.append(Parts(lower, reads[layer], {kept: seconds[place] for kept, seconds in passes.items()}))
    return found


def timed_lower(backbone: Backbone, values: Values, settings: Settings, below: str, layer: str) -> float:
    lower = backbone.lower(below)
    with torch.no_grad():
        return timed_steps(
            settings, len(values), layer, lambda rows: lower(backbone.input.normalize(read_rows(values, rows)))
        )


def median_parts(found: Sequence[Sequence[Parts]]) -> list[Parts]:
    """Return each layer's parts, each the median of its repeats."""
    return [
        Parts(
            statistics.median(parts.lower for parts in layer),
            {kept: statistics.median(parts.reads[kept] for parts in layer) for kept in (MEMORY, MAPPED)},
            {kept: statistics.median(parts.passes[kept] for parts in layer) for kept in (MEMORY, MAPPED)},
        )
        for layer in zip(*found, strict=True)
    ]


def multiply_adds(widths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return multiply-adds an item of training each layer, and of passing through all layers below it.

    Example:
        >>> multiply_adds([784, 500, 500])
        ([1960000, 1250000], [0, 392000])
    """
    weights = [below * here for below, here in itertools.pairwise(widths)]
    return [5 * each for each in weights], [sum(weights[:place]) for place in range(len(weights))]


def median_loops(runs: Sequence[Timing]) -> list[float]:
    return [statistics.median(seconds) for seconds in zip(*(run.loops for run in runs), strict=True)]


def measured(kept: Sequence[Timing], anew: Sequence[Timing]) -> list[float]:
    """Return seconds that keeping saved in each layer's loop: the median over the repeats' own differences."""
    pairs = list(zip(kept, anew, strict=True))
    return [statistics.median(b.loops[place] - a.loops[place] for a, b in pairs) for place in range(len(kept[0].loops))]


def show_layers(runs: Mapping[str, Sequence[Timing]]) -> None:
    print("\nseconds in the loops, median" + "".join(f"{variant:>16}" for variant in runs))
    columns = [median_loops(found) for found in runs.values()]
    for place, row in enumerate(zip(*columns, strict=True)):
        print(f"{f'hidden{place + 1}':<28}" + "".join(f"{value:>16.2f}" for value in row))
    outside = [statistics.median(run.outside for run in found) for found in runs.values()]
    print(f"{'outside the loops':<28}" + "".join(f"{value:>16.2f}" for value in outside))
    whole = [statistics.median(run.whole for run in found) for found in runs.values()]
    print(f"{'whole':<28}" + "".join(f"{value:>16.2f}" for value in whole))


def show_parts(parts: Sequence[Parts]) -> None:
    print("\nparts, s      lower passes    reads: memory    mapped    one pass: memory    mapped")
    for place, each in enumerate(parts, start=2):
        print(f"{f'hidden{place}':<12}{each.lower:>14.2f}{each.reads[MEMORY]:>17.2f}{each.reads[MAPPED]:>10.2f}"
              f"{each.passes[MEMORY]:>20.2f}{each.passes[MAPPED]:>10.2f}")  # fmt: skip


def compare(
    kept: str, runs: Mapping[str, Sequence[Timing]], parts: Sequence[Parts], widths: Sequence[int]
) -> dict[str, object]:
    """Print and return what keeping saved, beside both predictions."""
    saved = measured(runs[kept], runs[ANEW])
    timed = [each.saved(kept) for each in parts]
    training, lower = multiply_adds(widths)
    share = sum(lower) / (sum(training) + sum(lower))
    counted = share * sum(median_loops(runs[ANEW]))
    print(f"\nkept {kept}: seconds saved   measured   from timed parts   measured / predicted")
    for place, (seconds, told) in enumerate(zip(saved[1:], timed, strict=True), start=2):
        print(f"  {f'hidden{place}':<24}{seconds:>15.2f}{told:>19.2f}{seconds / told:>23.2f}")
    total = sum(saved[1:])  # nothing is computed below the lowest layer: its difference is noise
    print(f"  {'higher layers':<24}{total:>15.2f}{sum(timed):>19.2f}{total / sum(timed):>23.2f}")
    print(f"  {'by multiply-adds':<24}{total:>15.2f}{counted:>19.2f}{total / counted:>23.2f}   "
          f"({share:.1%} of the loops' seconds when computed anew)")  # fmt: skip
    whole = statistics.median(b.whole - a.whole for a, b in zip(runs[kept], runs[ANEW], strict=True))
    told = sum(timed) + sum(each.passes[MEMORY] - each.passes[kept] for each in parts)
    print(f"  {'whole, passes included':<24}{whole:>15.2f}{told:>19.2f}{whole / told:>23.2f}   "
          f"(noise: the lowest layer differs by {saved[0]:+.2f} s)")  # fmt: skip
    return {
        "saved_by_layer": saved, "predicted_by_layer": timed, "saved": total, "predicted_from_parts": sum(timed),
        "predicted_from_multiply_adds": counted, "whole_saved": whole, "whole_predicted": told,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet of MNIST's training digits")
    parser.add_argument("--hidden", type=int, nargs="+", default=[500, 500, 500, 500])
    parser.add_argument("--steps", type=int, default=600, help="of each layer")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if len(given.hidden) < 2:
        raise SystemExit("--hidden needs two layers: the lowest takes the data itself.")
    settings = Settings(tuple(given.hidden), given.steps, given.batch)
    values, _ = shuffled_digits(given.data)
    print(f"{len(values):,} digits; {settings}; torch threads {torch.get_num_threads()}")
    train_stack(values, dataclasses.replace(settings, steps=10), MEMORY)  # warm-up
    backbone, runs = in_turns(values, settings, given.repeats)
    parts = median_parts([timed_parts(backbone, values, settings) for _ in range(given.repeats)])
    show_layers(runs)
    show_parts(parts)
    widths = [values.shape[1], *settings.hidden]
    rows = {kept: compare(kept, runs, parts, widths) for kept in (MEMORY, MAPPED)}
    seconds = {variant: [dataclasses.asdict(run) for run in found] for variant, found in runs.items()}
    timed = [dataclasses.asdict(each) for each in parts]
    print(json.dumps({"settings": dataclasses.asdict(settings), "seconds": seconds, "parts": timed, "kept": rows}))


if __name__ == "__main__":
    main()
