"""Runs that are stopped at random moments and resumed, each held against the same run that was never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.backbones import Backbone
from auxtasks.seeding import generator
from auxtasks.training.file_list import FILE_LIST
from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from trust.proof import Proof
from trust.small_runs import BEST, RUNS, Settings
from trust.suites import count

__all__ = ["History", "StoppedError", "differences", "draw_settings", "outcome", "prove", "stop_and_resume", "stop_at"]

PART: Final = "resumes"
# Of each row, the tests that try what it says, and no others of their files.
_MATRIX: Final = "tests/auxtasks/test_resume_matrix.py"
_SETTINGS: Final = "tests/auxtasks/test_resume_settings.py"
_TUNING: Final = "tests/transfer/test_finetune_resume.py"
SUITES: Final = (
    ("stopped in every step, with every setting, and resumed", (f"{_MATRIX}::test_stopped_in_any_step_and_resumed",)),
    (
        "other settings, data and arguments: refused and listed",
        (
            f"{_MATRIX}::test_settings_of_the_loop_that_decide_are_refused_and_listed",
            f"{_MATRIX}::test_settings_that_choose_the_best_are_refused_and_listed",
            f"{_MATRIX}::test_every_setting_of_the_optimizer_is_refused_and_listed",
            f"{_MATRIX}::test_other_phases_are_refused_and_listed",
            f"{_SETTINGS}::test_other_arguments_of_pretraining_are_refused_and_listed",
            f"{_SETTINGS}::test_other_arguments_of_layer_wise_pretraining_are_refused_and_listed",
            f"{_TUNING}::test_other_arguments_are_refused_and_listed",
            f"{_TUNING}::test_other_tuning_is_refused_and_listed",
        ),
    ),
    (
        "every setting of every task, another value: another run",
        (f"{_SETTINGS}::test_every_setting_of_a_task_is_part_of_what_it_is",),
    ),
    (
        "what decides nothing, another when a run goes on: the same bits; nothing is read twice",
        (
            f"{_MATRIX}::test_what_decides_nothing_may_be_another_when_a_run_goes_on",
            f"{_MATRIX}::test_the_number_of_workers_may_be_another_when_a_run_goes_on",
            f"{_MATRIX}::test_a_resumed_run_reads_what_its_steps_need_and_no_more",
            f"{_MATRIX}::test_beginning_at_any_step_reads_and_plans_that_step_alone",
        ),
    ),
)
TIMED: Final = {"samples_per_second", "data_wait_share"}
# A batch of these is never cut into micro-batches: they compare its items, or move a chain with every pass.
UNCUT: Final = {"face pairs", "layers, Boltzmann machines"}
WORKERS: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(RUNS, (0, 1, 3)),
    "sentences, streamed": (0, 1),
    # They read rows, not items, in the training process itself.
    "layers, autoencoders": (0,),
    "layers, Boltzmann machines": (0,),
    "fine-tuning in stages": (0,),
}


class StoppedError(Exception):
    """Stands for whatever ends a process."""


@contextlib.contextmanager
def stop_at(moment: int | None) -> Iterator[list[int]]:
    """Raise in a pass through an objective or a backbone, in training or validation; count them.

    Args:
        moment: the pass in which to stop, counted from 1; None only counts.

    Yields:
        A list with the number of passes so far.
    """
    passes = [0]

    def count(module: nn.Module, inputs: Any) -> None:
        del inputs
        if isinstance(module, Objective | Backbone):
            passes[0] += 1
            if passes[0] == moment:
                raise StoppedError(f"in pass {moment}")

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


@contextlib.contextmanager
def _workers_seen() -> Iterator[set[int]]:
    """Yield how many loader workers there are, as each pass finds them."""
    seen: set[int] = set()
    look = nn.modules.module.register_module_forward_pre_hook
    handle = look(lambda *_: seen.add(len(multiprocessing.active_children())))
    try:
        yield seen
    finally:
        handle.remove()


def outcome(folder: Path, facts: Mapping[str, float]) -> dict[str, Any]:
    """Return all that a run left behind, but for times: every file of its newest checkpoints, its log, its metrics."""
    found: dict[str, Any] = {"metrics": dict(facts)}
    for store in sorted(folder.rglob("checkpoints")):
        newest = max(path for path in store.iterdir() if path.name.startswith("step-"))
        for path in sorted(newest.rglob("*")):
            if path.is_file() and path.name != FILE_LIST:  # a list of digests, also of what holds times
                found[str(path.relative_to(folder))] = _content(path)
    for path in sorted(folder.rglob("metrics.jsonl")):
        lines = [_untimed(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        found.update({f"{path.relative_to(folder)}:{number}": line for number, line in enumerate(lines, start=1)})
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return {name: _digest(tensor) for name, tensor in checkpoint.read_tensors(path).items()}
    text = path.read_text(encoding="utf-8")
    return _untimed(json.loads(text)) if path.suffix == ".json" else text


def _digest(tensor: torch.Tensor) -> str:
    return checkpoint.tensors_digest({"": tensor})


def _untimed(value: Any) -> Any:
    """Leave out what depends on the clock, at any depth."""
    if isinstance(value, Mapping):
        return {name: _untimed(part) for name, part in value.items() if name not in TIMED}
    return value


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs, or is in one of the two alone; within a file of tensors, theirs."""
    names = sorted({*found, *expected})
    different: list[str] = []
    for name in names:
        one, other = found.get(name), expected.get(name)
        if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):  # NaN equals itself
            continue
        if name.endswith(".safetensors") and isinstance(one, dict) and isinstance(other, dict):
            different += [
                f"{name}: {tensor}" for tensor in sorted({*one, *other}) if one.get(tensor) != other.get(tensor)
            ]
        else:
            different.append(name)
    return different


def draw_settings(name: str, rng: np.random.Generator) -> Settings:
    """Draw what the loop and the optimizer of a small run are asked for."""
    loop = LoopSettings(
        accumulation=1 if name in UNCUT else int(rng.choice([1, 2, 4])),
        mixed_precision=("no", "bf16")[rng.integers(2)],
        log_every=int(rng.integers(1, 5)),
        validate_every=int(rng.integers(1, 7)),
        checkpoint_every=int(rng.integers(1, 9)),
        show_progress=False,
    )
    if rng.random() < 0.5:
        metric, best_is = BEST[name]
        patience = None if rng.random() < 0.5 else int(rng.integers(1, 4))
        loop = dataclasses.replace(loop, keep_best=metric, best_is=best_is, patience=patience)
    elif rng.random() < 0.5:
        loop = dataclasses.replace(loop, validate_every=0)
    optimizer = OptimizerSettings(
        name=("adamw", "sgd")[rng.integers(2)],
        learning_rate=float(rng.choice([0.001, 0.01])),
        schedule=("cosine", "linear", "constant")[rng.integers(3)],
        warmup_steps=int(rng.choice([0, 2])),
        clip_norm=None if rng.random() < 0.3 else 5.0,
    )
    return Settings(loop, optimizer, seed=int(rng.integers(100)))


def _vary(name: str, settings: Settings, rng: np.random.Generator) -> Settings:
    """Change what decides nothing: how many workers read, and how often a checkpoint is written and kept."""
    loop = dataclasses.replace(
        settings.loop, checkpoint_every=int(rng.integers(1, 9)), keep_checkpoints=int(rng.integers(1, 4))
    )
    workers = int(rng.choice(WORKERS[name])) if rng.random() < 0.3 else 0
    return dataclasses.replace(settings, loop=loop, workers=workers)


@dataclasses.dataclass(frozen=True)
class History:
    """A run that was stopped, to its end.

    Attributes:
        left: what it left behind.
        resumed: how often it was stopped, and begun again.
        from_checkpoint: how often of these a checkpoint was there.
        began_anew: whether it computed all of it in the end, though a checkpoint was there.
    """

    left: dict[str, Any]
    resumed: int
    from_checkpoint: int
    began_anew: bool


def stop_and_resume(
    name: str, settings: Settings, folder: Path, rng: np.random.Generator, *, passes: int, stops: int
) -> History:
    """Run, stop at random moments, resume each time.

    Args:
        name: of a small run.
        settings: what decides what is computed; the rest is drawn anew each time.
        folder: of the run.
        rng: draws the moments.
        passes: of the run that is not stopped.
        stops: at most so many.
    """
    from_checkpoint = 0
    for resumed in range(stops + 1):
        goes_on = any(folder.rglob("step-*"))
        from_checkpoint += goes_on
        moment = int(rng.integers(1, passes + 1)) if resumed < stops else None
        with contextlib.suppress(StoppedError), stop_at(moment) as done:
            facts = RUNS[name](folder, _vary(name, settings, rng))
            # What begins anew each time ends with the same bits as well; it is no resume.
            return History(outcome(folder, facts), resumed, from_checkpoint, goes_on and done[0] >= passes)
    raise AssertionError("the last of them is not stopped")


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Try random combinations of task, precision, accumulation, schedule, optimizer, choice of the best, and moments.

    Args:
        folder: an empty one for the runs.
        full: over 300 resumes, and `SUITES`; else about a dozen resumes.
    """
    if full:
        for tried, tests in SUITES:
            yield count(PART, tried, tests)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create 3 worker processes")
        yield _prove_workers(folder / "workers", full=full)
        gc.collect()
        gc.freeze()  # half of the time of a small run goes into collecting what was imported
        try:
            yield _prove_resumes(folder / "resumes", runs=99 if full else 9, histories=2 if full else 1, stops=2)
        finally:
            gc.unfreeze()


def _prove_resumes(folder: Path, *, runs: int, histories: int, stops: int) -> Proof:
    """Do runs in turn, and each again with other moments, `histories` times, stopped up to `stops` times."""
    failures: list[str] = []
    resumes = from_checkpoint = 0
    for number in range(runs):
        name, rng = list(RUNS)[number % len(RUNS)], generator(0, "resumes", index=number)
        settings, place = draw_settings(name, rng), folder / str(number)
        with stop_at(None) as passes:
            straight = outcome(place / "straight", RUNS[name](place / "straight", settings))
        for history in range(histories):
            again = place / f"stopped-{history}"
            found = stop_and_resume(name, settings, again, rng, passes=passes[0], stops=stops)
            resumes += found.resumed
            from_checkpoint += found.from_checkpoint
            what = f"{name}, combination {number}, resumed {found.resumed} times"
            failures += _told(what, found.left, straight)
            failures += [f"{what}: it began anew beside its checkpoints"] if found.began_anew else []
        shutil.rmtree(place)
    tried = f"runs stopped at random moments and resumed, in {runs} combinations of task and settings"
    result = f"{from_checkpoint} of them from a checkpoint, the others stopped before the first"
    return Proof(PART, tried, resumes, tuple(failures), result if failures else f"every bit equal; {result}")


def _prove_workers(folder: Path, *, full: bool) -> Proof:
    """Run each task that has loader workers with every number of them; unless in full, without and with the most."""
    failures: list[str] = []
    times = 0
    for name, numbers in WORKERS.items():
        if len(numbers) == 1:
            continue
        ends = {}
        for workers in numbers if full else (0, numbers[-1]):
            place = folder / f"{name}-{workers}"
            with _workers_seen() as seen:
                ends[workers] = outcome(place, RUNS[name](place, Settings(workers=workers)))
            if max(seen, default=0) != workers:
                failures.append(f"{name}: {max(seen, default=0)} workers were seen, not {workers}")
        for workers, found in list(ends.items())[1:]:
            times += 1
            failures += _told(f"{name}, {workers} workers", found, ends[0])
    return Proof(PART, "runs with 1 or 3 loader workers against the same without", times, tuple(failures))


def _told(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    different = differences(found, expected)
    return [f"{what}: {len(different)} differ: {', '.join(different[:3])}"] if different else []
