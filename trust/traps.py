"""Traps: what makes a marker when its code runs, the files that hold one, and whether a reader springs it."""

from __future__ import annotations

import dataclasses
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auxtasks.errors import AuxtasksError

__all__ = ["Planted", "Trap", "sprung"]


@dataclasses.dataclass(frozen=True)
class Trap:
    """Makes its marker when it is unpickled, or when its code, command or YAML is run.

    Attributes:
        marker: a folder that is not there.
    """

    marker: Path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)

    @property
    def code(self) -> str:
        """As a Python program."""
        return f"import os\nos.mkdir({str(self.marker)!r})\n"

    def pickled(self, protocol: int = 2) -> bytes:
        """As a pickle."""
        return pickle.dumps({"weight": self}, protocol=protocol)


@dataclasses.dataclass(frozen=True)
class Planted:
    """A file with a trap.

    Attributes:
        name: what it is, in words.
        plant: writes it into a folder; returns what is read.
        read: reads it with our reader.
        says: a part of the error that must come; None where reading ends well, without running anything.
    """

    name: str
    plant: Callable[[Path, Trap], Any]
    read: Callable[[Any], object]
    says: str | None


def sprung(planted: Planted, folder: Path) -> tuple[str, ...]:
    """Let a planted file be read; return what went wrong, nothing if it was refused as it should be."""
    trap = Trap(folder / "marker")
    place = folder / "planted"
    place.mkdir(parents=True)
    prepared = planted.plant(place, trap)
    if trap.marker.exists():
        return (f"{planted.name}: the trap went off while it was laid",)
    said = _answer(planted, prepared)
    failures = [f"{planted.name}: its code was run"] if trap.marker.exists() else []
    if planted.says is None and said is not None:
        failures.append(f"{planted.name}: refused, though it can be read without running anything: {said}")
    if planted.says is not None and planted.says not in (said or ""):
        failures.append(f"{planted.name}: expected a refusal that says {planted.says!r}, found {said!r}")
    return tuple(failures)


def _answer(planted: Planted, prepared: Any) -> str | None:
    """Return the message of the error of ours that a reader raises, None if it raises none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            planted.read(prepared)
    except AuxtasksError as error:
        return str(error)
    return None
