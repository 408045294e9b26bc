"""What whole commands write, and where: every change on the disk is watched in the processes that make it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trust import ROOT

__all__ = ["SECRETS", "Place", "Watched", "holding", "run_watched"]

PROGRAM_EVENTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system")
NOWHERE = "/dev/null"
# Of a checkout: what tools keep there, while commands are watched as at any time.
KEPT_BY_TOOLS = (".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__")

# Variables of the environment that hold what nobody may find in a folder that is handed on.
SECRETS: Mapping[str, str] = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-planted",
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
    "WANDB_API_KEY": "planted0123456789abcdef0123456789abcdef",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """The folders that a watched command knows of, all below one."""

    folder: Path

    @property
    def home(self) -> Path:
        """Of the user."""
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        """For temporary files."""
        return self.folder / "temporary"

    @property
    def work(self) -> Path:
        """Where the commands are called."""
        return self.folder / "work"

    @property
    def inputs(self) -> Path:
        """Data and recipes."""
        return self.folder / "inputs"

    @property
    def out(self) -> Path:
        """What --out is below."""
        return self.folder / "out"

    @property
    def cache(self) -> Path:
        """What AUXTASKS_CACHE names."""
        return self.folder / "cache"

    @property
    def writes(self) -> Path:
        """Where each change is written down."""
        return self.folder / "writes.jsonl"

    @property
    def commands(self) -> Path:
        """Where a process reads what it is to do."""
        return self.folder / "commands.json"

    @property
    def checkout(self) -> Path:
        """Of the code that runs."""
        return ROOT

    def environment(self) -> dict[str, str]:
        """Return the environment of a watched process: nothing of this one's but where programs are."""
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.temporary),
            "AUXTASKS_CACHE": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": threads,
            "PYTHONPATH": f"{ROOT / 'trust' / 'watching'}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1",
            "TRUST_WRITES_LOG": str(self.writes), **SECRETS,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Watched:
    """What watched commands did.

    Attributes:
        codes: their exit codes.
        said: what they wrote on stderr.
        inside: changes below --out and the cache folder.
        temporary: changes among the temporary files, of what is gone again.
        escaped: changes anywhere else, and what appeared there, a line each.
        programs: that they started.
    """

    codes: tuple[int, ...]
    said: str
    inside: int
    temporary: int
    escaped: tuple[str, ...]
    programs: tuple[str, ...]


def run_watched(commands: Sequence[Sequence[str]], place: Place, *, each_alone: bool = False) -> Watched:
    """Run commands and say where they wrote.

    What Python code writes is known change by change. What compiled code does (safetensors, Arrow) is found by
    comparing the folders before and after; of the checkout, where somebody may be at work, only what is new there.

    Args:
        commands: arguments of ``auxtasks``, one after the other.
        place: its folders `inputs` and below `out` are known to the commands.
        each_alone: start a process for each, instead of one for all.
    """
    for folder in (place.home, place.temporary, place.work):
        folder.mkdir(parents=True, exist_ok=True)
    before, names_before = _listed(place), _names(place)
    codes, said = [], []
    for part in [[command] for command in commands] if each_alone else [commands]:
        part_codes, part_said = _run(part, place)
        codes += part_codes
        said.append(part_said)
    events = [json.loads(line) for line in place.writes.read_text(encoding="utf-8").splitlines()]
    changes = [(event, Path(path)) for event, path in events if event not in PROGRAM_EVENTS and path != NOWHERE]
    inside = [path for _, path in changes if path.is_relative_to(place.out) or path.is_relative_to(place.cache)]
    # Exactly what vanished again: a temporary file that stays is found below.
    temporary = [path for _, path in changes if path.is_relative_to(place.temporary) and not os.path.lexists(path)]
    allowed = {*inside, *temporary}
    escaped = [f"{event} {path}" for event, path in changes if path not in allowed]
    escaped += [f"another folder or file: {entry}" for entry in sorted(before ^ _listed(place))]
    escaped += [f"a new folder or file: {path}" for path in sorted(_names(place) - names_before)]
    return Watched(
        codes=tuple(codes),
        said="\n".join(said),
        inside=len(inside),
        temporary=len(temporary),
        escaped=tuple(dict.fromkeys(escaped)),
        programs=tuple(sorted({Path(path).name for event, path in events if event in PROGRAM_EVENTS})),
    )


def holding(folder: Path, words: Sequence[str]) -> tuple[int, list[Path]]:
    """Return how many files are below a folder, and which of them hold one of some words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    sought = [word.encode() for word in words]
    return len(files), [path for path in files if any(word in path.read_bytes() for word in sought)]


def _run(commands: Sequence[Sequence[str]], place: Place) -> tuple[list[int], str]:
    asked, answered = place.commands, place.out / "codes.json"
    place.out.mkdir(parents=True, exist_ok=True)
    asked.write_text(json.dumps(commands), encoding="utf-8")
    answered.unlink(missing_ok=True)
    ended = subprocess.run(
        [sys.executable, "-m", "trust.command_lines", str(asked), str(answered)],
        cwd=place.work, env=place.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not answered.is_file():
        return [ended.returncode or -1], ended.stderr
    codes: list[int] = json.loads(answered.read_text(encoding="utf-8"))
    return codes, ended.stderr


def _listed(place: Place) -> set[tuple[str, int, int]]:
    """Return what is where nothing may change: paths, sizes and times of change."""
    found = set()
    for folder in (place.home, place.temporary, place.work, place.inputs):
        for path in folder.rglob("*"):
            facts = path.lstat()
            found.add((str(path), facts.st_size if path.is_file() else 0, facts.st_mtime_ns))
    return found


def _names(place: Place) -> set[Path]:
    """Return what is beside the folders of a command, and in the checkout, but for what belongs there."""
    found = set(place.folder.iterdir()) - {place.out, place.cache, place.writes, place.commands}
    for folder, folders, files in os.walk(place.checkout):
        folders[:] = [name for name in folders if name not in KEPT_BY_TOOLS]
        found |= {Path(folder, name) for name in (*folders, *files)}
    return found
