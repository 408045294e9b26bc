"""Queries that cost no label: an item as it is, above corruptions of it.

Sentences above the seven corruptions of `auxtasks.data.corruptions`, vectors above noisy copies, and pictures above
distorted ones. Of vectors and pictures a weaker corruption also stands above a stronger one of the same kind.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.data.corruptions import KINDS
from auxtasks.data.feature_columns import encode_features
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.item_corruptions import FeatureNoise, FeatureNoiseKind, ItemCorruption, PictureDistortion
from auxtasks.data.length_plan import LengthPlan
from auxtasks.data.loaders import Records
from auxtasks.data.plan import EpochPlan
from auxtasks.data.sentences import SentenceTable
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import DataError
from auxtasks.features.batches import check_table
from auxtasks.seeding import generator
from auxtasks.tasks.ranking_batches import NO_KIND, RankingItem, collate_ranking
from auxtasks.tasks.sentence_batches import SentenceItem
from auxtasks.tasks.sentence_source import SentenceSource

__all__ = ["CorruptedItems", "CorruptedSentences", "CorruptibleItems"]


@dataclasses.dataclass(frozen=True)
class CorruptedSentences:
    """A sentence above corruptions of it.

    Attributes:
        source: the corpus, see `SentenceSource`; ``source.corruptions`` stand beside each sentence in training.

    Example:
        >>> from auxtasks.backbones import transformers
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> from auxtasks.tasks.sentence_source import SentenceSource
        >>> texts = ["The old dog sleeps.", "A cat hears the dog.", "The cat sees a dog."]
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> tokenizer = train_tokenizer(texts, size=60)
        >>> network = transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16)
        >>> queries = CorruptedSentences(SentenceSource(network, corruptions=2))
        >>> table = queries.prepare(Dataset.from_dict({"text": texts}), network, None)
        >>> item = queries.transform({**table.record(0), "row": 0, "step": 0}, np.random.default_rng(0))
        >>> item.grades.tolist()
        [1.0, 0.0, 0.0]
    """

    source: SentenceSource

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the corruptions by their number."""
        return tuple(KINDS)

    @property
    def description(self) -> str:
        """What the queries are."""
        return f"sentences above {', '.join(self.source.mixture.kinds)}"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make the queries what they are."""
        return {"queries": "sentences", "corruptions": self.source.corruptions, **self.source.settings}

    def prepare(self, dataset: Dataset, backbone: Backbone, cache: Path | None) -> SentenceTable:
        """Read a corpus with a column ``text`` as words, once."""
        if backbone is not self.source.backbone:
            raise DataError("the sentences are spelled for another backbone than the task's: give both the same.")
        return self.source.prepare(dataset, cache)

    def plan(self, records: Records, batch_size: int, seed: int) -> LengthPlan:
        """Return batches of sentences of like length."""
        return self.source.plan(records, batch_size, seed)

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, workers: int) -> StreamFeed:
        """Read a corpus with a column ``text`` block by block."""
        return self.source.stream(
            dataset, batch_size, seed, transform=self.transform, collate=collate_ranking, workers=workers
        )

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> RankingItem:
        """Put a sentence above corruptions of it."""
        return _of_sentence(self.source.item(record, rng))

    def view(self, record: Mapping[str, Any]) -> RankingItem:
        """Put a sentence above a corruption of each kind, always the same."""
        return _of_sentence(self.source.view(record))


def _of_sentence(item: SentenceItem) -> RankingItem:
    grades = np.zeros(len(item.rows), dtype=np.float32)
    grades[0] = 1
    return RankingItem(
        inputs=tuple(row.tokens for row in item.rows),
        keys=None,
        grades=grades,
        margin=float("nan"),
        kinds=np.array([row.kind for row in item.rows]),
        pad_id=item.pad_id,
    )


class CorruptibleRecord(TypedDict):
    """One item, a vector (D,) or a picture (H, W, C), and what makes it worse."""

    item: NDArray[np.generic]
    corruption: ItemCorruption


@dataclasses.dataclass(frozen=True, eq=False)
class CorruptibleItems:
    """N items and what makes them worse.

    Attributes:
        table: the items.
        corruption: fitted on the whole table, whichever of its rows a subset keeps.
        fingerprint: changes with any item, and with the corruption.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> rows = Dataset.from_dict({"features": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
        >>> items: CorruptibleItems = CorruptedItems().prepare(rows, mlp(width=2), None)
        >>> len(items), len(items.subset([0, 2])), items.table.values.shape
        (3, 2, (3, 2))
    """

    table: FeatureTable | ImageTable
    corruption: ItemCorruption
    fingerprint: str

    def __len__(self) -> int:
        return len(self.table)

    def record(self, index: int) -> CorruptibleRecord:
        """Return one item."""
        table = self.table
        item = table.values[index] if isinstance(table, FeatureTable) else table.pixels[index]
        return {"item": np.asarray(item), "corruption": self.corruption}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> CorruptibleItems:
        """Return the items at `indices`, in that order."""
        table = self.table.subset(indices)
        return CorruptibleItems(table, self.corruption, _digest(table.fingerprint, self.fingerprint))


@dataclasses.dataclass(frozen=True)
class CorruptedItems:
    """A vector or a picture above corruptions of rising strength, and each of these above the stronger ones.

    Attributes:
        strengths: of the corruptions, in rising order, above 0 and at most 1.
        noise, amount: of vectors, see `FeatureNoise`.
        distortions: of pictures, see `PictureDistortion`.

    Raises:
        DataError: strengths that are none, or not in rising order.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> queries = CorruptedItems(strengths=(0.5, 1.0), noise="masking", amount=1.0)
        >>> rows = Dataset.from_dict({"features": [[1.0, 2.0], [3.0, 4.0]]})
        >>> query = queries.view({**queries.prepare(rows, mlp(width=2), None).record(0), "row": 0})
        >>> [item.tolist() for item in query.inputs], query.grades.tolist()
        ([[1.0, 2.0], [0.0, 2.0], [0.0, 0.0]], [2.0, 1.0, 0.0])
    """

    strengths: tuple[float, ...] = (0.25, 0.5, 1.0)
    noise: FeatureNoiseKind = "swap"
    amount: float = 0.6
    distortions: tuple[str, ...] = PictureDistortion().kinds

    def __post_init__(self) -> None:
        rising = list(self.strengths) == sorted(set(self.strengths))
        if not self.strengths or not rising or self.strengths[0] <= 0 or self.strengths[-1] > 1:
            raise DataError(f"strengths are numbers above 0 and at most 1, in rising order, found {self.strengths}.")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the corruptions by their number."""
        return tuple(f"strength {strength:g}" for strength in self.strengths)

    @property
    def description(self) -> str:
        """What the queries are."""
        return f"items above corruptions of strength {', '.join(f'{strength:g}' for strength in self.strengths)}"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make the queries what they are."""
        return {"queries": "corrupted items", **dataclasses.asdict(self)}

    def prepare(self, dataset: Dataset, backbone: Backbone, cache: Path | None) -> CorruptibleItems:
        """Read vectors (a column ``features``) or decode pictures (``image``), as the backbone takes them.

        Raises:
            DataError: the backbone takes texts, which `CorruptedSentences` corrupts.
            InputMismatchError: vectors of another width than the backbone takes.
        """
        table: FeatureTable | ImageTable
        corruption: ItemCorruption
        if backbone.input.kind == "text":
            raise DataError("the backbone takes texts: rank sentences above corruptions of them (CorruptedSentences).")
        if backbone.input.kind == "features":
            table = encode_features(dataset)
            corruption = FeatureNoise(table.values, self.noise, self.amount)
        else:
            channels, height, width = backbone.input.shape
            table = decode_images(dataset, size=(height, width), channels=channels, cache=cache)
            corruption = PictureDistortion(self.distortions)
        check_table(backbone, table)
        return CorruptibleItems(table, corruption, _digest(table.fingerprint, str(sorted(self.settings.items()))))

    def plan(self, records: Records, batch_size: int, seed: int) -> EpochPlan:
        """Return every item once an epoch, in random order.

        Raises:
            DataError: records that are no `CorruptibleItems`.
        """
        if not isinstance(records, CorruptibleItems):
            raise DataError(
                f"items to corrupt are CorruptibleItems, found {type(records).__name__}: make them by task.prepare()."
            )
        return EpochPlan(len(records), batch_size, seed)

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, workers: int) -> StreamFeed:
        """Refuse: items are read as a whole.

        Raises:
            DataError: always.
        """
        del dataset, batch_size, seed, workers
        raise DataError("vectors and pictures do not stream: they are read as a whole. Pass a datasets.Dataset.")

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> RankingItem:
        """Put an item above corruptions of it."""
        return self._query(record, int(rng.integers(2**62)))

    def view(self, record: Mapping[str, Any]) -> RankingItem:
        """Put an item above corruptions of it, always the same."""
        return self._query(record, int(record["row"]))

    def _query(self, record: Mapping[str, Any], seed: int) -> RankingItem:
        item, corruption = record["item"], record["corruption"]
        # The same numbers for each strength, so that a stronger corruption goes further the same way.
        made: dict[int, NDArray[np.generic]] = {}
        for number, strength in enumerate(self.strengths):
            worse = corruption.corrupt(item, strength, generator(seed, "corrupted item"))
            # Of few features, two strengths may hit the same: an item is not better than itself.
            if worse is not None and not any(np.array_equal(worse, other) for other in made.values()):
                made[number] = worse
        kept, best = list(made), len(self.strengths)
        return RankingItem(
            inputs=(item, *made.values()),
            keys=None,
            grades=np.array([best, *(best - 1 - number for number in kept)], dtype=np.float32),
            margin=float("nan"),
            kinds=np.array([NO_KIND, *kept]),
        )


def _digest(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
