"""Batches of what a part that does not train gives, computed once and kept: what stages of fine-tuning train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.augment import Augment
from auxtasks.data.loaders import Shard
from auxtasks.data.pair_table import PairTable, distinct_items
from auxtasks.data.plan import EpochPlan
from auxtasks.data.row_feed import FollowsPlan
from auxtasks.features.batches import Table
from auxtasks.features.cache import FeatureCache
from auxtasks.features.crossings import crossing_bytes, crossings
from transfer.classifier import Crossed, LabelledBatch
from transfer.freezing import Stage, highest_still, trained_layers

__all__ = ["KeptFeed", "kept_bytes"]

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class KeptFeed(FollowsPlan):
    """Where a stage gets its batches from when nothing trains up to a layer.

    The rows and their order are those of a feed that has the same plan and computes the whole network. What is kept is
    computed when the stage begins, with the weights that the backbone then has: an earlier stage may have trained them.

    Attributes:
        backbone: what is being tuned.
        layer, pool: what the head reads.
        cut: nothing trains up to this layer.
        table: N items with their labels.
        plan: which rows make a step.
        cache: keeps what was computed.
        augment: of pictures; None takes them as they are.
        views: how many augmented views of each picture are kept; an item has another one in each epoch, in turn.
        seed: of the augmentation.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((6, 3), np.float32), np.arange(6) % 2, ("low", "high"), np.arange(6))
        >>> network, plan = mlp(width=3, hidden=[4, 5]), EpochPlan(6, 3, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     feed = KeptFeed(network, "hidden2", "mean", "hidden1", table, plan, FeatureCache(folder))
        ...     batch = next(feed.batches(0, 1, Shard()))
    """

    backbone: Backbone
    layer: str
    pool: Pool
    cut: str
    table: Table
    plan: EpochPlan
    cache: FeatureCache
    augment: Augment | None = None
    views: int = 1
    seed: int = 0

    def batches(self, start: int, stop: int, shard: Shard) -> Iterator[LabelledBatch]:
        """Compute or find what is kept; yield the micro-batches of steps `start` to `stop` - 1 for one process."""
        read = self._pooled() if self.cut == self.layer and self.augment is None else self._crossing()
        labels = torch.tensor(self.table.labels)
        return self._read(read, labels, range(start, stop), shard)

    def _read(
        self, read: Callable[[Rows, Rows], Crossed], labels: Tensor, steps: range, shard: Shard
    ) -> Iterator[LabelledBatch]:
        for step in steps:
            rows = self.plan.rows(step)
            views = np.arange(step * self.batch_size, (step + 1) * self.batch_size) // len(self.table) % self.views
            for own in shard.slices(self.plan.batch_size):
                yield LabelledBatch(read(rows[own], views[own]), labels[rows[own]])

    def _pooled(self) -> Callable[[Rows, Rows], Crossed]:
        """Read what the linear layer reads: of a stage that trains the head alone, far less than what crosses."""
        features = self.cache.features(self.backbone, self.table, {self.layer: self.pool})[self.layer]

        def read(rows: Rows, views: Rows) -> Crossed:
            del views  # nothing is augmented: there is one
            return Crossed(torch.from_numpy(np.take(features, rows, axis=0)), None)

        return read

    def _crossing(self) -> Callable[[Rows, Rows], Crossed]:
        pairs = self.table.compact() if isinstance(self.table, PairTable) else None
        items = self.table if pairs is None else pairs.items
        kept = crossings(
            self.backbone,
            items,
            self.cut,
            cache=self.cache,
            views=self.views,
            augment=self.augment,
            seed=self.seed,
        )
        if pairs is None:
            return lambda rows, views: Crossed(kept.batch(rows, views), self.cut)
        sides = pairs.left, pairs.right

        def read(rows: Rows, views: Rows) -> Crossed:
            del views  # nothing is augmented: there is one
            needed, left, right = distinct_items(sides[0][rows], sides[1][rows])
            return Crossed(kept.batch(needed), self.cut, torch.from_numpy(left), torch.from_numpy(right))

        return read


def kept_bytes(
    backbone: Backbone, layer: str, table: Table, stages: Sequence[Stage], *, augments: bool = False, views: int = 1
) -> int:
    """Return what crosses the cuts of stages takes, in bytes, of the stage where it is most, without computing it.

    Features for the head alone, which are far less, are not counted.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data import FeatureTable
        >>> rows = np.arange(10)
        >>> table = FeatureTable(np.ones((10, 4), np.float32), rows, ("a",), rows=rows, skipped=(), fingerprint="ones")
        >>> kept_bytes(mlp(width=4, hidden=[6, 3, 2]), "hidden3", table, [Stage(5, 0), Stage(5, 1), Stage(5, 2)])
        240
    """
    cuts = {highest_still(backbone, layer, trained_layers(backbone, layer, stage)) for stage in stages}
    if not augments:
        cuts.discard(layer)  # nothing but the head trains: its features are kept
    items = table.compact().items if isinstance(table, PairTable) else table
    return max((crossing_bytes(backbone, items, cut, views=views) for cut in cuts if cut is not None), default=0)
