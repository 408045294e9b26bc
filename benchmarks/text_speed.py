"""Our loop on sentences against transformers' Trainer: same network, same corrupted pairs, same loss and precision.

The Trainer gets the pairs corrupted and tokenised beforehand, in random order, and pads each batch to its longest text,
as its default collator does. Ours corrupts as it goes, in batches of like length. Also printed: the share of time that
our loop waits for data, and what a corruption costs beside tokenising the same sentence.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from auxtasks.backbones import build
from auxtasks.backbones.text import TokenBatch
from auxtasks.data import load_source
from auxtasks.data.loaders import Feed, Shard, read
from auxtasks.data.sentences import SentenceTable
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.seeding import generator
from auxtasks.tasks import ShuffledSentences
from auxtasks.training.engine import train
from auxtasks.training.settings import LoopSettings, Phase

CONFIG = {
    "model_type": "bert", "hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 768, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BATCH = 64  # sentences, each beside its corruption
LENGTH = 64


def make_task(tokenizer: object) -> ShuffledSentences:
    backbone = build("transformers", config=CONFIG, tokenizer=tokenizer, length=LENGTH, seed=0)
    return ShuffledSentences(backbone, losses={"sentence": 1.0})


class PairClassifier(nn.Module):
    """What the Trainer wants of a model: keyword arguments in, loss first out."""

    def __init__(self, task: ShuffledSentences) -> None:
        super().__init__()
        self.task = task

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        score = self.task.scores(TokenBatch(input_ids, attention_mask.bool())).sentence
        assert score is not None
        return nn.functional.binary_cross_entropy_with_logits(score.float(), labels.float()), score


def corrupted_pairs(task: ShuffledSentences, table: SentenceTable, sentences: int) -> Dataset:
    rows = []
    for row in range(sentences):
        place = row % len(table)
        item = task.transform(read(table, place), generator(0, "benchmark", index=row))
        rows += [{"input_ids": part.tokens.tolist(), "labels": int(part.kind < 0)} for part in item.rows]
    return Dataset.from_list(rows)


def theirs(tokenizer: object, pairs: Dataset, steps: int, bf16: bool) -> float:
    """Return sentences a second of transformers' Trainer."""
    model = PairClassifier(make_task(tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=2 * BATCH, learning_rate=1e-3, bf16=bf16,
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=pairs, processing_class=tokenizer)
        began = time.perf_counter()
        trainer.train()
        return steps * BATCH / (time.perf_counter() - began)


def ours(tokenizer: object, table: SentenceTable, steps: int, bf16: bool, workers: int) -> tuple[float, float]:
    """Return sentences a second of our loop, and the share of time that it waits for data."""
    task = make_task(tokenizer)
    feed: Feed = Feed(table, task.plan(table, BATCH, 0), task.transform, task.collate, seed=0, workers=workers)
    settings = LoopSettings(log_every=0, show_progress=False, mixed_precision="bf16" if bf16 else "no", device="cpu")
    began = time.perf_counter()
    result = train(task, feed, [Phase(steps)], seed=0, loop=settings)
    return steps * BATCH / (time.perf_counter() - began), result.metrics["data_wait_share"]


def padding_share(task: ShuffledSentences, table: SentenceTable, steps: int) -> float:
    """Return how much of our batches is padding."""
    feed: Feed = Feed(table, task.plan(table, BATCH, 0), task.transform, task.collate, seed=0)
    masks = [batch.tokens.mask for batch in feed.batches(0, steps, Shard())]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def corruption_cost(task: ShuffledSentences, tokenizer: object, texts: list[str], table: SentenceTable) -> str:
    """Compare a corruption, spelled, with what tokenising the two sentences would cost."""
    began = time.perf_counter()
    for row in range(len(table)):
        task.transform(read(table, row), generator(0, "cost", index=row))
    corrupting = time.perf_counter() - began
    began = time.perf_counter()
    for text in texts:
        tokenizer([text, text])  # type: ignore[operator]
    tokenising = time.perf_counter() - began
    return (
        f"a sentence beside its corruption {corrupting / len(table) * 1e6:.0f} us, tokenising two sentences "
        f"{tokenising / len(texts) * 1e6:.0f} us: ratio {corrupting / len(table) / (tokenising / len(texts)):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="builtin:sentences", help="a text file, a parquet, or a built-in")
    parser.add_argument("--split", default=None)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--float32", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    source = load_source(given.corpus, columns={"text": "text"}, split=given.split)
    texts = list(source.select(range(min(given.sentences, len(source))))["text"])
    tokenizer = train_tokenizer(texts, size=8192)
    task = make_task(tokenizer)
    table = task.prepare(Dataset.from_dict({"text": texts}))
    words = np.diff(table.words.offsets)
    print(f"{len(table):,} sentences, {words.mean():.1f} words on average; padding of our batches "
          f"{padding_share(task, table, 50):.1%}; torch threads {torch.get_num_threads()}")  # fmt: skip
    print(corruption_cost(task, tokenizer, texts[:3000], table.subset(range(min(3000, len(table))))))
    bf16 = not given.float32
    pairs = corrupted_pairs(task, table, min(len(table), given.steps * BATCH))
    theirs(tokenizer, pairs, 10, bf16), ours(tokenizer, table, 10, bf16, given.workers)  # warm-up
    ratios = []
    for pair in range(given.pairs):
        trainer = theirs(tokenizer, pairs, given.steps, bf16)
        loop, waiting = ours(tokenizer, table, given.steps, bf16, given.workers)
        ratios.append(loop / trainer)
        print(f"pair {pair + 1}: Trainer {trainer:6.1f} sentences/s  ours {loop:6.1f}/s  ratio {ratios[-1]:.2f}  "
              f"waiting for data {waiting:.1%}", flush=True)  # fmt: skip
    print(f"ratio ours/Trainer: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
