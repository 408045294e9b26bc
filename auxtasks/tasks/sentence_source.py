"""Where tasks on sentences get them from: a corpus as words, batches of like length, and corruptions beside each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.data.corruptions import KINDS, Corrupted, Mixture, corrupt
from auxtasks.data.length_plan import LengthPlan
from auxtasks.data.loaders import Records
from auxtasks.data.sentences import SentenceTable, read_block, read_sentences
from auxtasks.data.stream_rows import first_row
from auxtasks.data.streams import StreamFeed
from auxtasks.data.tokenizers import tokenizer_digest
from auxtasks.errors import BackboneError, ColumnError, DataError
from auxtasks.seeding import generator
from auxtasks.tasks.sentence_batches import SentenceItem, put_back, sentence_item

__all__ = ["SentenceSource"]


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceSource:
    """How a corpus becomes items of a sentence, first, and corruptions of it.

    Attributes:
        backbone: takes text.
        mixture: which corruptions, see `Mixture`.
        corruptions: of each sentence, in training.
        keep_initial: keep the first word in its place; None does so where the tokenizer tells capitals apart.
        most_left_out: share of a corpus in which nothing may be shuffled, see `read_sentences`.
        window: batches sorted by length together, see `LengthPlan`.
        batch_tokens: count batches in tokens instead of sentences: at most so many are computed in a step, padding and
            corruptions included, each as long as its sentence; see `LengthPlan`.

    Raises:
        BackboneError: the backbone takes no text.
        DataError: no corruption.

    Example:
        >>> from auxtasks.backbones import transformers
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> texts = ["The old dog sleeps.", "A cat hears the dog.", "The cat sees a dog."]
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> tokenizer = train_tokenizer(texts, size=60)
        >>> network = transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16)
        >>> source = SentenceSource(network, corruptions=2)
        >>> table = source.prepare(Dataset.from_dict({"text": texts}), None)
        >>> item = source.item({**table.record(0), "row": 0, "step": 0}, np.random.default_rng(0))
        >>> len(item.rows), item.rows[0].kind
        (3, -1)
    """

    backbone: Backbone
    mixture: Mixture = dataclasses.field(default_factory=Mixture)
    corruptions: int = 1
    keep_initial: bool | None = None
    most_left_out: float = 0.05
    window: int = 64
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.backbone.input.kind != "text":
            raise BackboneError(
                f"shuffled sentences need a backbone that takes text; this one takes {self.backbone.input.kind}."
            )
        if self.corruptions < 1:
            raise DataError(f"a sentence needs at least one corruption beside it, found {self.corruptions}.")

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make the items what they are."""
        tokenizer = self.backbone.tokenizer
        return {
            # A table of sentences knows of its tokenizer; a stream does not.
            "tokenizer": None if tokenizer is None else tokenizer_digest(tokenizer),
            "mixture": dataclasses.asdict(self.mixture),
            "keep_initial": self.keep_initial,
            "window": self.window,
            "batch_tokens": self.batch_tokens,
        }

    def prepare(self, dataset: Dataset, cache: Path | None) -> SentenceTable:
        """Read a corpus with a column ``text`` as words, once."""
        if "text" not in dataset.column_names:
            raise ColumnError(f"there is no column 'text'; there are {', '.join(dataset.column_names)}.")
        tokenizer, length = self.backbone.text_settings
        return read_sentences(
            list(dataset["text"]),
            tokenizer,
            length=length,
            keep_initial=self.keep_initial,
            most_left_out=self.most_left_out,
            cache=cache,
        )

    def plan(self, records: Records, batch_size: int, seed: int) -> LengthPlan:
        """Return batches of sentences of like length."""
        if not isinstance(records, SentenceTable):
            raise DataError(
                f"shuffled sentences read a SentenceTable, found {type(records).__name__}: make one by task.prepare()."
            )
        return LengthPlan(
            records.token_lengths(),
            batch_size,
            seed,
            window=self.window,
            batch_tokens=self.batch_tokens,
            rows_per_item=1 + self.corruptions,
        )

    def stream(
        self,
        dataset: IterableDataset,
        batch_size: int,
        seed: int,
        *,
        transform: Callable[[Mapping[str, Any], np.random.Generator], Any],
        collate: Callable[[Sequence[Any]], Any],
        workers: int,
    ) -> StreamFeed:
        """Read a corpus with a column ``text`` block by block; words to put in are drawn from the sentence's block."""
        _ = self.backbone.text_settings  # refuses a backbone without, before the stream is opened
        row = first_row(dataset)
        if "text" not in row:
            raise ColumnError(f"the stream has no column 'text'; it has {', '.join(row)}.")
        if not isinstance(row["text"], str | None):
            raise ColumnError(f"the column 'text' holds {type(row['text']).__name__}; expected strings.")
        return StreamFeed(
            # Alone: what waits for its batch is kept in checkpoints.
            dataset=dataset.select_columns(["text"]),
            read_block=self.read_block,
            transform=transform,
            collate=collate,
            batch_size=batch_size,
            seed=seed,
            batch_tokens=self.batch_tokens,
            most_left_out=self.most_left_out,
            workers=workers,
            rows_per_item=1 + self.corruptions,
        )

    def read_block(self, rows: Sequence[Mapping[str, Any]], first: bool) -> SentenceTable:
        """Read some rows of a stream as words."""
        tokenizer, length = self.backbone.text_settings
        texts = [row["text"] for row in rows]
        return read_block(texts, tokenizer, length=length, keep_initial=self.keep_initial, check_spelling=first)

    def item(self, record: Mapping[str, Any], rng: np.random.Generator) -> SentenceItem:
        """Put a sentence beside corruptions of itself."""
        step = record["step"]
        return self._item(record, [_corrupt(record, rng, self.mixture, step) for _ in range(self.corruptions)])

    def view(self, record: Mapping[str, Any]) -> SentenceItem:
        """Put a sentence beside a corruption of each kind, always the same."""
        corruptions = [
            _corrupt(record, generator(0, f"view/{kind}", index=record["row"]), Mixture({kind: 1.0}), 0)
            for kind in KINDS
        ]
        return self._item(record, corruptions)

    def _item(self, record: Mapping[str, Any], corruptions: Sequence[tuple[str, Corrupted] | None]) -> SentenceItem:
        assert self.backbone.input.length is not None  # held by `prepare`
        made = [found for found in corruptions if found is not None]
        return sentence_item(record["words"], made, record["lexicon"], self.backbone.input.length)


def _corrupt(
    record: Mapping[str, Any], rng: np.random.Generator, mixture: Mixture, step: int
) -> tuple[str, Corrupted] | None:
    words, movable = record["words"], record["movable"]
    corpus, lexicon = record["corpus"], record["lexicon"]

    def draw_words(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
        drawn = corpus[rng.integers(len(corpus), size=count)]
        return np.asarray(drawn[~lexicon.closes[drawn]])

    found = corrupt(words[movable], rng, mixture, draw_words, step=step)
    return None if found is None else (found[0], put_back(found[1], words, movable))
