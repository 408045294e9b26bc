"""A stream of millions of sentences: is memory flat, how fast is it read, how long does a resume in its middle take?

    python -m benchmarks.streaming_corpus FOLDER [--rows 2000000]

writes a corpus of so many made-up sentences in 8 parquet files into FOLDER, unless it is there, and reads it as
`ShuffledSentences` trains on it: batches of 128 sentences beside a corruption, ready for the network.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from auxtasks.backbones import transformers
from auxtasks.data import train_tokenizer
from auxtasks.data.loaders import Shard
from auxtasks.data.stream_sources import open_stream
from auxtasks.tasks.shuffled_sentences import ShuffledSentences

FILES, BATCH, WORDS = 8, 128, 20_000


def write_corpus(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(WORDS)])
    for part in range(FILES):
        place = folder / f"train-{part}.parquet"
        if not place.exists():
            # Zipf's law, and one new word a sentence: a lexicon of the whole corpus would grow for ever.
            drawn = words[rng.zipf(1.3, size=(rows // FILES, 12)) % WORDS]
            lines = [" ".join(row) + f" n{part}x{number} ." for number, row in enumerate(drawn)]
            pq.write_table(pa.table({"line": lines}), place, row_group_size=50_000)


def make_task(stream) -> ShuffledSentences:
    some = [row["text"] for row, _ in zip(stream, range(2000), strict=False)]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {"model_type": "bert", **sizes, "max_position_embeddings": 64}
    return ShuffledSentences(transformers(config, length=64, tokenizer=train_tokenizer(some, size=4000)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--read", type=int, default=None, help="rows to read; all by default")
    arguments = parser.parse_args()
    write_corpus(arguments.folder, arguments.rows)
    stream = open_stream(arguments.folder, column="line")
    task, process = make_task(stream), psutil.Process()
    steps = (arguments.read or arguments.rows) // BATCH
    feed = task.stream(stream, BATCH, seed=0)
    began, kept, tokens, padded = time.process_time(), {}, 0, 0
    for step, batch in enumerate(feed.batches(0, steps, Shard()), start=1):
        tokens, padded = tokens + int(batch.tokens.mask.sum()), padded + batch.tokens.mask.numel()
        if step % max(1, steps // 10) == 0:
            each = (time.process_time() - began) / step / BATCH * 1e6
            memory = process.memory_info().rss / 2**20
            padding = 1 - tokens / padded
            print(
                f"{step * BATCH:>10,} sentences  {each:5.0f} us (CPU) each  {memory:6.0f} MiB  padding {padding:.1%}",
                flush=True,
            )
            kept[step] = json.dumps(feed.position())
    for step, position in kept.items():
        resumed = task.stream(stream, BATCH, seed=0)
        resumed.go_to(json.loads(position))
        began = time.perf_counter()
        next(resumed.batches(step, step + 1, Shard()))
        place = json.loads(position)
        print(f"resumed at {step * BATCH:,} (file {place['place']}, block {place['block']}): "
              f"{time.perf_counter() - began:.2f} s, position of {len(position):,} bytes", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
