"""Security: no file is ever run, no name in a recipe is imported, and nothing is written but where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trust import ROOT
from trust.code_audit import audit, audited_files
from trust.command_lines import command_lines
from trust.dotted_names import TEXTS, imported_by_recipes
from trust.escapes import ESCAPES, followed
from trust.planted import PLANTED
from trust.proof import Proof
from trust.traps import sprung
from trust.written import SECRETS, Place, holding, run_watched

__all__ = ["prove", "prove_writes"]

PART = "security"


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Try every reader with files that want to run, every text of a recipe, and every command."""
    yield _prove_audit()
    yield _tried("files with code in them, read", PLANTED, sprung, folder / "planted")
    yield _prove_recipes(folder / "recipes", TEXTS if full else TEXTS[1:2])
    yield _tried("names, links and archive members that lead out", ESCAPES, followed, folder / "escapes")
    place = Place(folder / "watched")
    commands = command_lines(place.inputs, place.out)
    if full:
        miniature = str(place.inputs / "faces.yaml")
        commands.insert(4, ["run", miniature, "--out", str(place.out / "two"), "--processes", "2"])
    yield from prove_writes(commands, place, each_alone=full)


def _prove_audit() -> Proof:
    files = audited_files()
    found = [line for path in files for line in audit(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))]
    return Proof(PART, "source files searched for calls that run what a file says", len(files), tuple(found))


def _tried(what: str, attempts: Sequence[Any], attempt: Callable[[Any, Path], tuple[str, ...]], folder: Path) -> Proof:
    failures: list[str] = []
    for number, entry in enumerate(attempts):
        failures += attempt(entry, folder / str(number))
    return Proof(PART, what, len(attempts), tuple(failures), "none run" if attempt is sprung else "none followed")


def _prove_recipes(folder: Path, texts: Sequence[str]) -> Proof:
    found = imported_by_recipes(folder, texts)
    failures = (*(f"{name} was imported" for name in found["imported"]), *found["wrong"])
    said = f"none imported; {found['begun']} were accepted as a name or a path, and loaded"
    return Proof(PART, "recipes with an importable name in place of a text or a key", found["tried"], failures, said)


def prove_writes(commands: Sequence[Sequence[str]], place: Place, *, each_alone: bool = False) -> Iterator[Proof]:
    """Run commands, and judge where they wrote and what."""
    watched = run_watched(commands, place, each_alone=each_alone)
    failed = tuple(
        f"auxtasks {' '.join(command)}: exit code {code}: {watched.said[-300:]}"
        for command, code in zip(commands, watched.codes, strict=False)
        if code
    )
    said = (
        f"{len(commands)} commands; outside --out and the cache: {len(watched.escaped)}; temporary and gone again: "
        f"{watched.temporary}; other programs: {', '.join(watched.programs) or 'none'}"
    )
    yield Proof(PART, "changes on the disk watched", watched.inside, failed + watched.escaped, said)
    files, told = holding(place.out, list(SECRETS.values()))
    failures = tuple(f"{path} holds a secret of the environment" for path in told)
    yield Proof(PART, "files of runs searched for secrets of the environment", files, failures)
