"""The classical baseline for rankings: a linear RankSVM on vectors, or on words weighed by TF-IDF."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.rankings import ItemTable, RankingTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import TransferError
from auxtasks.ranking_losses import ordered_pairs
from auxtasks.ranking_metrics import per_query, summarise
from auxtasks.seeding import generator
from transfer.words import word_weights

__all__ = ["STRENGTHS", "RankSVM", "choose_rank_svm", "pair_rows", "rank_svm_weights"]

# Weights of the pairs against the penalty; the first is used where nothing is chosen, and wins among equals.
STRENGTHS = (0.1, 0.01, 0.001, 1.0)
# Passes over the pairs. Great strengths would take ten times as many, which costs minutes and ranks no better.
MOST_ITERATIONS = 2000
MOST_PAIRS = 200_000  # that it is fitted on: drawn evenly where there are more
SCORED_AT_A_TIME = 65_536

Rows = NDArray[np.int64]


def rank_svm_weights(differences: Any, strength: float, seed: int = 0) -> NDArray[np.float64]:
    """Return the weights (D,) of a RankSVM.

    It minimises ``|w|^2 / 2 + strength * sum max(0, 1 - w . d)`` over differences d of a better and a worse item. A
    linear SVM without an intercept does the same on differences whose signs alternate, so that it has two classes. The
    solver stops after `MOST_ITERATIONS`, which for a great strength is short of the minimum.

    Args:
        differences: (P, D), dense or sparse: features of the better item minus those of the worse.
        strength: of the pairs against the penalty.
        seed: of the solver's order.

    Raises:
        TransferError: fewer than two pairs.

    Example:
        >>> rank_svm_weights(np.array([[1.0, 0.0], [2.0, 0.0]]), strength=10.0).round(2).tolist()
        [1.0, 0.0]

    Reference:
        Joachims, "Optimizing search engines using clickthrough data", KDD 2002.
    """
    count = differences.shape[0]
    if count < 2:
        raise TransferError(f"a RankSVM needs at least two pairs of a better and a worse item, found {count}.")
    signs = np.where(np.arange(count) % 2, -1.0, 1.0)
    turned = (
        differences.multiply(signs[:, None]).tocsr()
        if hasattr(differences, "multiply")
        else (differences * signs[:, None])
    )
    svm = LinearSVC(C=strength, loss="hinge", dual=True, fit_intercept=False, tol=1e-4, max_iter=MOST_ITERATIONS,
                    random_state=seed)  # fmt: skip
    with warnings.catch_warnings():
        # Where a strength is too great for the solver, what it has reached competes with the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm.fit(turned, signs)
    weights: NDArray[np.float64] = svm.coef_.ravel().astype(np.float64)
    return weights


@dataclasses.dataclass(frozen=True)
class RankSVM:
    """A fitted one.

    Attributes:
        transform: raw vectors or texts to rows of features.
        weights: (D,).
        strength: that was chosen.
    """

    transform: Callable[[Any], Any]
    weights: NDArray[np.float64]
    strength: float

    def score(self, items: ItemTable) -> NDArray[np.float64]:
        """Return the score of each item, (N,)."""
        raw = _raw(items)
        starts = range(0, len(raw), SCORED_AT_A_TIME)
        return np.concatenate(
            [self.transform(raw[start : start + SCORED_AT_A_TIME]) @ self.weights for start in starts]
        )


def choose_rank_svm(trained: RankingTable, held_out: RankingTable | None, *, seed: int = 0) -> RankSVM:
    """Fit a RankSVM on queries; its strength is the one that ranks the held-out queries best.

    Args:
        trained: queries of vectors or texts; at most 200,000 of their pairs are used. Scale, or vocabulary and weights
            of words, come from their items.
        held_out: queries to choose on, by NDCG@10, or by the accuracy of pairs where all queries are pairs; None takes
            the first of `STRENGTHS`.
        seed: of the pairs that are drawn.

    Raises:
        TransferError: items that are pictures, or no two pairs.

    Example:
        >>> import datasets
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.ranking_sources import read_lists
        >>> rows = {"qid": [0, 0, 0, 1, 1], "grade": [0, 1, 2, 2, 0], "features": [[0.1], [1.0], [2.1], [1.9], [0.0]]}
        >>> queries = read_lists(datasets.Dataset.from_dict(rows), items=encode_features)
        >>> len(pair_rows(queries)[0])
        4
        >>> found: RankSVM = choose_rank_svm(queries, None)
        >>> found.score(queries.items).argmax().item(), found.weights.shape
        (2, (1,))
    """
    better, worse = pair_rows(trained, MOST_PAIRS, seed)
    used = np.unique(trained.places)
    raw = _raw(trained.items)
    transform = _fitted(raw, used)
    features = transform(raw)
    differences = features[better] - features[worse]
    strengths = STRENGTHS if held_out is not None else STRENGTHS[:1]
    found = [RankSVM(transform, rank_svm_weights(differences, strength, seed), strength) for strength in strengths]
    if held_out is None:
        return found[0]
    return max(found, key=lambda svm: _quality(svm, held_out))  # among equals the first


def pair_rows(queries: RankingTable, most: int | None = None, seed: int = 0) -> tuple[Rows, Rows]:
    """Return the items, as rows, of all pairs of a better and a worse one; `most` of them, drawn, if there are more."""
    better, worse = [], []
    for query in queries.speaking:
        places = queries.places[queries.offsets[query] : queries.offsets[query + 1]]
        above, below = ordered_pairs(queries.grades[queries.offsets[query] : queries.offsets[query + 1]])
        better.append(places[above])
        worse.append(places[below])
    if not better:
        raise TransferError("no query has two items of different grades: there is no pair to learn from.")
    above, below = np.concatenate(better), np.concatenate(worse)
    if most is None or len(above) <= most:
        return above, below
    chosen = np.sort(generator(seed, "pairs of a RankSVM").permutation(len(above))[:most])
    return above[chosen], below[chosen]


def _quality(svm: RankSVM, held_out: RankingTable) -> float:
    scores = svm.score(held_out.items)[held_out.places]
    found = summarise(per_query(scores, held_out.grades, held_out.offsets, tops=(10,)))
    return found["ndcg@10"] if int(held_out.lengths.max()) > 2 else found["pair_accuracy"]


def _raw(items: ItemTable) -> Sequence[str] | NDArray[np.float32]:
    if isinstance(items, TextTable):
        return items.texts
    if isinstance(items, FeatureTable):
        return items.values
    raise TransferError("a RankSVM reads vectors or texts, found pictures.")


def _fitted(raw: Sequence[str] | NDArray[np.float32], used: Rows) -> Callable[[Any], Any]:
    if isinstance(raw, np.ndarray):
        scaler = StandardScaler().fit(raw[used].astype(np.float64))
        return lambda values: scaler.transform(np.asarray(values, dtype=np.float64))
    words = word_weights().fit([raw[int(row)] for row in used])
    return words.transform  # type: ignore[no-any-return]
