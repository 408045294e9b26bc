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

from trust import streamed_task
from trust.counted_opens import opened_while_indexing
from trust.launched import python
from trust.miniature import write_lines
from trust.proof import Proof
from trust.streamed_run import BATCH, Leak

__all__ = ["Corpus", "flat_memory", "prove", "prove_pictures", "prove_stream", "prove_task"]

PART = "scale: data"
WORDS = [f"w{number}" for number in range(5000)]
SHORT = 3  # batches of a run that is held against a whole one, or against one that goes on
MOST_BYTES_A_ROW = 1  # one number for each would take eight
NOISE_BYTES = 16 << 20  # what a process's memory allocators keep or give back as they please
# At its peak a process holds more than in a short run on the first file alone: the rest of that noise. An order of ten
# million rows, made before the first batch, would take 80 MB.
MOST_BYTES_MORE = 40 << 20
TASK_FILES = 4
STOPPED = ("--stop-after", str(SHORT))
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
    def first_file(self) -> Path:
        """The first of its files; all are about as long."""
        return self.folder / "part-000.parquet"

    @property
    def steps(self) -> int:
        """Optimizer steps that read every row once."""
        return self.rows // BATCH


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Try ten million rows, a task on 200,000 sentences and a million pictures, or in a small try far less of each."""
    corpus = Corpus(folder / "corpus", 10_000_000 if full else 200_000, 40 if full else 8)
    corpus.write()
    yield from prove_stream(corpus, folder / "runs")
    shutil.rmtree(corpus.folder)
    yield prove_task(folder / "task", 200_000 if full else 20_000)
    yield prove_pictures(folder / "pictures", 1_000_000 if full else 20_000, 1000 if full else 20)


def prove_stream(corpus: Corpus, place: Path, *, leaks: Leak | None = None) -> Iterator[Proof]:
    """Train on every row of a corpus, then resume in its middle; with `leaks` as it must not, for a test."""
    place.mkdir()
    kept = ["--leaks", leaks] if leaks else []
    facts = _read(corpus, place / "straight", *kept)
    short = _read(corpus, place / "short", *STOPPED, *kept, source=corpus.first_file)
    yield Proof(PART, "rows of a stream trained on, each once", corpus.rows, *_each_row_once(corpus, facts))
    yield Proof(
        PART, "memory while training on a stream", len(facts["memory"]), *flat_memory(corpus.rows, facts, short)
    )
    half = corpus.steps // 2
    straight = facts["losses"][half : half + SHORT]
    newest = f"checkpoints/step-{half:08d}"
    shutil.copytree(place / "straight" / newest, place / "resumed" / newest)
    # The reader decodes the file that it stands in from its start, and may begin the next; the checkpoint is read for
    # its digests, and for what it says.
    read_again = [corpus.first_file, *(place / "resumed" / newest).rglob("*")]
    begun, resumed = (_read(corpus, place / name, *STOPPED) for name in ("begun", "resumed"))
    yield Proof(PART, "resumed in the middle of a stream, to the bit", SHORT,
                *_no_replay(corpus, 2 * sum(map(_size, read_again)), straight, begun, resumed))  # fmt: skip


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read(corpus: Corpus, folder: Path, *arguments: str, source: Path | None = None) -> dict[str, Any]:
    asked = ["--folder", str(folder), "--steps", str(corpus.steps), *arguments]
    return _run("trust.streamed_run", source or corpus.folder, folder, *asked)


def _run(module: str, source: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """Train in a process of its own, whose memory is its own too; return what it tells."""
    facts = folder.with_suffix(".json")
    python("-m", module, str(source), str(facts), *arguments, variables={"AUXTASKS_CACHE": str(folder)})
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


def flat_memory(rows: int, facts: dict[str, Any], short: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Judge what a run held after a tenth of its rows and from there on, and at most, against a short run."""
    first, later = facts["memory"][0], max(facts["memory"][1:])
    early = rows // len(facts["memory"])
    growth, more = later - first, facts["peak"] - short["peak"]
    allowed = MOST_BYTES_A_ROW * (rows - early) + NOISE_BYTES * facts["processes"]
    more_allowed = MOST_BYTES_MORE * facts["processes"]
    said = (
        f"{first / 1e6:,.0f} MB after {early:,} rows, later at most {growth / 1e6:+.0f} MB, "
        f"{growth / (rows - early):+.1f} bytes a row (allowed {allowed / 1e6:+.0f} MB); "
        f"peak {facts['peak'] / 1e6:,.0f} MB, {more / 1e6:+.0f} MB against {SHORT} batches of a single file "
        f"(allowed {more_allowed / 1e6:+.0f} MB)"
    )
    return (said,) if growth > allowed or more > more_allowed else (), said


def _no_replay(
    corpus: Corpus, more_bytes: int, straight: list[float], begun: dict[str, Any], resumed: dict[str, Any]
) -> tuple[tuple[str, ...], str]:
    """Judge a resumed run by its losses, by the rows and bytes it read, and by how long its first batch took."""
    failures = []
    if resumed["losses"] != straight:
        failures.append(f"the losses are {resumed['losses']}, those of the run that was not stopped {straight}")
    most = {"rows_read": begun["rows_read"] + 2 * BATCH, "bytes_read": begun["bytes_read"] + more_bytes}
    failures += [
        f"{resumed[what]:,} {what.replace('_', ' ')} after the resume, {begun[what]:,} at the start"
        for what, allowed in most.items()
        if resumed[what] > allowed
    ]
    said = (
        f"first batch at row {corpus.rows // 2:,} after {resumed['first_batch_seconds'][0]:.1f} s and "
        f"{resumed['rows_read']:,} rows, at row 0 after {begun['first_batch_seconds'][0]:.1f} s and "
        f"{begun['rows_read']:,} rows"
    )
    # Of the processor: on the clock it may be another program's.
    if resumed["first_batch_seconds"][1] > begun["first_batch_seconds"][1] + MOST_SECONDS_MORE:
        failures.append(said)
    return tuple(failures), said


def prove_task(place: Path, rows: int, *, leaks: bool = False) -> Proof:
    """Train the shuffled-sentence task on a stream that a worker reads, and judge what the two processes held."""
    lines = place / "lines"
    lines.mkdir(parents=True)
    files = [write_lines(lines / f"part-{part}.txt", rows // TASK_FILES) for part in range(TASK_FILES)]
    asked = ["--steps", str(rows // streamed_task.BATCH), *(["--leaks"] if leaks else [])]
    facts = _run("trust.streamed_task", lines, place / "whole", *asked)
    short = _run("trust.streamed_task", files[0], place / "short", *asked, *STOPPED)
    shutil.rmtree(place)
    failures, said = flat_memory(rows, facts, short)
    if facts["processes"] != 2:
        failures += (f"{facts['processes']} processes were seen, not 2",)
    tried = "sentences of a stream that a worker reads, shuffled and trained on: memory of the two processes"
    return Proof(PART, tried, rows, failures, f"{rows / facts['seconds']:,.0f} sentences a second; {said}")


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
