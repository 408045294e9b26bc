"""A training run on a stream of numbered lines that tells what it read, how long that took, and what memory it held.

``python -m trust.streamed_run CORPUS FACTS --folder FOLDER --steps 5000 [--stop-after 3]``
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks.checkpoint import read_tensors, write_tensors
from auxtasks.data.stream_sources import open_stream
from auxtasks.data.streams import StreamFeed
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase
from trust.activation_memory import peak_bytes, resident_bytes

__all__ = ["BATCH", "EnoughError", "Leak", "Meter", "arguments", "run"]

# What a run keeps, as none must: its corpus before the first batch, or each row that it reads.
Leak: TypeAlias = Literal["corpus", "rows"]

BATCH: Final = 2000
BYTES: Final = 16  # of a line, that the network sees
PARTS: Final = 10  # of a run, after each of which its memory is noted


class _Lines:
    """A block of lines, as `StreamFeed` reads them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.rows = np.arange(len(texts))
        self.left_out: Mapping[str, int] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def record(self, index: int) -> dict[str, Any]:
        return {"text": self.texts[index]}

    def token_lengths(self) -> NDArray[np.int64]:
        return np.fromiter(map(len, self.texts), np.int64, len(self.texts))


def item(record: Mapping[str, Any], _: np.random.Generator) -> tuple[bytes, int]:
    """Return the first bytes of a line, and its number, which it begins with."""
    text: str = record["text"]
    return text[:BYTES].encode(), int(text[: text.index(" ")])


def collate(items: Sequence[tuple[bytes, int]]) -> tuple[Tensor, Tensor]:
    """Return the bytes (B, 16) as numbers from 0 to 1, and two sums: of the lines' numbers, and of their squares."""
    seen = np.frombuffer(b"".join(seen for seen, _ in items), np.uint8).reshape(len(items), BYTES)
    sums = sum(number for _, number in items), sum(number**2 for _, number in items)
    return torch.from_numpy(seen.astype(np.float32) / 255), torch.tensor(sums)


class Reading(Objective):
    """Learns the mean of the bytes, which a linear layer can; counts what it is given.

    Attributes:
        losses: the mean loss of each batch so far.
        sums: of the lines' numbers, and of their squares.
        told: called at the end of each batch.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(BYTES, 1)
        self.losses: list[float] = []
        self.sums = [0, 0]
        self.told = told

    def forward(self, batch: tuple[Tensor, Tensor]) -> StepOutput:
        """Compute the squared error of the mean of the bytes."""
        seen, sums = batch
        loss = (self.layer(seen).squeeze(1) - seen.mean(dim=1)).square().sum()
        self.losses.append(float(loss.detach()) / len(seen))
        self.sums = [total + int(more) for total, more in zip(self.sums, sums, strict=True)]
        self.told()
        return StepOutput(loss, torch.tensor(float(len(seen))), {})

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:  # noqa: ARG002 - nothing is said of it
        """Write the layer."""
        write_tensors(folder / "layer.safetensors", dict(self.layer.state_dict()))

    def restore(self, folder: Path) -> None:
        """Read the layer."""
        self.layer.load_state_dict(read_tensors(folder / "layer.safetensors"))


class EnoughError(Exception):
    """Ends a run after the batches that were asked for."""


@dataclasses.dataclass
class Meter:
    """Notes, batch by batch, how long a run took, and what its process and those below it hold.

    Resident memory, and not what a process shares with no other: that moves by a hundred megabytes when someone else
    begins to use the same libraries.

    Attributes:
        steps: of the whole run.
        stop_after: so many batches; None goes on to the end.
        batches: so far.
        first_batch: when it was done, see `elapsed`.
        memory: bytes held, after each tenth of the steps and where the run is stopped.
        peak: the sum of the most that each process has held.
        processes: how many there were when memory was last noted.
    """

    steps: int
    stop_after: int | None
    batches: int = 0
    first_batch: tuple[float, float] | None = None
    memory: list[int] = dataclasses.field(default_factory=list)
    peak: int = 0
    processes: int = 0

    def __post_init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def elapsed(self) -> tuple[float, float]:
        """Return the seconds since the beginning: on the clock, and of the processor for this process."""
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]

    def __call__(self) -> None:
        """Note what there is to note after a batch.

        Raises:
            EnoughError: it was the last one that was asked for.
        """
        self.batches += 1
        if self.first_batch is None:
            self.first_batch = self.elapsed()
        enough = self.batches == self.stop_after
        if enough or self.batches % (self.steps // PARTS) == 0:
            this = psutil.Process()
            members = [this.pid, *(child.pid for child in this.children(recursive=True))]
            self.memory.append(sum(map(resident_bytes, members)))
            self.peak, self.processes = sum(map(peak_bytes, members)), len(members)
        if enough:
            raise EnoughError

    def facts(self) -> dict[str, Any]:
        """Return what was noted."""
        return {
            "seconds": self.elapsed()[0],
            "first_batch_seconds": self.first_batch,
            "memory": self.memory,
            "peak": self.peak,
            "processes": self.processes,
        }


def run(corpus: Path, folder: Path, steps: int, stop_after: int | None, *, leaks: Leak | None = None) -> dict[str, Any]:
    """Train, and return what was seen on the way.

    Args:
        corpus: parquet files of numbered lines.
        folder: the run's; it goes on where it stands.
        steps: of the whole run.
        stop_after: so many batches; None goes on to the end.
        leaks: what is kept, as a run must not: for the test of what notices that.
    """
    rows_read = 0
    kept: list[str] = []

    def keep(rows: Iterable[Mapping[str, Any]]) -> None:
        kept.extend(row["text"] * 20 for row in rows)

    def read_block(rows: Sequence[Mapping[str, Any]], _: bool) -> _Lines:
        nonlocal rows_read
        rows_read += len(rows)
        if leaks == "rows":
            keep(rows)
        return _Lines([row["text"] for row in rows])

    stream = open_stream(corpus)
    if leaks == "corpus":
        keep(stream)
    feed = StreamFeed(stream, read_block, item, collate, BATCH, seed=0)
    meter = Meter(steps, stop_after)
    objective = Reading(meter)
    loop = LoopSettings(
        log_every=steps // PARTS, checkpoint_every=steps // 4, keep_checkpoints=4, device="cpu", show_progress=False
    )
    read_before = psutil.Process().io_counters().read_chars
    with contextlib.suppress(EnoughError):
        train(objective, feed, [Phase(steps)], seed=0, optimizer=OptimizerSettings(warmup_steps=0), loop=loop,
              folder=folder)  # fmt: skip
    return {
        **meter.facts(),
        "rows_read": rows_read,
        "bytes_read": psutil.Process().io_counters().read_chars - read_before,
        "sums": objective.sums,
        "losses": objective.losses,
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return what a run on a stream is asked for on its command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("facts", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--stop-after", type=int, default=None)
    return parser


def main() -> None:
    """Run, and write what was seen into a file."""
    parser = arguments(__doc__)
    parser.add_argument("--leaks", choices=get_args(Leak), default=None)
    parser.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args()
    found = run(asked.corpus, asked.folder, asked.steps, asked.stop_after, leaks=asked.leaks)
    asked.facts.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
