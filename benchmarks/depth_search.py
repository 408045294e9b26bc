"""A whole depth search over frozen layers, against one forward pass over the same data; in turns in one process.

    AUXTASKS_DATA=/path/to/data python -m benchmarks.depth_search

The pass computes the highest layer alone, and nothing is fitted on it. The search computes all layers and, on each,
cross-validates three heads. With AUXTASKS_DATA the data is LFW's people with many photos, else drawn faces.

Both with one thread and with all that torch takes. Threads that wait for each other spin, and the processor's time
counts that as work: beside other programs, it is with one thread that it says what is computed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from auxtasks.backbones import convnet
from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.features.extract import extract
from transfer.depth import search_depth
from transfer.spaces import default_pools


def faces(photos: int) -> ImageTable:
    """Return the people with so many photos or more."""
    options: dict[str, str | int | float | bool] = {"people": 60, "photos": 40, "size": 48}
    path, named = "builtin:drawn_faces", {"image": "image", "label": "label"}
    if given := os.environ.get("AUXTASKS_DATA"):
        path, named, options = str(Path(given) / "faces" / "lfw.parquet"), {"image": "image", "label": "name"}, {}
    table = decode_images(load_source(path, columns=named, options=options or None), size=(48, 48), channels=1)
    counts = np.bincount(table.labels)
    kept = table.subset(np.flatnonzero(counts[table.labels] >= photos))
    names, labels = np.unique(kept.labels, return_inverse=True)
    return dataclasses.replace(kept, labels=labels, class_names=tuple(kept.class_names[name] for name in names))


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return seconds by the clock, and of the processor: these are steadier where others use the machine."""
    began, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=20, help="people with fewer photos are left out")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="beside a run with one thread")
    given = parser.parse_args()
    backbone, table = convnet(size=48), faces(given.photos)
    pools, top = default_pools(backbone), backbone.layer_names[-1]
    print(f"{len(table):,} pictures of {len(table.class_names)} people, {len(pools)} layers, {given.shots} shots, "
          f"{given.draws} draws")  # fmt: skip
    ways: dict[str, Callable[[], object]] = {
        "pass": lambda: extract(backbone, table, {top: "auto"}),
        "all layers": lambda: extract(backbone, table, pools),
        "search": lambda: search_depth(backbone, table, shots=given.shots, draws=given.draws, modes=["frozen"]),
    }
    for threads in sorted({1, given.threads}):
        torch.set_num_threads(threads)
        print(f"torch with {threads} thread{'s' * (threads > 1)}:")
        compare(ways, given.rounds)


def compare(ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Time all ways in turns, and print what they take of the pass, round by round and in the median."""
    timed(ways["pass"])  # warm-up
    found: dict[str, list[tuple[float, float]]] = {how: [] for how in ways}
    for number in range(rounds):
        for how, call in ways.items():
            found[how].append(timed(call))
        last = "  ".join(f"{how} {taken[-1][0]:.2f} s ({taken[-1][1]:.2f})" for how, taken in found.items())
        print(f"round {number + 1}: {last}", flush=True)
    for how in ("all layers", "search"):
        for place, unit in enumerate(("the clock", "the processor")):
            ratios = [taken[place] / alone[place] for taken, alone in zip(found[how], found["pass"], strict=True)]
            print(f"{how} / one full pass, by {unit}: median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
