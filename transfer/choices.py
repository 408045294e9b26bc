"""Choosing without the target's test labels: inside the support, on people of the pretraining data, or on a named set.

With two or more labels a class, cross-validation inside the support counts no label twice. With one there is nothing to
hold out, so the choice is made in advance on episodes from identities or classes that belong to the pretraining data.
A validation set is another protocol: its labels are spent on choices alone, and a report says how many there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import TransferError
from auxtasks.seeding import generator
from transfer.both_orders import BothOrders
from transfer.head import Head, Option
from transfer.heads import build_head
from transfer.selection import select_by_cross_validation

__all__ = ["Candidate", "Proxy", "Validation", "cross_validated", "rank_on_episodes", "ranked_in_advance"]

Features = NDArray[np.float32]
Rows = NDArray[np.int64]

EPISODES = 25
QUERIES = 5  # items of each class that an episode tests
CV_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer and a head to put on it.

    Attributes:
        layer: whose features the head reads.
        head: name in `HEADS`.
        options: of the head.
        both_orders: whether the features are differences of pairs, see `BothOrders`.

    Example:
        >>> candidate = Candidate("stage3", "ridge", {"alpha": 10.0})
        >>> candidate.build().alpha
        10.0
    """

    layer: str
    head: str
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    both_orders: bool = False

    def build(self) -> Head:
        """Return the head, not yet fitted."""
        head = build_head(self.head, **self.options)
        return BothOrders(head) if self.both_orders else head


Setting = TypeVar("Setting")
Fitted = TypeVar("Fitted")


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """A named set of labelled items that choices are made on, and nothing is fitted to.

    Attributes:
        rows: (V,) in the table of all items.
        labels: (V,) their classes.

    Example:
        >>> named = Validation(rows=np.array([7, 8, 9]), labels=np.array([0, 1, 1]))
        >>> named.best([0, 1, 2], fit=lambda label: label, predict=lambda label, rows: np.full(len(rows), label))
        1
    """

    rows: Rows
    labels: Rows

    def best(
        self,
        settings: Sequence[Setting],
        fit: Callable[[Setting], Fitted],
        predict: Callable[[Fitted, Rows], Rows],
    ) -> Fitted:
        """Fit each setting on the whole support; return what gets most items right, among equals the first.

        With a single setting nothing is scored.
        """
        best = fit(settings[0])
        if len(settings) == 1:
            return best
        most = self._right(predict(best, self.rows))
        for setting in settings[1:]:
            fitted = fit(setting)
            right = self._right(predict(fitted, self.rows))
            if right > most:
                best, most = fitted, right
        return best

    def _right(self, classes: Rows) -> int:
        return int(np.sum(classes == self.labels))


@dataclasses.dataclass(frozen=True)
class Proxy:
    """Labelled items that belong to pretraining and not to any target: what choices may be made on for nothing.

    Attributes:
        features: layer to (N, D).
        labels: (N,) identities or classes.

    Example:
        >>> people = Proxy({"stage3": np.zeros((6, 2), np.float32)}, labels=np.array([0, 0, 0, 1, 1, 2]))
        >>> people.way(shots=1, wanted=5), people.way(shots=2, wanted=5)
        (2, 1)
    """

    features: Mapping[str, Features]
    labels: Rows

    def way(self, shots: int, wanted: int) -> int:
        """Return how many classes an episode can have, at most `wanted`."""
        counts = np.unique(self.labels[self.labels >= 0], return_counts=True)[1]
        return min(wanted, int(np.sum(counts > shots)))


def rank_on_episodes(
    proxy: Proxy, candidates: Sequence[Candidate], *, shots: int, way: int, seed: int, episodes: int = EPISODES
) -> list[tuple[Candidate, float]]:
    """Score candidates on few-shot episodes; return them with their mean accuracy, the best first.

    Args:
        proxy: where episodes are drawn from.
        candidates: whose layers are in the proxy's features.
        shots: labels a class.
        way: classes an episode.
        seed: of the episodes, which are the same for all candidates.
        episodes: how many.

    Raises:
        TransferError: not enough classes with more than `shots` items.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(8), 6)
        >>> told, noise = np.eye(8, dtype=np.float32)[person], rng.normal(size=(48, 8)).astype(np.float32)
        >>> proxy = Proxy({"stage1": noise, "stage2": told + 0.1 * noise}, person)
        >>> candidates = [Candidate(layer, "prototype") for layer in ("stage1", "stage2")]
        >>> ranked = rank_on_episodes(proxy, candidates, shots=1, way=5, seed=0)
        >>> [(candidate.layer, round(accuracy, 2)) for candidate, accuracy in ranked]
        [('stage2', 1.0), ('stage1', 0.2)]
    """
    if proxy.way(shots, way) < max(2, way):
        raise TransferError(
            f"{way}-way {shots}-shot episodes need more classes: the proxy has {proxy.way(shots, way)}."
        )
    drawn = [_episode(proxy.labels, shots, way, seed, number) for number in range(episodes)]
    scores = []
    for candidate in candidates:
        features, head = proxy.features[candidate.layer], candidate.build()
        accuracies = []
        for support, support_labels, query, query_labels in drawn:
            fitted = head.fit(features[support], support_labels, way)
            accuracies.append(float(np.mean(fitted.predict(features[query]) == query_labels)))
        scores.append((candidate, float(np.mean(accuracies))))
    return sorted(scores, key=lambda pair: -pair[1])


def ranked_in_advance(
    proxy: Proxy | None, candidates: Sequence[Candidate], *, shots: int, classes: int, seed: int
) -> tuple[list[Candidate], str]:
    """Order candidates before any label of the target is seen, and say how.

    Without a proxy, or with one too small for episodes, the order given stays.

    Example:
        >>> candidates = [Candidate("stage2", "prototype"), Candidate("stage1", "prototype")]
        >>> ranked, how = ranked_in_advance(None, candidates, shots=1, classes=5, seed=0)
        >>> [candidate.layer for candidate in ranked], how
        (['stage2', 'stage1'], 'default fixed in advance')
    """
    way = proxy.way(shots, classes) if proxy else 0
    if proxy is None or way < 2:
        return list(candidates), "default fixed in advance"
    ranked = rank_on_episodes(proxy, candidates, shots=shots, way=way, seed=seed)
    return [candidate for candidate, _ in ranked], f"{way}-way {shots}-shot episodes of held-out pretraining identities"


def cross_validated(
    features: Mapping[str, Features], labels: Rows, ranked: Sequence[Candidate], seed: int
) -> Candidate:
    """Choose by stratified cross-validation inside the support; among equals the first of `ranked` wins.

    By accuracy, whatever the target's metric: a support has the same number of each class.

    Example:
        >>> labels = np.repeat([0, 1], 5)
        >>> told, constant = labels[:, None].astype(np.float32), np.ones((10, 1), np.float32)
        >>> ranked = [Candidate("stage1", "prototype"), Candidate("stage2", "prototype")]
        >>> cross_validated({"stage1": constant, "stage2": told}, labels, ranked, seed=0).layer
        'stage2'
    """
    scores = [0.0] * len(ranked)
    for layer, both_orders in dict.fromkeys((candidate.layer, candidate.both_orders) for candidate in ranked):
        places = [
            place
            for place, candidate in enumerate(ranked)
            if (candidate.layer, candidate.both_orders) == (layer, both_orders)
        ]
        heads = [(ranked[place].head, ranked[place].options) for place in places]
        choice = select_by_cross_validation(
            {layer: features[layer]}, labels, heads, folds=CV_FOLDS, seed=seed, both_orders=both_orders
        )
        for place, row in zip(places, choice.table, strict=True):
            scores[place] = row.score
    return ranked[int(np.argmax(scores))]


def _episode(labels: Rows, shots: int, way: int, seed: int, number: int) -> tuple[Rows, Rows, Rows, Rows]:
    """Draw support and query rows of one episode, with labels from 0 to way - 1."""
    rng = generator(seed, "episode", index=number)
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    chosen = rng.choice(names[counts > shots], size=way, replace=False)
    support, query = [], []
    for name in chosen:
        rows = rng.permutation(np.flatnonzero(labels == name))
        support.append(rows[:shots])
        query.append(rows[shots : shots + QUERIES])
    return (
        np.concatenate(support),
        np.repeat(np.arange(way), [len(rows) for rows in support]),
        np.concatenate(query),
        np.repeat(np.arange(way), [len(rows) for rows in query]),
    )
