"""Runs on sentences: what they are pretrained on, judged by, and reused for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from datasets import Dataset, IterableDataset

from auxtasks.checkpoint import write_json
from auxtasks.data.corruptions import KINDS
from auxtasks.data.loaders import read
from auxtasks.data.sentences import SentenceTable, read_block
from auxtasks.data.sources import load_source
from auxtasks.data.stream_sources import StreamKind, open_stream
from auxtasks.seeding import generator
from auxtasks.tasks import MaxMarginRanking, ShuffledSentences
from auxtasks.tasks.grammaticality import MinimalPairs, bag_of_words_control, load_minimal_pairs
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.settings import TrainingResult
from recipes import schema
from recipes.build import load_columns, part_of
from recipes.cache_place import cache_folder
from recipes.folder import RunFolder
from recipes.schema import Recipe, Target
from recipes.target_data import TargetData
from recipes.targets import item_leaks
from recipes.training import train_task
from transfer.spaces import Pretrained

__all__ = ["SentencePretraining", "corpus_texts"]

TOKENIZER_TEXTS = 500_000  # of a stream
CONTROL_SENTENCES = 5000  # that a bag of words is fitted on: it is at chance with more of them too


@dataclasses.dataclass(frozen=True)
class SentencePretraining:
    """The sentences of a run's pretraining.

    Attributes:
        recipe: of the run.
        task: with the backbone: tells sentences from corruptions of them, or ranks them above those.
        source: of the task's sentences and corruptions.
        texts: all that it was trained on, as it was read; None of a stream, which is read once.
        trained: as words, or a stream.
        held_out: as words.
        pairs: minimal pairs by name; loaded before training, so that a wrong path costs no training.

    Example:
        >>> import json
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> from recipes.build import make_backbone, make_task
        >>> from recipes.config import load_recipe
        >>> sizes = "hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8"
        >>> network = f"backbone.arguments.config={{model_type: bert, {sizes}}}"
        >>> animals = ("dog", "cat", "bird", "fish", "horse", "cow", "pig", "hen")
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=folder):
        ...     corpus = Path(folder) / "corpus.json"
        ...     rows = [{"text": f"The {animal} sleeps in the old house."} for animal in animals]
        ...     _ = corpus.write_text(json.dumps(rows))
        ...     source = f"data={{path: {corpus}, holdout: 0.25}}"
        ...     recipe = load_recipe("sentences_demo", [source, network, "targets=null"])
        ...     task = make_task(recipe, make_backbone(recipe, train_tokenizer(corpus_texts(recipe), size=60)))
        ...     data = SentencePretraining.read(recipe, task, task.source)
        >>> len(data.texts), len(data.held_out), data.notes
        (6, 2, [])
    """

    recipe: Recipe
    task: ShuffledSentences | MaxMarginRanking
    source: SentenceSource
    texts: Sequence[str] | None
    trained: SentenceTable | IterableDataset
    held_out: SentenceTable
    pairs: Mapping[str, MinimalPairs]

    @classmethod
    def read(
        cls, recipe: Recipe, task: ShuffledSentences | MaxMarginRanking, source: SentenceSource
    ) -> SentencePretraining:
        """Load the corpus, or open its stream, and load what is held out of it."""
        cache = cache_folder() / "sentences"
        pairs = {name: load_minimal_pairs(_pairs(wanted)) for name, wanted in recipe.minimal_pairs.items()}
        if recipe.data.streaming:
            held_out = source.prepare(_held_out(recipe), cache)
            return cls(recipe, task, source, None, _stream(recipe), held_out, pairs)
        corpus, held_out_texts = _corpus(recipe)
        trained = source.prepare(corpus, cache)
        held_out = source.prepare(held_out_texts, cache)
        return cls(recipe, task, source, list(corpus["text"]), trained, held_out, pairs)

    @property
    def described(self) -> str:
        """What was trained on, in a few words."""
        if isinstance(self.trained, IterableDataset):
            return f"a stream of sentences from {self.recipe.data.path}"
        return f"{len(self.trained):,} sentences of {self.recipe.data.path}"

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know of the data."""
        table, length = self.trained, self.task.backbone.input.length
        if isinstance(table, IterableDataset):
            return []
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in table.left_out.items() if count)
        notes = [f"sentences left out, since nothing in them can be shuffled: {reasons}."] if reasons else []
        if table.truncated:
            notes.append(f"{table.truncated:,} sentences are longer than {length} tokens, and lost their last words.")
        return notes

    @property
    def reusable(self) -> Pretrained | None:
        """Nothing: sentences of a corpus have no labels that choices could be made on."""
        return None

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Score minimal pairs, and fit the bag of words that must not learn the order."""
        found = {f"bag_of_words/{name}": value for name, value in self._control().items()}
        tokenizer, length = self.task.backbone.text_settings
        self.task.eval()
        everything = {}
        for name, pairs in self.pairs.items():
            path = self.recipe.minimal_pairs[name].path
            folder.log_opening({"target": f"minimal pairs {name}", "pairs": len(pairs), "file": path})
            everything[name] = pairs.accuracy(self.task, tokenizer, length)
            found |= {f"{name}/{key}": value for key, value in everything[name].items() if not key.startswith("uid/")}
        if everything:
            write_json(folder.place / "minimal_pairs.json", everything)
        return found

    def _control(self) -> dict[str, float]:
        table = self.trained
        if isinstance(table, IterableDataset):
            table = self._first_block(table)
        rows = generator(self.recipe.seed, "control").permutation(len(table))[:CONTROL_SENTENCES]
        # As at the end of training: a curriculum has reached its goal by then.
        end = self.recipe.training.steps
        trained = (
            self.source.item(read(table, int(row), end), generator(self.recipe.seed, "control", index=int(row)))
            for row in rows
        )
        held_out = (self.source.view(read(self.held_out, row)) for row in range(len(self.held_out)))
        vocabulary = self.task.backbone.input.vocabulary
        assert vocabulary is not None  # of text
        return bag_of_words_control(trained, held_out, vocabulary, tuple(KINDS))

    def _first_block(self, stream: IterableDataset) -> SentenceTable:
        """Read the first sentences of a stream, as training did: what cannot be shuffled was counted there."""
        tokenizer, length = self.task.backbone.text_settings
        texts = [row["text"] or "" for row in stream.take(CONTROL_SENTENCES)]
        return read_block(texts, tokenizer, length=length, keep_initial=self.source.keep_initial)

    def train(self, place: Path) -> TrainingResult:
        """Train the backbone as the recipe says."""
        return train_task(self.recipe, self.task, self.trained, self.held_out, self.described, place)

    def leaks(self, name: str, target: Target, data: TargetData) -> list[str]:
        """Look for texts that pretraining, or the labels, share with the test."""
        del target  # its texts are compared as they were loaded
        return item_leaks(self.recipe, name, data, self.texts)


def corpus_texts(recipe: Recipe) -> list[str]:
    """Return the sentences that a tokenizer is trained on: those that the backbone is."""
    if recipe.data.streaming:
        return [row["text"] or "" for row in _stream(recipe).take(TOKENIZER_TEXTS)]
    return list(_corpus(recipe)[0]["text"])


def _stream(recipe: Recipe) -> IterableDataset:
    data = recipe.data
    assert data.path is not None  # `load_recipe` refuses a source without a path
    kinds: dict[str, StreamKind] = {kind: kind for kind in get_args(StreamKind)}
    return open_stream(data.path, kind=kinds[data.kind], column=data.text, split=data.split)


def _corpus(recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Load the corpus; return what is trained on and what is held out."""
    data = recipe.data
    corpus = load_columns(data, {"text": data.text})
    if data.validation is not None:
        return corpus, _held_out(recipe)
    order = generator(recipe.seed, "holdout").permutation(len(corpus))
    count = max(1, round(len(corpus) * data.holdout))
    trained, held_out = corpus.select(np.sort(order[count:])), corpus.select(np.sort(order[:count]))
    seen = set(trained["text"])  # a corpus may say the same thing twice
    unseen = held_out.select([row for row, text in enumerate(held_out["text"]) if text not in seen])
    return trained, _limited(recipe, unseen)


def _held_out(recipe: Recipe) -> Dataset:
    """Load what a recipe names for validation."""
    assert recipe.data.validation is not None  # the caller asked
    return _limited(recipe, load_columns(part_of(recipe.data, recipe.data.validation), {"text": recipe.data.text}))


def _limited(recipe: Recipe, held_out: Dataset) -> Dataset:
    most = recipe.data.validation_items
    return held_out if most is None or len(held_out) <= most else held_out.select(_spread(len(held_out), most))


def _pairs(wanted: schema.MinimalPairs) -> Dataset:
    assert wanted.path is not None  # `load_recipe` refuses a source without a path
    columns = {name: name for name in ("sentence_good", "sentence_bad")}
    found = load_source(Path(wanted.path), columns=columns, split=wanted.split)
    return found if wanted.limit is None else found.select(_spread(len(found), wanted.limit))


def _spread(total: int, count: int) -> list[int]:
    """Return about `count` rows, evenly spread."""
    return sorted({int(row) for row in np.linspace(0, total - 1, min(count, total))})
