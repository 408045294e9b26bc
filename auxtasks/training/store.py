"""The checkpoints of one run: which is the newest whole one, which may go, and what they hold beside the weights."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auxtasks import checkpoint
from auxtasks.data.loaders import Shard
from auxtasks.errors import CheckpointError

__all__ = ["CheckpointStore", "write_training"]

_NAME = re.compile(r"step-(\d{8})")


class CheckpointStore:
    """Folders ``step-00000500`` below one folder; each is whole, since it was renamed into place.

    Args:
        folder: ``checkpoints`` of a run folder.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        if not self._folder.is_dir():
            return []
        matches = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)

    def place(self, step: int) -> Path:
        """Return the folder of a step."""
        return self._folder / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """Return the newest checkpoint's folder."""
        steps = self.steps()
        return self.place(steps[-1]) if steps else None

    def write(self, step: int, fill: Callable[[Path], None]) -> Path:
        """Write a checkpoint as a whole, then drop all but the newest ones."""
        with checkpoint.atomic_folder(self.place(step)) as temporary:
            fill(temporary)
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.place(old))
        return self.place(step)

    @staticmethod
    def check_identity(found: Mapping[str, Any], asked: Mapping[str, Any], place: Path) -> None:
        """Refuse to resume with other settings.

        Raises:
            CheckpointError: lists what differs, with both values.
        """
        names = sorted({*found, *asked})
        differing = [f"{name}: {found.get(name)!r} there, {asked.get(name)!r} asked" for name in names
                     if found.get(name) != asked.get(name)]  # fmt: skip
        if differing:
            raise CheckpointError(
                f"{place} was written with other settings: {'; '.join(differing)}. Resume with the same settings, or "
                "choose another output folder."
            )

    @staticmethod
    def position_of(shard: Shard, positions: Sequence[Mapping[str, Any]], place: Path) -> Mapping[str, Any]:
        """Return where one process stood in a stream.

        Raises:
            CheckpointError: another number of processes wrote the checkpoint.
        """
        if len(positions) != shard.processes:
            raise CheckpointError(
                f"{place} was written by {len(positions)} processes, each in a place of its own of the stream; now "
                f"there are {shard.processes}. Resume with {len(positions)}, or choose another output folder."
            )
        return positions[shard.rank]


def write_training(
    training: Path,
    state: Mapping[str, Any],
    *,
    optimizer: Mapping[str, Tensor],
    positions: Sequence[Mapping[str, Any]] | None,
) -> None:
    """Write what a run needs to go on, beside the weights, into a checkpoint's ``training`` folder.

    Args:
        training: the folder.
        state: JSON values; a metric that is not finite is left out, since JSON has none.
        optimizer: its state, by parameter name.
        positions: where each process stood in a stream; None where the step says it.
    """
    checkpoint.write_tensors(training / "optimizer.safetensors", optimizer)
    finite = {name: value for name, value in state["metrics"].items() if math.isfinite(value)}
    entries = {
        "schema": checkpoint.SCHEMA_VERSION,
        **state,
        "metrics": finite,
        "versions": {"torch": torch.__version__},
    }
    checkpoint.write_json(training / "state.json", entries)
    if positions is not None:
        checkpoint.write_json(training / "stream.json", {"schema": checkpoint.SCHEMA_VERSION, "processes": positions})
