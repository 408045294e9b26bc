"""Our loop against a bare PyTorch loop: same network, same batches, same loss, in turns within one process.

Also whether memory stays flat: the process's resident memory is printed as training goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time

import psutil
import torch

from auxtasks.backbones import convnet
from auxtasks.data import load_source
from auxtasks.data.loaders import Feed, Shard
from auxtasks.tasks import FacePairs
from auxtasks.training.engine import train
from auxtasks.training.optim import OptimizerSettings, build_optimizer
from auxtasks.training.settings import LoopSettings, Phase

BATCH = 96


def make_feed(task: FacePairs, workers: int) -> Feed:
    faces = load_source(
        "builtin:drawn_faces", columns={"image": "image", "label": "label"}, options={"people": 100, "photos": 8}
    )
    table = task.prepare(faces)
    return Feed(table, task.plan(table, BATCH, 0), task.transform, task.collate, seed=0, workers=workers)


def bare(steps: int, workers: int) -> float:
    """Return samples a second of a loop as a person would write it by hand."""
    task = FacePairs(convnet(size=48))
    feed = make_feed(task, workers)
    optimizer = build_optimizer(task.named_parameters(), OptimizerSettings())
    task.train()
    task.log_metrics = False
    began = time.perf_counter()
    for batch in feed.batches(0, steps, Shard()):
        optimizer.zero_grad()
        output = task(batch)
        loss = output.loss_sum / output.weight
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 5.0)
        optimizer.step()
    return steps * BATCH / (time.perf_counter() - began)


def ours(steps: int, workers: int) -> float:
    """Return samples a second of `train`."""
    task = FacePairs(convnet(size=48))
    feed = make_feed(task, workers)
    result = train(task, feed, [Phase(steps)], seed=0, loop=LoopSettings(log_every=50, show_progress=False))
    return result.samples_per_second


def memory_over_steps(steps: int) -> list[float]:
    """Return resident memory in MB after each quarter of a run."""
    process, seen = psutil.Process(), []
    task = FacePairs(convnet(size=48))
    feed = make_feed(task, workers=0)
    settings = LoopSettings(validate_every=steps // 8, show_progress=False)

    def note() -> dict[str, float]:
        seen.append(process.memory_info().rss / 1e6)
        return {}

    train(task, feed, [Phase(steps)], seed=0, loop=settings, validate=note)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    bare(10, given.workers), ours(10, given.workers)  # warm-up
    ratios = []
    for pair in range(given.pairs):
        plain, engine = bare(given.steps, given.workers), ours(given.steps, given.workers)
        ratios.append(engine / plain)
        print(f"pair {pair + 1}: bare {plain:7.1f}/s  ours {engine:7.1f}/s  ratio {ratios[-1]:.3f}", flush=True)
    print(f"ratio ours/bare: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    memory = memory_over_steps(8 * given.steps)
    print("resident memory after each eighth of a run, MB:", " ".join(f"{value:.0f}" for value in memory))


if __name__ == "__main__":
    main()
