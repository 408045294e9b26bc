"""How well scores rank held-out queries: by query, over all processes, and by kind of corruption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from auxtasks import ranking_metrics
from auxtasks.backbones.text import TokenBatch
from auxtasks.errors import DataError
from auxtasks.tasks.grammaticality import by_kind
from auxtasks.tasks.ranking_batches import NO_KIND, RankingBatch

__all__ = ["RankingEvaluator", "ScoredQueries"]

SCORED_AT_A_TIME = 512


class Scores(Protocol):
    """What scores items."""

    def score(self, inputs: Tensor | TokenBatch) -> Tensor:
        """Return the score of each item, (N,)."""
        ...


class ScoredQueries(NamedTuple):
    """Scores and grades of M places in Q queries, as `ranking_metrics.per_query` takes them, and each place's kind."""

    scores: NDArray[np.float64]
    grades: NDArray[np.float64]
    offsets: NDArray[np.int64]
    kinds: NDArray[np.int64]


class RankingEvaluator:
    """Metrics over held-out queries.

    Args:
        scorer: scores items.
        kinds: names of the corruptions by their number.
        tops: see `ranking_metrics.per_query`.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import MaxMarginRanking
        >>> from datasets import Dataset
        >>> rows = {"qid": [1, 1, 2, 2], "grade": [2.0, 0.0, 0.0, 3.0], "features": [[0.9], [0.1], [0.2], [1.0]]}
        >>> task = MaxMarginRanking(mlp(width=1, hidden=[4]))
        >>> records = task.prepare(Dataset.from_dict(rows))
        >>> evaluator: RankingEvaluator = task.evaluator()
        >>> with torch.no_grad():
        ...     evaluator.update(task.collate([task.view(records.record(query)) for query in range(2)]))
        >>> found: ScoredQueries = evaluator.scored()
        >>> found.grades.tolist(), found.offsets.tolist()
        ([2.0, 0.0, 0.0, 3.0], [0, 2, 4])
    """

    def __init__(self, scorer: Scores, kinds: Sequence[str], tops: Sequence[int]) -> None:
        self._scorer = scorer
        self._kinds = kinds
        self._tops = tuple(tops)
        self._kept: list[list[tuple[NDArray[np.float64], ...]]] = []

    def update(self, batch: RankingBatch) -> None:
        """Score one batch of this process's share."""
        scores = _score_some_at_a_time(self._scorer, batch.inputs)[batch.item].cpu().numpy()
        grades, kinds = batch.grades.double().cpu().numpy(), batch.kinds.double().cpu().numpy()
        ends = np.cumsum(np.bincount(batch.query.cpu().numpy()))[:-1]
        parts = (np.split(values, ends) for values in (scores, grades, kinds))
        self._kept.append(list(zip(*parts, strict=True)))

    def scored(self) -> ScoredQueries:
        """Return all queries of all processes: the first of each, then the second, as they were dealt out.

        Raises:
            DataError: there is none.
        """
        mine = [query for batch in self._kept for query in batch]
        shares = gather_object([mine]) if dist.is_initialized() else [mine]
        longest = max(len(share) for share in shares)
        if not longest:
            raise DataError("there are no queries to evaluate.")
        found = [share[place] for place in range(longest) for share in shares if place < len(share)]
        scores, grades, kinds = (np.concatenate([query[part] for query in found]) for part in range(3))
        offsets = np.concatenate([[0], np.cumsum([len(query[0]) for query in found])]).astype(np.int64)
        return ScoredQueries(scores, grades, offsets, kinds.astype(np.int64))

    def compute(self) -> dict[str, float]:
        """Return metrics, the same on every process.

        Returns:
            Of queries with grades, see `ranking_metrics.summarise`; of pairs and of corruptions, the accuracy of pairs
            alone, over all and by kind of corruption.
        """
        found = self.scored()
        if (found.kinds != NO_KIND).any():
            return _by_kind(found, self._kinds)
        by_query = ranking_metrics.per_query(found.scores, found.grades, found.offsets, tops=self._tops)
        summary = ranking_metrics.summarise(by_query)
        if int(np.diff(found.offsets).max()) > 2:
            return summary
        # Where a query is a pair, every other metric says the same in other words.
        return {name: value for name, value in summary.items() if name in ("pair_accuracy", "queries")}


def _score_some_at_a_time(scorer: Scores, inputs: Tensor | TokenBatch) -> Tensor:
    """Return the score of each item, (N,) float64: a batch of queries may hold more items than fit a pass."""
    if isinstance(inputs, TokenBatch):
        parts = zip(*(torch.split(part, SCORED_AT_A_TIME) for part in inputs), strict=True)
        return torch.cat([scorer.score(TokenBatch(ids, mask)).double() for ids, mask in parts])
    return torch.cat([scorer.score(some).double() for some in torch.split(inputs, SCORED_AT_A_TIME)])


def _by_kind(found: ScoredQueries, names: Sequence[str]) -> dict[str, float]:
    """Return the share of corruptions that score below what they were made of: the first item of their query."""
    first = np.repeat(found.scores[found.offsets[:-1]], np.diff(found.offsets))
    won = (first > found.scores) + 0.5 * (first == found.scores)
    return by_kind(found.kinds, won, names)
