"""A scorer: what ranks items, to be taken away. Backbone, layer and one weight a feature, in one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import tensor

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.rankings import ItemTable
from auxtasks.errors import CheckpointError, DataError
from auxtasks.features.extract import extract, feature_widths
from transfer.model import PredictedItem, table_of_items
from transfer.model_settings import check_layer

__all__ = ["Scorer"]

SCORED_AT_A_TIME = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """Says how good items are, higher is better. Only differences mean something, within what it was trained for.

    Attributes:
        backbone: trained to rank, or to something near it.
        layer, pool: what the weights read.
        weights: (D,) one for each feature of the pooled layer.
        facts: how it came about, as JSON values.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> scorer = Scorer(mlp(width=2, hidden=[]), "input", "auto", np.array([1.0, -1.0]))
        >>> scorer.score(np.array([[3.0, 1.0], [0.0, 2.0]])).tolist()
        [2.0, -2.0]
    """

    backbone: Backbone
    layer: str
    pool: Pool
    weights: NDArray[np.float64]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        width = feature_widths(self.backbone, {self.layer: self.pool})[self.layer]
        if self.weights.shape != (width,):
            raise DataError(
                f'the layer "{self.layer}", pooled by "{self.pool}", has {width} features, the weights have the shape '
                f"{self.weights.shape}: one for each feature is needed."
            )

    def score(self, items: Sequence[PredictedItem] | NDArray[Any]) -> NDArray[np.float64]:
        """Return the score of each item, (N,).

        Args:
            items: texts; vectors (N, D); or pictures as paths, PIL images, encoded bytes or uint8 arrays.

        Raises:
            DataError: an item that cannot be read; says which.
            InputMismatchError: the backbone takes items of another kind or width.
        """
        starts = range(0, len(items), SCORED_AT_A_TIME)
        parts = [self._score_some(items[start : start + SCORED_AT_A_TIME]) for start in starts]
        return np.concatenate(parts) if parts else np.empty(0)

    def score_all(self, parts: Iterable[Sequence[PredictedItem] | NDArray[Any]]) -> Iterator[NDArray[np.float64]]:
        """Yield the scores of one part after the other: memory is that of a part, however many there are."""
        for part in parts:
            yield self.score(part)

    def _score_some(self, items: Sequence[PredictedItem] | NDArray[Any]) -> NDArray[np.float64]:
        return self.score_table(table_of_items(self.backbone, items, self.backbone.input.size))

    def score_table(self, table: ItemTable) -> NDArray[np.float64]:
        """Return the score of each item of a table, (N,)."""
        features = extract(self.backbone, table, {self.layer: self.pool})[self.layer]
        return np.asarray(features.astype(np.float64) @ self.weights)

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load` reads, as a whole or not at all."""
        place = Path(folder)
        facts = {"schema": checkpoint.SCHEMA_VERSION, "layer": self.layer, "pool": self.pool, "facts": dict(self.facts)}
        with checkpoint.atomic_folder(place) as temporary:
            self.backbone.save_pretrained(temporary / "backbone")
            checkpoint.write_tensors(temporary / "weights.safetensors", {"weights": tensor(self.weights)})
            checkpoint.write_json(temporary / "scorer.json", facts)
        return place

    @classmethod
    def load(cls, folder: str | Path) -> Scorer:
        """Read a folder that `save` wrote, or a checkpoint of a ranking task.

        Raises:
            CheckpointError: it is neither, or it is damaged.
        """
        place = Path(folder)
        if (place / "scorer.json").is_file():
            facts: Any = checkpoint.read_object(place / "scorer.json")
            if facts.get("schema") != checkpoint.SCHEMA_VERSION:
                raise CheckpointError(
                    f"{place} has schema {facts.get('schema')}; this version reads schema {checkpoint.SCHEMA_VERSION}."
                )
            weights = checkpoint.read_tensors(place / "weights.safetensors").get("weights")
        elif (place / "task" / "config.json").is_file():
            config = checkpoint.read_object(place / "task" / "config.json")
            facts = config.get("scorer")
            if facts is None:
                raise CheckpointError(
                    f"{place} is a checkpoint of {config.get('task')}, which scores nothing: ranking tasks do."
                )
            weights = checkpoint.read_tensors(place / "task" / "model.safetensors").get("scorer.weight")
        else:
            raise CheckpointError(f"{place} holds no scorer: expected scorer.json, or a checkpoint of a ranking task.")
        if weights is None or not isinstance(facts, dict) or not {"layer", "pool"} <= facts.keys():
            raise CheckpointError(f"{place} is damaged: the scorer's weights, layer or pooling are not there.")
        backbone = Backbone.from_pretrained(place / "backbone")
        check_layer(facts["layer"], facts["pool"], backbone, place)
        about = facts.get("facts", {})
        if not isinstance(about, dict) or weights.is_complex() or not bool(weights.isfinite().all()):
            raise CheckpointError(f"{place} is damaged: the scorer's facts or weights are not what `save` writes.")
        try:
            return cls(backbone, facts["layer"], facts["pool"], weights.double().reshape(-1).numpy(), about)
        except DataError as error:
            raise CheckpointError(f"{place} is damaged: {error}") from error
