"""Scale of data: ten million rows of a stream, and a million pictures in folders, on one small machine."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trust.counted_opens import opened_while_indexing
from trust.launched import python
from trust.proof import Proof
from trust.streamed_run import BATCH

__all__ = ["Corpus", "prove", "prove_pictures", "prove_stream"]

PART = "scale: data"
WORDS = [f"w{number}" for number in range(5000)]
# A run that kept its rows would hold some hundred bytes more for each.
MOST_BYTES_A_ROW = 8
NOISE_BYTES = 40 << 20  # what memory allocators keep or give back as they please
AFTER_RESUME = 3  # batches that are compared
MOST_SECONDS_MORE = 5  # until the first batch of a resumed run


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Numbered lines in parquet files.

    Attributes:
        folder: where they are.
        rows: all together.
        files: how many.
    """

    folder: Path
    rows: int
    files: int

    def write(self) -> None:
        """Write lines such as ``00000017 w3 w88 w1 w12``."""
        self.folder.mkdir(parents=True)
        words, each = pa.array(WORDS), self.rows // self.files
        for part in range(self.files):
            rng = np.random.default_rng(part)
            numbers = pc.utf8_lpad(pa.array(range(part * each, (part + 1) * each)).cast(pa.string()), 8, "0")
            drawn = [words.take(pa.array(rng.integers(len(WORDS), size=each))) for _ in range(4)]
            lines = pc.binary_join_element_wise(numbers, *drawn, " ")
            pq.write_table(pa.table({"text": lines}), self.folder / f"part-{part:03d}.parquet", row_group_size=50_000)

    @property
    def steps(self) -> int:
        """Optimizer steps that read every row once."""
        return self.rows // BATCH


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Try ten million rows and a million pictures, or in a small try a fiftieth of both."""
    corpus = Corpus(folder / "corpus", 10_000_000 if full else 200_000, 40 if full else 8)
    corpus.write()
    yield from prove_stream(corpus, folder / "runs")
    shutil.rmtree(corpus.folder)
    yield prove_pictures(folder / "pictures", 1_000_000 if full else 20_000, 1000 if full else 20)


def prove_stream(corpus: Corpus, place: Path, *, leaks: bool = False) -> Iterator[Proof]:
    """Train on every row of a corpus, then resume in its middle."""
    place.mkdir()
    facts = _run(corpus, place / "straight", *(["--leaks"] if leaks else []))
    yield Proof(PART, "rows of a stream trained on, each once", corpus.rows, *_each_row_once(corpus, facts))
    yield Proof(PART, "memory while training on a stream", len(facts["memory"]), *_flat_memory(corpus, facts))
    half = corpus.steps // 2
    newest = f"checkpoints/step-{half:08d}"
    shutil.copytree(place / "straight" / newest, place / "resumed" / newest)
    begun = _run(corpus, place / "begun", "--stop-after", str(AFTER_RESUME))
    resumed = _run(corpus, place / "resumed", "--stop-after", str(AFTER_RESUME))
    yield Proof(PART, "resumed in the middle of a stream, to the bit", AFTER_RESUME,
                *_no_replay(corpus, facts["losses"][half : half + AFTER_RESUME], begun, resumed))  # fmt: skip


def _run(corpus: Corpus, folder: Path, *arguments: str) -> dict[str, Any]:
    """Train in a process of its own, whose memory is its own too; return what it tells."""
    facts = folder.with_suffix(".json")
    command = ["-m", "trust.streamed_run", str(corpus.folder), str(folder), str(facts), "--steps",
               str(corpus.steps), *arguments]  # fmt: skip
    python(*command, variables={"AUXTASKS_CACHE": str(folder)})
    found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return found


def _each_row_once(corpus: Corpus, facts: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    # Were rows left out for others that come twice, their numbers or the squares would add up to something else.
    last_row = corpus.rows - 1
    wanted = [last_row * corpus.rows // 2, last_row * corpus.rows * (2 * last_row + 1) // 6]
    failures = []
    if facts["sums"] != wanted or len(facts["losses"]) != corpus.steps:
        failures.append(
            f"{len(facts['losses'])} batches whose lines' numbers and squares add up to {facts['sums']}, not {wanted}"
        )
    first, last = facts["losses"][0], facts["losses"][-1]
    if not last < first / 10:
        failures.append(f"the loss was {first:.2e} in the first batch and {last:.2e} in the last: nothing was learnt")
    return tuple(failures), f"{corpus.rows / facts['seconds']:,.0f} rows a second, loss {first:.1e} to {last:.1e}"


def _flat_memory(corpus: Corpus, facts: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Judge what a run held after a tenth of its rows, and at its end."""
    early, late = facts["memory"][0], facts["memory"][-1]
    rows = corpus.rows - corpus.rows // len(facts["memory"])
    allowed = MOST_BYTES_A_ROW * rows + NOISE_BYTES
    said = (
        f"{early / 1e6:,.0f} MB after {corpus.rows // len(facts['memory']):,} rows, {late / 1e6:,.0f} MB after "
        f"{corpus.rows:,}: {(late - early) / 1e6:+.0f} MB, {(late - early) / rows:+.1f} bytes a row "
        f"(allowed {allowed / 1e6:+.0f} MB)"
    )
    return (said,) if late - early > allowed else (), said


def _no_replay(
    corpus: Corpus, straight: list[float], begun: dict[str, Any], resumed: dict[str, Any]
) -> tuple[tuple[str, ...], str]:
    """Judge a resumed run by its losses, by the rows it read, and by how long its first batch took."""
    failures = []
    if resumed["losses"] != straight:
        failures.append(f"the losses are {resumed['losses']}, those of the run that was not stopped {straight}")
    most = begun["rows_read"] + 2 * BATCH
    if resumed["rows_read"] > most:
        failures.append(
            f"{resumed['rows_read']:,} rows were read after the resume, {begun['rows_read']:,} at the start"
        )
    said = (
        f"first batch at row {corpus.rows // 2:,} after {resumed['first_batch_seconds'][0]:.1f} s and "
        f"{resumed['rows_read']:,} rows, at row 0 after {begun['first_batch_seconds'][0]:.1f} s and "
        f"{begun['rows_read']:,} rows"
    )
    # Of the processor: on the clock it may be another program's.
    if resumed["first_batch_seconds"][1] > begun["first_batch_seconds"][1] + MOST_SECONDS_MORE:
        failures.append(said)
    return tuple(failures), said


def prove_pictures(place: Path, pictures: int, folders: int) -> Proof:
    """List pictures in folders, and count which of them are opened."""
    _write_pictures(place, pictures, folders)
    opened, indexed, seconds = opened_while_indexing(place)
    failures = [f"{path} was opened" for path in opened[:3]]
    if indexed != (pictures, pictures):
        failures.append(f"index_folder and load_source found {indexed} of {pictures:,} pictures")
    if max(seconds) > 60:
        failures.append(f"{max(seconds):.0f} s is more than a minute")
    shutil.rmtree(place)
    said = f"index_folder {seconds[0]:.1f} s, load_source {seconds[1]:.1f} s, {len(opened)} files opened"
    return Proof(PART, f"pictures in {folders:,} folders indexed, none opened", pictures, tuple(failures), said)


def _write_pictures(place: Path, pictures: int, folders: int) -> None:
    """Make empty files: whoever opens one to look fails, or is found out."""
    for folder in range(folders):
        inside = place / f"person{folder}"
        inside.mkdir(parents=True)
        for number in range(pictures // folders):
            (inside / f"{number}.png").touch()
