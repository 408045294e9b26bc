"""Max-margin ranking: score items so that in each query the better stand above the worse by a margin.

Queries are never split over processes: each computes whole ones, and the loop divides by the weight of all, so that N
processes train what one does.

Legend for shapes: N distinct items of a batch, M places, P pairs, Q queries, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.backbones.text import TokenBatch
from auxtasks.data.loaders import Records
from auxtasks.data.plan import BatchPlan
from auxtasks.data.rankings import RankingTable
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import DataError, did_you_mean
from auxtasks.features.batches import check_table, model_input
from auxtasks.features.extract import feature_widths, pooled_layers
from auxtasks.ranking_inputs import check_grades
from auxtasks.ranking_losses import PairLoss, ndcg_weights, pair_loss
from auxtasks.seeding import torch_seed
from auxtasks.tasks.base import AuxTask
from auxtasks.tasks.ranking_batches import RankingBatch, RankingItem, collate_ranking
from auxtasks.tasks.ranking_corruptions import CorruptibleItems
from auxtasks.tasks.ranking_evaluator import RankingEvaluator
from auxtasks.tasks.ranking_queries import LabelledQueries, Queries
from auxtasks.training.health import TrivialLevel
from auxtasks.training.objective import StepOutput

__all__ = ["Average", "MaxMarginRanking", "Weighting"]

Average = Literal["query", "pair"]
Weighting = Literal["equal", "ndcg"]

# The weight of a batch without any pair: nothing beside a query's, but the loop can divide by it.
_NO_PAIRS = 1e-12

EQUAL_SCORES = 0.05  # an accuracy that only ties explain
CHANCE = 0.52  # of an accuracy that is a half by chance


class MaxMarginRanking(AuxTask):
    """Learn to score: of two items of a query, the better shall stand above the worse by at least a margin.

    The score is a linear function of the backbone's last layer, without a bias, since only differences count. An item
    is computed once a batch, however many pairs it is in: a query of n items costs n passes and n^2 numbers.

    Args:
        backbone: takes vectors, texts or pictures. ``mlp(width, hidden=[])`` makes the scorer a linear one.
        queries: where queries come from: `LabelledQueries`, or an item above corruptions of it, see
            `auxtasks.tasks.ranking_corruptions`.
        loss: of each pair, ``"hinge"``, ``"squared_hinge"`` or ``"logistic"``, see `pair_loss`.
        margin: that pairs are to have, where their query does not ask for another.
        margin_per_grade: the margin of a pair is `margin` times the difference of its grades.
        weighting: ``"equal"``, or ``"ndcg"``: each pair weighs as much as NDCG would change if its two items
            changed places (LambdaRank).
        top: of that NDCG; None takes the whole list.
        average: ``"query"`` gives each query the same weight, ``"pair"`` each pair. The weights of NDCG are summed in a
            query, not averaged: its pairs already share what there is to gain.
        pool: how the last layer becomes a vector; None takes mean and maximum of texts, ``"auto"`` of the rest.
        l2: adds ``l2 / 2`` times the squared length of the scorer's weights to the mean loss. It is in the objective,
            unlike the optimizer's weight decay, and of the scorer alone.
        dropout: share of the backbone's output that is dropped in training.
        initial_scale: of the scorer's random weights; 0 begins with equal scores for all items, so that the first steps
            find a direction instead of mending a random one.
        seed: of the scorer's random weights.

    Raises:
        DataError: settings that are none.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> rows = {"qid": [1, 1, 1, 2, 2], "grade": [2.0, 0.0, 1.0, 0.0, 3.0],
        ...         "features": [[0.9, 0.1], [0.1, 0.0], [0.5, 0.4], [0.2, 0.2], [1.0, 0.3]]}
        >>> task = MaxMarginRanking(mlp(width=2, hidden=[4]))
        >>> table = task.prepare(Dataset.from_dict(rows))
        >>> batch = task.collate([task.view(table.record(query)) for query in range(2)])
        >>> float(task(batch).weight), len(batch.better)  # two queries, with three pairs and one
        (2.0, 4)

    Reference:
        Herbrich, Graepel and Obermayer, "Large margin rank boundaries for ordinal regression", 2000; Joachims,
        "Optimizing search engines using clickthrough data", KDD 2002; Burges et al., "Learning to rank using gradient
        descent", ICML 2005; Burges, Ragno and Le, "Learning to rank with nonsmooth cost functions", NIPS 2006.
    """

    may_be_nan: ClassVar[frozenset[str]] = frozenset({"margins"})  # a query that asks for none of its own

    def __init__(
        self,
        backbone: Backbone,
        queries: Queries | None = None,
        *,
        loss: PairLoss = "hinge",
        margin: float = 1.0,
        margin_per_grade: bool = False,
        weighting: Weighting = "equal",
        top: int | None = None,
        average: Average = "query",
        pool: Pool | None = None,
        l2: float = 0.0,
        dropout: float = 0.0,
        initial_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        _check_choice("loss", loss, get_args(PairLoss))
        _check_choice("weighting", weighting, get_args(Weighting))
        _check_choice("average", average, get_args(Average))
        for name, value in {"margin": margin, "l2": l2, "initial_scale": initial_scale}.items():
            if not 0 <= value < float("inf"):
                raise DataError(f"{name} is a finite number from 0 up, found {value}.")
        if top is not None and (top < 1 or weighting != "ndcg"):
            raise DataError(f'top is {top}: it is how far NDCG looks, from 1 up, and needs weighting="ndcg".')
        self.queries: Queries = queries or LabelledQueries()
        self.loss: PairLoss = loss
        self.margin = margin
        self.margin_per_grade = margin_per_grade
        self.weighting = weighting
        self.top = top
        self.average = average
        self.pool: Pool = pool or ("mean_max" if backbone.input.kind == "text" else "auto")
        self.l2 = l2
        self.initial_scale = initial_scale
        self.seed = seed
        self.layer = backbone.layer_names[-1]
        self.dropout = nn.Dropout(dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "scorer"))
            self.scorer = nn.Linear(feature_widths(backbone, {self.layer: self.pool})[self.layer], 1, bias=False)
        with torch.no_grad():
            self.scorer.weight.mul_(initial_scale)

    @property
    def description(self) -> str:
        """What a backbone from here was pretrained on."""
        return f"max-margin ranking ({self.loss} loss; {self.queries.description})"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        return {
            **super().settings,
            **self.queries.settings,
            "loss": self.loss,
            "margin": self.margin,
            "margin_per_grade": self.margin_per_grade,
            "weighting": self.weighting,
            "top": self.top,
            "average": self.average,
            "pool": self.pool,
            "l2": self.l2,
            "dropout": self.dropout.p,
            "initial_scale": self.initial_scale,
            "scorer seed": self.seed,
        }

    @property
    def saved_facts(self) -> Mapping[str, object]:
        """What the scorer's weights are put on, beside what every task writes."""
        return {**super().saved_facts, "scorer": {"layer": self.layer, "pool": self.pool}}

    def prepare(self, dataset: Dataset, *, cache: Path | None = None) -> Records:
        """Read queries, or what they are made of, as the backbone takes it; see the task's `queries`."""
        return self.queries.prepare(dataset, self.backbone, cache)

    def plan(self, records: Records, batch_size: int, seed: int) -> BatchPlan:
        """Return batches of queries; a query is never split.

        Raises:
            DataError: records of another kind than the task's `queries` make, or none that says anything.
            InputMismatchError: items that the backbone does not take.
        """
        plan = self.queries.plan(records, batch_size, seed)
        if isinstance(records, RankingTable):  # made by another task, it may be of other items
            check_table(self.backbone, records.items)
        if isinstance(records, CorruptibleItems):
            check_table(self.backbone, records.table)
        return plan

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, *, workers: int = 0) -> StreamFeed:
        """Read a stream, where the task's `queries` can."""
        return self.queries.stream(dataset, batch_size, seed, workers)

    def check_held_out(self, records: Records) -> None:
        """Refuse grades that have no gain: they can be learned from, and no metric can be computed of them.

        Raises:
            DataError: names the first, with its query.
        """
        if isinstance(records, RankingTable):
            check_grades(records.grades, records.offsets)

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> RankingItem:
        """Turn a record into a query to train on."""
        return self.queries.transform(record, rng)

    def view(self, record: Mapping[str, Any]) -> RankingItem:
        """Turn a record into a query to evaluate on."""
        return self.queries.view(record)

    @staticmethod
    def collate(items: Sequence[RankingItem]) -> RankingBatch:
        """Lay queries one after the other, each distinct item once."""
        return collate_ranking(items)

    def score(self, inputs: Tensor | TokenBatch) -> Tensor:
        """Return the score of each item, (N,), higher for the better one.

        Args:
            inputs: raw pictures (N, C, H, W), vectors (N, D), or tokens (N, T).
        """
        x = model_input(self.backbone, inputs)
        features = pooled_layers(self.backbone, x, {self.layer: self.pool})[self.layer]
        scores: Tensor = self.scorer(self.dropout(features)).squeeze(1)
        return scores

    @torch.no_grad()
    def goodness(self, tokens: TokenBatch) -> Tensor:
        """Return how good each text is, (B,): its score; what minimal pairs are judged by."""
        return self.score(tokens).float()

    def forward(self, batch: RankingBatch) -> StepOutput:
        """Compute the loss of all pairs.

        Args:
            batch: Q queries over N distinct items.

        Returns:
            The scalar loss, its weight (the queries that have a pair, or P with ``average="pair"``), and scalar
            metrics: ``pair_accuracy``, the share of pairs whose better item scores higher, and ``violations``, the
            share within the margin; each query or each pair weighs the same, as in the loss.
        """
        scores = self.score(batch.inputs).float()[batch.item]
        difference = scores[batch.better] - scores[batch.worse]
        margin = self._margins(batch)
        each = pair_loss(difference, margin, self.loss)
        if self.weighting == "ndcg":
            each = each * ndcg_weights(scores, batch.grades, batch.query, batch.better, batch.worse, top=self.top)
        share, weight = self._shares(batch)
        # With NDCG's weights a query's pairs already share what there is to gain.
        summed = self.average == "pair" or self.weighting == "ndcg"
        loss = each.sum() if summed else (each * share).sum()
        if self.l2:
            loss = loss + weight * (self.l2 / 2) * self.scorer.weight.float().square().sum()
        named = {
            "pair_accuracy": ((difference.detach() > 0) * share).sum() / weight,
            "violations": ((difference.detach() < margin) * share).sum() / weight,
        }
        return StepOutput(loss, weight, named)

    def _margins(self, batch: RankingBatch) -> Tensor:
        """Return the margin of each pair, (P,)."""
        own = batch.margins[batch.query[batch.better]]
        if not self.margin_per_grade:
            return torch.where(own.isnan(), self.margin, own)
        gaps = batch.grades[batch.better] - batch.grades[batch.worse]
        return torch.where(own.isnan(), self.margin * gaps, own)

    def _shares(self, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        """Return how much each pair is of the mean that is asked for, (P,), and the sum of that."""
        query = batch.query[batch.better]
        if self.average == "pair":
            return torch.ones_like(query, dtype=torch.float32), batch.margins.new_tensor(max(len(query), _NO_PAIRS))
        pairs = torch.bincount(query, minlength=len(batch.margins))
        return 1 / pairs[query].float(), (pairs > 0).sum().float().clamp(min=_NO_PAIRS)

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """Scores that are all equal, and pairs that are told apart by chance alone.

        A tie is no better item above a worse one: equal scores have an accuracy of 0 in training, chance has a half.
        """
        return [
            TrivialLevel("pair_accuracy", EQUAL_SCORES, "below", "hardly an item is above a worse one", at_once=True),
            TrivialLevel("pair_accuracy", CHANCE, "below", "pairs are told apart no better than by chance"),
        ]

    def items_of(self, batch: RankingBatch) -> Mapping[int, Tensor]:
        """Return which query each item of a batch is in, the last of several."""
        distinct = int(batch.item.max()) + 1
        return {distinct: torch.zeros(distinct, dtype=torch.int64, device=batch.item.device).scatter_(
            0, batch.item, batch.query
        )}  # fmt: skip

    def evaluator(self) -> RankingEvaluator:
        """Return a fresh evaluator of ranking metrics."""
        return RankingEvaluator(self, self.queries.kinds, tops=(5, 10))


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise DataError(f'{name} is one of {", ".join(allowed)}, found "{value}".{did_you_mean(value, allowed)}')
