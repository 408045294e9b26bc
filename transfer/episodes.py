"""Few-shot episodes: small tasks drawn from labelled features, solved all together, scored with an interval."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
from scipy import special

from auxtasks.errors import TransferError
from auxtasks.seeding import generator
from transfer.batched_heads import Precision, Problems, batched_predictions
from transfer.head import FloatArray, Head, IntArray

__all__ = ["EpisodeScores", "Episodes", "draw_episodes", "score_episodes"]


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Drawn episodes: which classes, which items to learn from, which to ask for.

    Attributes:
        classes: (E, way) classes of the table, different ones in an episode.
        support: (E, way * shot) rows, class after class.
        query: (E, way * queries) rows, class after class, none of them in the support.

    Example:
        >>> drawn: Episodes = draw_episodes(np.arange(60) % 6, way=5, shot=1, queries=3, episodes=10, seed=0)
        >>> drawn.support.shape, drawn.query.shape, drawn.support_labels.tolist()
        ((10, 5), (10, 15), [0, 1, 2, 3, 4])
    """

    classes: IntArray
    support: IntArray
    query: IntArray

    def __len__(self) -> int:
        """Return E, how many there are."""
        return len(self.classes)

    @property
    def way(self) -> int:
        """Classes of an episode."""
        return int(self.classes.shape[1])

    @property
    def shot(self) -> int:
        """Labelled items of each class."""
        return int(self.support.shape[1]) // self.way

    @property
    def queries(self) -> int:
        """Items of each class that are asked for."""
        return int(self.query.shape[1]) // self.way

    @property
    def support_labels(self) -> IntArray:
        """The place of each support item's class in the episode, (way * shot,), the same for all."""
        return np.repeat(np.arange(self.way), self.shot)

    @property
    def query_labels(self) -> IntArray:
        """The place of each query's class in the episode, (way * queries,), the same for all."""
        return np.repeat(np.arange(self.way), self.queries)

    @property
    def problems(self) -> Problems:
        """What `batched_predictions` takes."""
        return Problems(self.support, self.support_labels, self.query, self.way)


def draw_episodes(labels: npt.ArrayLike, *, way: int, shot: int, queries: int, episodes: int, seed: int) -> Episodes:
    """Draw episodes; number i is a function of the labels, the sizes, the seed and i alone.

    Classes are drawn without replacement among those with enough items, then `queries` and `shot` different items of
    each. Two numbers of shots have the same queries, and nested supports, where the same classes have enough items for
    both.

    Args:
        labels: (N,) classes; negative ones are unlabelled items, and left out.
        way: classes of an episode.
        shot: labelled items of each class.
        queries: items of each class that are asked for.
        episodes: how many.
        seed: of the draws.

    Raises:
        TransferError: sizes below 1 (`way` below 2), or fewer than `way` classes with enough items; says how many
            there are, and how many items the largest class has.

    Example:
        >>> drawn = draw_episodes([0, 0, 0, 1, 1, 1, 2, 2, 2], way=2, shot=1, queries=2, episodes=3, seed=0)
        >>> drawn.support.shape, drawn.query.shape
        ((3, 2), (3, 4))
        >>> again = draw_episodes([0, 0, 0, 1, 1, 1, 2, 2, 2], way=2, shot=1, queries=2, episodes=9, seed=0)
        >>> bool((again.query[:3] == drawn.query).all())
        True

    Reference:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, "Matching networks for one shot learning", NeurIPS 2016.
    """
    for name, value, least in (("way", way, 2), ("shot", shot, 1), ("queries", queries, 1), ("episodes", episodes, 1)):
        if value < least:
            raise TransferError(f"{name} must be at least {least}, found {value}.")
    classes = np.asarray(labels)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise TransferError(f"labels must be (N,) whole numbers, found {classes.dtype} of shape {classes.shape}.")
    names, members = _members(classes)
    counts = np.array([len(rows) for rows in members], dtype=np.int64)
    needed = shot + queries
    able = np.flatnonzero(counts >= needed)
    if len(able) < way:
        raise TransferError(
            f"{way}-way episodes with {shot} labelled and {queries} asked items a class need {way} classes of "
            f"{needed} items: {len(able)} of {len(counts)} classes have so many, the largest has "
            f"{counts.max(initial=0)}. Ask for fewer."
        )
    chosen = np.empty((episodes, way), np.int64)
    rows = np.empty((episodes, way, needed), np.int64)
    for number in range(episodes):
        rng = generator(seed, "episodes", index=number)
        chosen[number] = able[rng.permutation(len(able))[:way]]
        for place, name in enumerate(chosen[number]):
            rows[number, place] = rng.permutation(members[name])[:needed]
    return Episodes(
        classes=names[chosen],
        support=rows[:, :, queries:].reshape(episodes, -1),
        query=rows[:, :, :queries].reshape(episodes, -1),
    )


def _members(classes: npt.NDArray[np.integer]) -> tuple[IntArray, list[IntArray]]:
    """Return the names of the classes, and each one's rows."""
    labelled = np.flatnonzero(classes >= 0)
    order = labelled[np.argsort(classes[labelled], kind="stable")]
    names, starts = np.unique(classes[order], return_index=True)
    return names.astype(np.int64), np.split(order, starts[1:]) if len(order) else []


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeScores:
    """How often a head was right.

    Attributes:
        accuracies: (E,) shares of the queries that an episode got right.
        mean: over episodes.
        ci95: of the mean, or None for a single episode.
        way: classes of an episode.

    Example:
        >>> found = EpisodeScores(np.array([0.5, 0.7, 0.1]), mean=0.433, ci95=(0.1, 0.8), way=5)
        >>> found.chance, round(found.failed, 2)
        (0.2, 0.33)
    """

    accuracies: FloatArray
    mean: float
    ci95: tuple[float, float] | None
    way: int

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.way

    @property
    def failed(self) -> float:
        """Share of the episodes that are not above chance."""
        return float(np.mean(self.accuracies <= self.chance + 1e-12))


def score_episodes(
    head: Head, features: npt.ArrayLike, episodes: Episodes, *, precision: Precision = "float64"
) -> EpisodeScores:
    """Fit a head on each episode's support, and score its queries.

    The interval is of Student's t over episodes. It says how well the mean over all episodes of these very items is
    known, and so shrinks with their number: it says nothing of other classes or items, for which draws that share none
    would be needed.

    Args:
        head: one of `transfer.batched_heads.BATCHED_HEADS`.
        features: (N, D) of the items that `episodes` names by row.
        episodes: see `draw_episodes`.
        precision: see `batched_scores`.

    Raises:
        TransferError: as `batched_scores`.

    Example:
        >>> from transfer.heads import build_head
        >>> features = np.array([[1.0, 0.0], [1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.1, 1.0], [0.0, 0.9]])
        >>> drawn = draw_episodes([0, 0, 0, 1, 1, 1], way=2, shot=1, queries=2, episodes=5, seed=0)
        >>> score_episodes(build_head("prototype"), features, drawn).mean
        1.0

    Reference:
        Lafargue, Smith, Vermet, Lioi, Reiter, Gripon and Bonnet, "Oops, I sampled it again: reinterpreting confidence
        intervals in few-shot learning", TMLR 2024, on what such an interval holds for.
    """
    predicted = batched_predictions(head, features, episodes.problems, precision=precision)
    accuracies = (predicted == episodes.query_labels).mean(axis=1)
    return EpisodeScores(accuracies, float(accuracies.mean()), _interval(accuracies), episodes.way)


def _interval(values: FloatArray) -> tuple[float, float] | None:
    """Return Student's 95 % interval of the mean, inside 0 to 1."""
    if len(values) < 2:
        return None
    half = float(special.stdtrit(len(values) - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return max(0.0, mean - half), min(1.0, mean + half)
