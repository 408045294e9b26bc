"""Real commands that are killed, stopped and resumed, each held against the same command that was left alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
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
from trust.miniature import FACES, LAYERS, TEXTS, write_lines
from trust.proof import Proof
from trust.restartable import PATIENCE, Command, family, wait_until
from trust.resumes import differences, outcome
from trust.suites import count

__all__ = ["KINDS", "Kind", "Tally", "judge_writing", "prove", "try_kind"]

PART: Final = "kills"
# What else breaks a run.
SUITES: Final = (
    (
        "tests of SIGTERM and SIGINT at chosen moments: a checkpoint, a word, exit code 143 or 130",
        ("tests/auxtasks/test_stopping.py", "tests/recipes/test_stops.py"),
    ),
    (
        "tests of checkpoints, also damaged or half written: told, and the one before is used",
        ("tests/auxtasks/test_store.py", "tests/auxtasks/test_checkpoint.py"),
    ),
    (
        "tests of disks that are full or read-only: told, and the last checkpoint is whole",
        ("tests/recipes/test_full_disk.py",),
    ),
    ("tests of two runs on one folder: the second is refused", ("tests/auxtasks/test_run_lock.py",)),
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
        parts: see `Command`.
        begins_in: the seconds of its beginning; on a fast machine it trains before they are over.
    """

    words: str
    recipe: Mapping[str, Any]
    steps: int
    workers: int = 0
    processes: int = 1
    streamed: bool = False
    parts: tuple[str, ...] = ("",)
    begins_in: float = 3


KINDS: Final[Mapping[str, Kind]] = {
    "one": Kind("one process", FACES, steps=600),
    # So long that it outlives 50 kills: one run that is killed again and again, not several a few times.
    "long": Kind("one process, a long run", FACES, steps=3000),
    "worker": Kind("a process with a loader worker", FACES, steps=600, workers=1),
    "stream": Kind("a stream that a loader worker reads", TEXTS, steps=600, workers=1, streamed=True),
    "layers": Kind(
        "layer-wise, one layer after the other", LAYERS, steps=300, parts=("layers/hidden1", "layers/hidden2")
    ),
    "two": Kind("two processes and their launcher", FACES, steps=300, processes=2, begins_in=8),
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


# Does a command of a kind harm; says whether it was in time.
Disturbance = Callable[[Kind, Command, np.random.Generator, Tally], bool]


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
    return Command(tuple(map(str, [*verb, "--out", folder])), folder, environment, kind.parts)


@dataclasses.dataclass(frozen=True)
class _Before:
    """What a command finds when it begins: its log, as `Command.logged` has it, and the step of its checkpoint."""

    logged: tuple[tuple[int, ...], int]
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


def _wait(process: ForkServerProcess, most: float, rng: np.random.Generator) -> None:
    """Let a process run on for a random time."""
    wait_until(lambda: False, process, float(rng.uniform(0, most)))


def _ended_by_itself(command: Command, process: ForkServerProcess, tally: Tally) -> bool:
    """Note a command that ended before it could be disturbed, unless it had done its work; it was not disturbed."""
    if process.exitcode != 0:
        tally.failures.append(f"it ended by itself with {process.exitcode}: {command.last_words()}")
    return False


def kill_once(kind: Kind, command: Command, rng: np.random.Generator, tally: Tally) -> bool:
    """Begin a command and kill one of its processes; return whether it was killed.

    The moment is at random in its first seconds, while it trains, or while it writes a checkpoint. What of the command
    is not killed has to end by itself, and without a traceback.

    Args:
        kind: of run.
        command: of the run.
        rng: draws the moment, and which process.
        tally: what is counted in.
    """
    moment = rng.choice(["beginning", "training", "writing"])
    before, printed = _before(command), command.printed
    with command.begun() as process:
        if moment == "beginning":
            _wait(process, kind.begins_in, rng)
        elif not _trains(command, process, before, tally):
            return _ended_by_itself(command, process, tally)
        else:
            _wait(process, 0.6, rng)
        if moment == "writing":
            wait_until(lambda: command.is_writing, process)
        members = family(process)
        hit = members[int(rng.integers(len(members)))] if members else process
        with contextlib.suppress(psutil.NoSuchProcess):
            hit.kill()
        process.join(PATIENCE)
        _, alive = psutil.wait_procs(members[1:], timeout=60)
        if alive:
            tally.failures.append(f"{len(alive)} processes live on 60 s after {hit.pid} was killed")
    if process.exitcode == 0:
        return False  # it had done its work
    if "Traceback (most recent call last)" in (said := command.words_since(printed)):
        tally.failures.append(f"a traceback, when a process of it was killed while {moment}: {said[-600:]}")
    tally.done += 1
    tally.in_writing += moment != "beginning" and command.is_writing
    return True


def damage_once(kind: Kind, command: Command, rng: np.random.Generator, tally: Tally) -> bool:
    """Kill a command, damage its newest checkpoint, and see the same command use the one before; whether it came to it.

    Args:
        kind, command, rng, tally: see `kill_once`.
    """
    kill = Tally()
    killed = kill_once(kind, command, rng, kill)
    tally.failures += kill.failures
    several = [store for store in command.stores if len(store.steps()) > 1]
    if not killed or not several:
        return killed
    *_, last_but_one, last = several[-1].steps()
    newest = several[-1].place(last)
    harm = _damage(newest, rng)
    before, printed = _before(command), command.printed
    with command.begun() as process:
        is_from = dataclasses.replace(before, kept_step=before.kept_step - (last - last_but_one))
        went_on = _trains(command, process, is_from, tally)
    said = command.words_since(printed)
    if not went_on or f"checkpoint {newest} is damaged, and now called" not in said.replace("\n", " "):
        tally.failures.append(f"{harm}: it went on: {went_on}; it said: {said[-600:]}")
    tally.done += 1
    return True


def _damage(checkpoint: Path, rng: np.random.Generator) -> str:
    """Flip a bit of one of a checkpoint's files, cut it short, or remove it; return what was done."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    hit, how = files[int(rng.integers(len(files)))], rng.choice(["flipped", "cut", "removed"])
    content = bytearray(hit.read_bytes())
    place = int(rng.integers(len(content)))
    content[place] ^= 1 << int(rng.integers(8))
    hit.unlink()
    if how != "removed":
        hit.write_bytes(content if how == "flipped" else content[:place])
    return f"{hit.relative_to(checkpoint)} {how} at byte {place}"


# Steps that may be done between the look at the log and the end of the step in which the signal is heard.
_SOON = 60


def stop_once(kind: Kind, command: Command, rng: np.random.Generator, tally: Tally, *, number: signal.Signals) -> bool:
    """Begin a command and ask it to stop; return whether it was stopped.

    Args:
        kind, command, rng, tally: see `kill_once`.
        number: the signal.
    """
    before = _before(command)
    with command.begun() as process:
        if not _trains(command, process, before, tally):
            return _ended_by_itself(command, process, tally)
        _wait(process, 0.6, rng)
        members, asked_at = family(process), command.last_step
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(process.pid).send_signal(number)
        process.join(PATIENCE)
        _, alive = psutil.wait_procs(members[1:], timeout=60)
    code = process.exitcode
    if code == 0:
        if asked_at < kind.steps - _SOON:
            tally.failures.append(f"{number.name} at step {asked_at} of {kind.steps} was not heard")
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


def try_kind(kind: Kind, folder: Path, *, times: int, disturb: Disturbance, seed: int) -> Tally:
    """Disturb runs of a kind so many times, resume after each, and compare each run's end with an undisturbed one.

    Args:
        kind: of run.
        folder: an empty one.
        times: how often.
        disturb: does a command harm, and says whether it was in time, and the command is to be given again.
        seed: of the moments.
    """
    tally, rng = Tally(), generator(seed, "kills")
    expected = make_command(kind, folder / "undisturbed", folder)
    if problem := expected.finish():
        tally.failures.append(f"undisturbed: {problem}")
        return tally
    while tally.done < times and not tally.failures:
        command = make_command(kind, folder / f"disturbed-{tally.runs}", folder)
        while tally.done < times and not tally.failures and disturb(kind, command, rng, tally):
            pass
        problem = command.finish()
        tally.runs += 1
        different = differences(_left(command.folder), _left(expected.folder)) if problem is None else [problem]
        if different:
            tally.failures.append(f"run {tally.runs}, {tally.done} so far: {len(different)} differ: {different[:3]}")
    return tally


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Kill commands at random moments, damage what they keep, stop them politely, and compare how they end.

    Args:
        folder: an empty one.
        full: 98 kills, 50 of them of one run, 16 damaged checkpoints, 12 of each signal, and `SUITES`; else 5 kills.
    """
    kills = {"long": 50, "worker": 12, "stream": 12, "layers": 12, "two": 12} if full else {"one": 5}
    damages = {"one": 4, "stream": 4, "layers": 4, "two": 4} if full else {}
    signals = [signal.SIGTERM, signal.SIGINT] if full else []
    jobs: list[tuple[str, str, int, Disturbance]] = [
        *((name, "SIGKILL", times, kill_once) for name, times in kills.items()),
        *((name, "newest checkpoint damaged", times, damage_once) for name, times in damages.items()),
        *((name, number.name, 6, functools.partial(stop_once, number=number))
          for number in signals for name in ("worker", "two")),
    ]  # fmt: skip
    tallies = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [
            (
                name,
                harm,
                pool.submit(try_kind, KINDS[name], folder / str(place), times=times, disturb=disturb, seed=place),
            )
            for place, (name, harm, times, disturb) in enumerate(jobs)
        ]
        for name, harm, job in waiting:
            tally = tallies[harm, name] = job.result()
            if name == "long" and tally.runs > 1:
                tally.failures.append(f"these were {tally.runs} runs, not one that was killed again and again")
            yield _judged(f"{harm}: {KINDS[name].words}", tally)
    if full:
        yield judge_writing([tally for (harm, _), tally in tallies.items() if harm == "SIGKILL"])
        for tried, tests in SUITES:
            yield count(PART, tried, tests)


def _judged(tried: str, tally: Tally) -> Proof:
    runs = f"{tally.runs} run{'s' if tally.runs > 1 else ''} ended with the same bits"
    result = "" if tally.failures else f"{runs}; seen to go on from a checkpoint {tally.gone_on} times"
    return Proof(PART, tried, tally.done, tuple(tally.failures), result)


def judge_writing(tallies: Sequence[Tally]) -> Proof:
    """Count the kills that left a checkpoint half written; without any, that case was never tried."""
    times = sum(tally.in_writing for tally in tallies)
    failures = () if times else (f"none of {sum(tally.done for tally in tallies)} kills did",)
    return Proof(PART, "of these, kills that left a checkpoint half written", times, failures)
