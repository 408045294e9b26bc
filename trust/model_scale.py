"""Networks that do not fit: stages that are computed again, and weights that are dealt out to processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch.nn.modules.module import register_module_forward_pre_hook

from trust import sharded_runs
from trust.launched import ALLOWED, launch, python
from trust.proof import Proof
from trust.resumes import differences, outcome
from trust.small_runs import RUNS, Settings, SmallRun
from trust.suites import count

__all__ = ["compare_recomputed", "judge_shares", "measure_memory", "prove"]

PART: Final = "scale: networks"
# Layers trained one by one have no stages below them to compute again, and a tuned network is small.
WITH_STAGES: Final = tuple(name for name in RUNS if not name.startswith(("layers", "fine-tuning")))
CUT: Final = tuple(name for name in WITH_STAGES if name != "face pairs")  # whose batches may be cut
MEMORY: Final = {False: ("vit_tiny_patch16_224", 8), True: ("vit_small_patch16_224", 16)}
CASES_A_LAUNCH: Final = 4
SUITES: Final = (
    (
        "stages of each kind of network are computed twice, those below which all is frozen once: numbers of weights",
        "tests/auxtasks/test_gradient_checkpointing.py",
    ),
    (
        "what a launcher asks Accelerate for and no run gets is refused before anything is done",
        "tests/auxtasks/test_accelerate_asks.py",
    ),
)


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Yield what was tried; see `trust.proof`."""
    runs = WITH_STAGES if full else ("face pairs", "ranking of sentences")
    yield compare_recomputed(folder / "again", runs, half_precision=full, accumulation=2 if full else 1)
    network, pictures = MEMORY[full]
    yield measure_memory(network, pictures)
    cases = tuple(sharded_runs.CASES) if full else sharded_runs.SMALL
    found: dict[str, Any] = {}
    for start in range(0, len(cases), CASES_A_LAUNCH):
        here = cases[start : start + CASES_A_LAUNCH]
        found |= run_shares(folder / f"shares-{start}", here)
    yield from judge_shares(found)
    for tried, tests in SUITES if full else ():
        yield count(PART, tried, [tests])


def compare_recomputed(folder: Path, runs: Sequence[str], *, half_precision: bool, accumulation: int) -> Proof:
    """Hold runs whose stages are computed again against runs that keep them: all their files, to the bit."""
    changes: list[Mapping[str, Any]] = [{}]
    if half_precision:
        changes.append({"mixed_precision": "bf16"})
    if accumulation > 1:
        changes.append({"accumulation": accumulation})
    tried = [(name, change) for name in runs for change in changes if name in CUT or "accumulation" not in change]
    failures, times = [], []
    for place, (name, change) in enumerate(tried):
        with _passes() as seen:
            kept = _left_by(RUNS[name], folder / f"{place}-kept", change)
        with _passes() as seen_again:
            again = _left_by(RUNS[name], folder / f"{place}-again", {**change, "gradient_checkpointing": True})
        if differing := differences(again, kept):
            failures.append(f"{name} with {change}: {len(differing)} differ, such as {differing[0]}")
        times.append(seen_again[0] / seen[0])
        if times[-1] <= 1:
            failures.append(f"{name} with {change}: nothing was computed again")
    claim = "activations computed again in the backward pass: weights, optimizer, checkpoints and logs to the bit"
    result = f"{min(times):.1f} to {max(times):.1f} times as many passes through modules"
    return Proof(PART, claim, len(tried), tuple(failures), result)


@contextlib.contextmanager
def _passes() -> Iterator[list[int]]:
    """Count forward passes of modules, of all that there are."""
    passes = [0]

    def count_one(*_: Any) -> None:
        passes[0] += 1

    handle = register_module_forward_pre_hook(count_one)
    try:
        yield passes
    finally:
        handle.remove()


def _left_by(run: SmallRun, folder: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    settings = Settings()
    return outcome(
        folder, run(folder, dataclasses.replace(settings, loop=dataclasses.replace(settings.loop, **changes)))
    )


def measure_memory(network: str, pictures: int) -> Proof:
    """Measure what one step takes beyond weights and gradients, in a process of its own for each of both ways."""
    kept, again = (_step(network, pictures, extra) for extra in ((), ("--again",)))
    failures = []
    if kept["gradients"] != again["gradients"]:
        failures.append("its gradients are others")
    if again["bytes"] > 0.6 * kept["bytes"]:
        failures.append(f"it took {again['bytes']:,} bytes, {kept['bytes']:,} without")
    result = (
        f"{kept['bytes'] / 1e6:,.0f} MB kept, {again['bytes'] / 1e6:,.0f} MB computed again, "
        f"in {kept['seconds']:.1f} and {again['seconds']:.1f} s"
    )
    return Proof(PART, f"peak memory of a step of {network} with {pictures} pictures", 2, tuple(failures), result)


def _step(network: str, pictures: int, extra: Sequence[str]) -> dict[str, Any]:
    printed = python("-m", "trust.activation_memory", network, "--pictures", str(pictures), *extra)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def run_shares(folder: Path, cases: Sequence[str], script: Path = Path(sharded_runs.__file__)) -> dict[str, Any]:
    """Run cases of `trust.sharded_runs` in two processes; return what both of them found, by case."""
    launch(script, folder, 2, cases)
    first, second = (json.loads((folder / f"apart-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    return {name: {"processes": (first[name], second[name])} for name in cases}


def judge_shares(found: Mapping[str, Any]) -> Iterator[Proof]:
    """Judge what `run_shares` found."""
    ways = {"full": "dealt out", "none, then full": "whole, then dealt out", "full, then none": "dealt out, then whole"}
    for way, words in ways.items():
        apart = [
            (distance, f"{name}: {tensor}")
            for name, case in found.items()
            for facts in case["processes"]
            for tensor, distance in facts["apart"][way].items()
        ]
        failures = [f"{where} is {distance:.1e} off" for distance, where in apart if not distance <= ALLOWED]
        failures += [*_other_ways(found, way), *(_idle(found) if way == "full" else [])]
        claim = f"two processes, weights {words}: those of the same two processes without sharding"
        result = f"largest relative difference {max(apart)[0]:.1e} (allowed {ALLOWED:.0e})" if apart else ""
        yield Proof(PART, claim, len(found), tuple(failures), result)


def _other_ways(found: Mapping[str, Any], way: str) -> list[str]:
    """Return what did not run the way that it was to: dealt out or whole, from its beginning or from its middle.

    What begins anew, or goes on as it was, ends with the same weights.
    """
    failures = []
    for name, case in found.items():
        for facts in case["processes"]:
            held, whole = facts["held"][way], facts["held"]["none"]
            # A number or two more than half: what is odd, or a single number, cannot be halved.
            if not (0 < held <= 0.6 * whole if way.endswith("full") else held == whole):
                failures.append(f"{name}: a process held {held} of {whole} numbers")
            steps, all_steps = facts["steps"][way], facts["steps"]["none"]
            if steps != (all_steps // 2 if "then" in way else all_steps):
                failures.append(f"{name}: {steps} of {all_steps} steps were done")
    return failures


def _idle(found: Mapping[str, Any]) -> list[str]:
    """Return what did not train, or wrote other files than it would have written whole."""
    failures = []
    for name, case in found.items():
        for facts in case["processes"]:
            if not facts["moved"]:
                failures.append(f"{name}: nothing trained")
            if not facts["same files"]:
                failures.append(f"{name}: its run folder holds other files")
    return failures
