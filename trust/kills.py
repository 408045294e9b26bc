"""Real commands that are killed, stopped and resumed, each held against the same command that was left alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import yaml

from auxtasks.checkpoint import read_json
from auxtasks.seeding import generator
from trust.miniature import FACES, TEXTS, write_lines
from trust.proof import Proof
from trust.restartable import PATIENCE, Command, family, wait_until
from trust.resumes import differences, outcome
from trust.suites import count

__all__ = ["KINDS", "Kind", "Tally", "judge_writing", "prove", "try_kind"]

PART: Final = "kills"
# What else breaks a run, each in tests of its own.
SUITES: Final = (
    (
        "SIGTERM and SIGINT at chosen moments: a checkpoint, a word, exit code 143 or 130",
        ("tests/auxtasks/test_stopping.py", "tests/recipes/test_stops.py"),
    ),
    (
        "checkpoints that are damaged or half written: told, and the one before is used",
        ("tests/auxtasks/test_store.py", "tests/auxtasks/test_checkpoint.py"),
    ),
    ("a disk that is full or read-only: told, and the last checkpoint is whole", ("tests/recipes/test_full_disk.py",)),
    ("two runs on one folder: the second is refused", ("tests/auxtasks/test_run_lock.py",)),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to run.

    Attributes:
        words: for the table.
        recipe: what is run.
        steps: in all; so many that a command lives long enough to be killed several times.
        workers: of the loader.
        processes: that train.
        streamed: whether a corpus is read as a stream.
    """

    words: str
    recipe: Mapping[str, Any]
    steps: int
    workers: int = 0
    processes: int = 1
    streamed: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    "one": Kind("one process", FACES, steps=600),
    "worker": Kind("a process and its loader worker", FACES, steps=600, workers=1),
    "stream": Kind("a stream and its loader worker", TEXTS, steps=600, workers=1, streamed=True),
    "two": Kind("two processes, one or their launcher killed", FACES, steps=300, processes=2),
}


@dataclasses.dataclass
class Tally:
    """What was done to a kind of run.

    Attributes:
        done: how often it was killed, or stopped.
        in_writing: how many of the kills left a checkpoint half written.
        gone_on: how often it was seen to go on from a checkpoint, when it was begun again.
        runs: how many were ended, and compared.
        failures: what was not as it should be, a line each.
    """

    done: int = 0
    in_writing: int = 0
    gone_on: int = 0
    runs: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


def write_recipe(kind: Kind, folder: Path) -> Path:
    """Write a kind's recipe, and the corpus that it reads, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = dict(kind.recipe)
    if kind.streamed:
        recipe["data"] = {"path": str(write_lines(folder / "corpus.txt")), "streaming": True,
                          "validation": {"path": str(write_lines(folder / "held_out.txt"))}}  # fmt: skip
    recipe["training"] = {"steps": kind.steps, "batch_size": 8, "workers": kind.workers, "log_every": 1,
                          "checkpoint_every": 2, "device": "cpu"}  # fmt: skip
    place = folder / "recipe.yaml"
    place.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return place


def make_command(kind: Kind, folder: Path, place: Path) -> Command:
    """Return the command of a kind of run into a folder."""
    recipe = write_recipe(kind, place)
    verb = ["run", recipe, "--processes", kind.processes] if kind.processes > 1 else ["pretrain", recipe]
    environment = {"OMP_NUM_THREADS": "1", "AUXTASKS_CACHE": str(place / "cache")}
    return Command(tuple(map(str, [*verb, "--out", folder])), folder, environment)


@dataclasses.dataclass(frozen=True)
class _Before:
    """What a command finds when it begins: its log, as `Command.logged` has it, and the step of its checkpoint."""

    logged: tuple[int, int]
    kept_step: int


def _before(command: Command) -> _Before:
    return _Before(command.logged, command.kept_step)


def _trains(command: Command, process: ForkServerProcess, before: _Before, tally: Tally) -> bool:
    """Wait until a command has logged a step beyond what it found when it began; return whether it came to that.

    What begins anew each time ends with the same bits as what goes on: that it does go on is looked at here.
    """
    if not wait_until(lambda: command.logged[1] > 0 and command.logged != before.logged, process):
        return False
    rewound = command.logged
    if not wait_until(lambda: command.logged[1] > rewound[1], process):
        return False
    if before.kept_step:
        tally.gone_on += 1
        if command.last_step <= before.kept_step:
            tally.failures.append(f"it began anew, though it had a checkpoint of step {before.kept_step}")
    return True


def _ended_by_itself(command: Command, process: ForkServerProcess, tally: Tally) -> bool:
    """Note a command that ended before it could be disturbed, unless it had done its work; it was not disturbed."""
    if process.exitcode != 0:
        tally.failures.append(f"it ended by itself with {process.exitcode}: {command.last_words()}")
    return False


def kill_once(command: Command, rng: np.random.Generator, tally: Tally, *, one_of_several: bool = False) -> bool:
    """Begin a command and kill it, half of the times while it writes a checkpoint; return whether it was killed.

    Args:
        command: of the run.
        rng: draws the moment.
        tally: what is counted in.
        one_of_several: kill any of its processes, which the others may not outlive; else the command's own.
    """
    aimed = rng.random() < 0.5
    before = _before(command)
    with command.begun() as process:
        if not _trains(command, process, before, tally):
            return _ended_by_itself(command, process, tally)
        members = family(process)
        hit = members[int(rng.integers(len(members)))] if one_of_several and members else process
        wait_until(lambda: False, process, float(rng.uniform(0, 0.6)))
        if aimed:
            wait_until(lambda: command.is_writing, process)
        with contextlib.suppress(psutil.NoSuchProcess):
            hit.kill()
        process.join(PATIENCE)
        _, alive = psutil.wait_procs(members[1:], timeout=60)
        if alive:
            tally.failures.append(f"{len(alive)} processes live on 60 s after {hit.pid} was killed")
    if process.exitcode == 0:
        return False  # it had done its work
    tally.done += 1
    tally.in_writing += command.is_writing
    return True


def stop_once(command: Command, rng: np.random.Generator, tally: Tally, number: signal.Signals) -> bool:
    """Begin a command and ask it to stop; return whether it was stopped."""
    before = _before(command)
    with command.begun() as process:
        if not _trains(command, process, before, tally):
            return _ended_by_itself(command, process, tally)
        wait_until(lambda: False, process, float(rng.uniform(0, 0.6)))
        members = family(process)
        os.kill(process.pid, number)
        process.join(PATIENCE)
        _, alive = psutil.wait_procs(members[1:], timeout=60)
    code = process.exitcode
    if code == 0:
        return False
    tally.done += 1
    words = command.last_words()
    kept = sorted(path.name for path in (command.folder / "checkpoints").glob("step-*"))
    said = f"stopped by {number.name} after step {int(kept[-1].removeprefix('step-')) if kept else '?'}: kept in "
    if code != 128 + number or said not in words or "Traceback" in words or alive:
        tally.failures.append(f"{number.name}: exit code {code}, {len(alive)} left alive, it said: {words}")
    return True


def _left(folder: Path) -> dict[str, Any]:
    """Return all that a run left behind but times; with what should not be there."""
    stray = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    report = read_json(folder / "pretrain.json")
    return {**outcome(folder, report["metrics"]), "notes": report["notes"], "stray files": stray}


def try_kind(
    kind: Kind, folder: Path, *, times: int, disturb: Callable[[Command, np.random.Generator, Tally], bool], seed: int
) -> Tally:
    """Disturb runs of a kind so many times, resume after each, and compare each run's end with an undisturbed one.

    Args:
        kind: of run.
        folder: an empty one.
        times: how often.
        disturb: begins a command and does it harm; says whether it was in time.
        seed: of the moments.
    """
    tally, rng = Tally(), generator(seed, "kills")
    expected = make_command(kind, folder / "undisturbed", folder)
    if problem := expected.finish():
        tally.failures.append(f"undisturbed: {problem}")
        return tally
    while tally.done < times and not tally.failures:
        command = make_command(kind, folder / f"disturbed-{tally.runs}", folder)
        while tally.done < times and not tally.failures and disturb(command, rng, tally):
            pass
        problem = command.finish()
        tally.runs += 1
        different = differences(_left(command.folder), _left(expected.folder)) if problem is None else [problem]
        if different:
            tally.failures.append(f"run {tally.runs}, {tally.done} so far: {len(different)} differ: {different[:3]}")
    return tally


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Kill commands at random moments and while they write checkpoints, stop them politely, compare how they end.

    Args:
        folder: an empty one.
        full: 56 kills, 12 of each signal, and `SUITES`; else 5 kills.
    """
    kills = {"one": 20, "worker": 12, "stream": 12, "two": 12} if full else {"one": 5}
    jobs: list[tuple[str, str, int, Callable[..., bool]]] = [
        (name, f"SIGKILL: {KINDS[name].words}", times, _killing(name)) for name, times in kills.items()
    ]
    for number in (signal.SIGTERM, signal.SIGINT) if full else ():
        jobs += [(name, f"{number.name}: {KINDS[name].words}", 6, _stopping(number)) for name in ("worker", "two")]
    tallies = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [
            (tried, pool.submit(try_kind, KINDS[name], folder / str(place), times=times, disturb=disturb, seed=place))
            for place, (name, tried, times, disturb) in enumerate(jobs)
        ]
        for tried, job in waiting:
            tallies.append(job.result())
            yield _judged(tried, tallies[-1])
    if full:
        yield judge_writing(tallies)
        for tried, tests in SUITES:
            yield count(PART, tried, tests)


def _judged(tried: str, tally: Tally) -> Proof:
    runs = f"{tally.runs} run{'s' if tally.runs > 1 else ''} ended with the same bits"
    result = "" if tally.failures else f"{runs}; seen to go on from a checkpoint {tally.gone_on} times"
    return Proof(PART, tried, tally.done, tuple(tally.failures), result)


def judge_writing(tallies: Sequence[Tally]) -> Proof:
    """Count the kills that left a checkpoint half written; without any, that case was never tried."""
    times = sum(tally.in_writing for tally in tallies)
    failures = () if times else (f"none of {sum(tally.done for tally in tallies)} kills and signals did",)
    return Proof(PART, "of these, kills that left a checkpoint half written", times, failures)


def _killing(name: str) -> Callable[[Command, np.random.Generator, Tally], bool]:
    several = KINDS[name].processes > 1
    return lambda command, rng, tally: kill_once(command, rng, tally, one_of_several=several)


def _stopping(number: signal.Signals) -> Callable[[Command, np.random.Generator, Tally], bool]:
    return lambda command, rng, tally: stop_once(command, rng, tally, number)
