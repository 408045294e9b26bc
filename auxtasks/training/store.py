"""The checkpoints of one run: which is the newest whole one, which may go, and what they hold beside the weights."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auxtasks import checkpoint
from auxtasks.data.loaders import Shard
from auxtasks.errors import CheckpointError
from auxtasks.training.file_list import find_damage, write_file_list

__all__ = ["CheckpointStore", "read_sums", "write_training"]

logger = logging.getLogger("auxtasks")

_SUMS = "since_last_log.safetensors"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointStore:
    """Folders ``step-00000500`` below one folder, each renamed into place as a whole, with a list of its files.

    Args:
        folder: ``checkpoints`` of a run folder.
        keep: how many of the newest stay.

    Attributes:
        folder: as said.

    Example:
        >>> import tempfile
        >>> store = CheckpointStore(Path(tempfile.mkdtemp()), keep=2)
        >>> for step in (100, 200, 300):
        ...     place = store.write(step, lambda folder: checkpoint.write_json(folder / "state.json", {"loss": 0.5}))
        >>> store.steps(), place.name
        ([200, 300], 'step-00000300')
        >>> _ = (store.place(300) / "state.json").write_text("cut sho")
        >>> store.is_whole(300), store.newest_whole().name, store.steps()
        (False, 'step-00000200', [200])
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        matches = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)

    def place(self, step: int) -> Path:
        """Return the folder of a step."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """Return the newest checkpoint's folder."""
        steps = self.steps()
        return self.place(steps[-1]) if steps else None

    def is_whole(self, step: int) -> bool:
        """Whether a step has a checkpoint, and that is what was written."""
        return step in self.steps() and find_damage(self.place(step)) is None

    def newest_whole(self) -> Path | None:
        """Return the newest checkpoint that is what was written; damaged ones that are newer are set aside, and told.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged; names each, and leaves them where they are.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            problem = find_damage(self.place(step))
            if problem is None:
                for other, what in damaged.items():
                    aside = self._set_aside(other)
                    logger.warning(
                        "checkpoint %s is damaged, and now called %s: going on from %s. %s",
                        self.place(other), aside.name, self.place(step), what,
                    )  # fmt: skip
                return self.place(step)
            damaged[step] = problem
        if damaged:
            raise CheckpointError(
                f"no whole checkpoint is left in {self.folder}: {' '.join(damaged.values())} Put a copy in its place, "
                "or begin anew by removing them, or in another output folder."
            )
        return None

    def _set_aside(self, step: int) -> Path:
        """Rename a checkpoint, so that it is no longer one, and nothing is lost."""
        name = f"damaged-{self.place(step).name}"
        again = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        aside = next(place for ending in again if not (place := self.folder / f"{name}{ending}").exists())
        return self.place(step).rename(aside)

    def write(self, step: int, fill: Callable[[Path], None]) -> Path:
        """Write a checkpoint as a whole, with a list of its files, then drop all but the newest ones."""
        with checkpoint.atomic_folder(self.place(step)) as temporary:
            fill(temporary)
            write_file_list(temporary)
        for old in self.steps()[: -self._keep]:
            self._drop(old)
        return self.place(step)

    def _drop(self, step: int) -> None:
        """Remove a checkpoint; the newest one is safe, so what cannot be removed is no reason to end."""
        try:
            checkpoint.discard(self.place(step))
        except OSError as error:
            reason = error.strerror or error
            logger.warning("the old checkpoint %s could not be removed: %s.", self.place(step), reason)

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
    sums: Sequence[Mapping[str, Tensor]],
) -> None:
    """Write what a run needs to go on, beside the weights, into a checkpoint's ``training`` folder.

    Args:
        training: the folder.
        state: JSON values; a metric that is not finite is left out, since JSON has none.
        optimizer: its state, by parameter name.
        positions: where each process stood in a stream; None where the step says it.
        sums: what each process has summed up for the next log line; see `Window`.
    """
    checkpoint.write_tensors(training / "optimizer.safetensors", optimizer)
    summed = {f"{rank}|{name}": value for rank, had in enumerate(sums) for name, value in had.items()}
    if summed:
        checkpoint.write_tensors(training / _SUMS, summed)
    finite = {name: value for name, value in state["metrics"].items() if math.isfinite(value)}
    entries = {
        "schema": checkpoint.SCHEMA_VERSION,
        **state,
        "metrics": finite,
        **({"sums": _SUMS} if summed else {}),
        "versions": {"torch": torch.__version__},
    }
    checkpoint.write_json(training / "state.json", entries)
    if positions is not None:
        checkpoint.write_json(training / "stream.json", {"schema": checkpoint.SCHEMA_VERSION, "processes": positions})


def read_sums(training: Path, state: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Return what each process had summed up for the next log line.

    Raises:
        CheckpointError: the file is missing or damaged; names it.

    Example:
        >>> import tempfile
        >>> training = Path(tempfile.mkdtemp())
        >>> sums = [{"weight": torch.tensor(8.0)}, {"weight": torch.tensor(4.0)}]
        >>> state = {"processes": 2, "metrics": {"loss": 0.5, "margin": math.nan}}
        >>> write_training(training, state, optimizer={}, positions=None, sums=sums)
        >>> state = checkpoint.read_json(training / "state.json")
        >>> state["metrics"], [had["weight"].item() for had in read_sums(training, state)]
        ({'loss': 0.5}, [8.0, 4.0])
    """
    sums: list[dict[str, Tensor]] = [{} for _ in range(state["processes"])]
    if state.get("sums"):
        for key, value in checkpoint.read_tensors(training / state["sums"]).items():
            rank, _, name = key.partition("|")
            sums[int(rank)][name] = value
    return sums
