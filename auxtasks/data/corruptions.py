"""Good sentences made bad: pure functions of (words, rng), each the wrong order or the wrong words of one kind.

A corruption gets the words of a sentence that may move (see `auxtasks.data.sentences`), as an array of ids or strings,
and returns what became of them. No corruption returns the sentence itself: where it finds no other one, such as another
order of "no no no", it returns None, and `corrupt` takes another kind.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import DataError, did_you_mean

__all__ = ["KINDS", "ORDER_ONLY", "Corrupted", "Corruption", "Mixture", "corrupt", "out_of_place", "predecessors"]

Words = NDArray[Any]
Places = NDArray[np.int64]
DrawWords = Callable[[np.random.Generator, int], Words]

# Draws before a kind gives up: a shuffle of two different words is another order half the time, a window a third.
TRIES = 16
WINDOW = 3  # words within which the kind "window" shuffles
LARGEST_BLOCK = 4  # words a block of the kind "blocks"


class Corrupted(NamedTuple):
    """What became of a sentence of N words.

    Attributes:
        words: (M,) the words as they now stand.
        origin: (M,) the place, in the sentence as it was, of each word; a new word has the place that it took.
        replaced: (M,) bool, whether a word is new.
    """

    words: Words
    origin: Places
    replaced: NDArray[np.bool_]


Corruption = Callable[[Words, np.random.Generator, DrawWords], Corrupted | None]


def _reordered(words: Words, order: Places) -> Corrupted:
    return Corrupted(words[order], order, np.zeros(len(order), dtype=bool))


def _retry(words: Words, draw: Callable[[], Places]) -> Corrupted | None:
    """Draw orders until one makes another sentence."""
    for _ in range(TRIES):
        order = draw()
        if not np.array_equal(words[order], words):
            return _reordered(words, order)
    return None


def shuffle(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Put all words in a random order."""
    del draw_words
    return _retry(words, lambda: rng.permutation(len(words)))


def swap(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Swap two neighbours."""
    del draw_words
    places = np.flatnonzero(words[1:] != words[:-1])
    if not len(places):
        return None
    left = int(places[rng.integers(len(places))])
    order = np.arange(len(words))
    order[[left, left + 1]] = left + 1, left
    return _reordered(words, order)


def window(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Shuffle within windows of three words, which begin at a random offset: no word goes far."""
    del draw_words

    def draw() -> Places:
        group = (np.arange(len(words)) + rng.integers(WINDOW)) // WINDOW
        return np.lexsort((rng.random(len(words)), group))

    return _retry(words, draw)


def blocks(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Swap two neighbouring blocks of one to four words: every word keeps most of its neighbours."""
    del draw_words
    if len(words) < 2:
        return None

    def draw() -> Places:
        first = int(rng.integers(1, min(LARGEST_BLOCK, len(words) - 1) + 1))
        second = int(rng.integers(1, min(LARGEST_BLOCK, len(words) - first) + 1))
        start = int(rng.integers(len(words) - first - second + 1))
        places = np.arange(len(words))
        middle, end = start + first, start + first + second
        return np.concatenate([places[:start], places[middle:end], places[start:middle], places[end:]])

    return _retry(words, draw)


def drop(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Leave one word out."""
    del draw_words
    if len(words) < 2:
        return None
    return _reordered(words, np.delete(np.arange(len(words)), rng.integers(len(words))))


def duplicate(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Say one word twice."""
    del draw_words
    if not len(words):
        return None
    place = int(rng.integers(len(words)))
    return _reordered(words, np.insert(np.arange(len(words)), place, place))


def replace(words: Words, rng: np.random.Generator, draw_words: DrawWords) -> Corrupted | None:
    """Replace one word by a word drawn from the corpus, as often as it occurs there."""
    if not len(words):
        return None
    place = int(rng.integers(len(words)))
    drawn = draw_words(rng, TRIES)
    others = drawn[drawn != words[place]]
    if not len(others):
        return None
    new = np.arange(len(words)) == place
    # Not by assignment: an array of strings would cut off a word longer than its own.
    return Corrupted(np.where(new, others[0], words), np.arange(len(words)), new)


KINDS: Final[Mapping[str, Corruption]] = MappingProxyType(
    {
        "shuffle": shuffle,
        "window": window,
        "blocks": blocks,
        "swap": swap,
        "drop": drop,
        "duplicate": duplicate,
        "replace": replace,
    }
)
ORDER_ONLY: Final = ("shuffle", "window", "blocks", "swap")  # the same words, so that a bag of words sees nothing


def out_of_place(corrupted: Corrupted) -> NDArray[np.bool_]:
    """Return which words stand behind another place of the sentence than they did, (M,).

    Where a sentence breaks is told by its joints, whatever broke it: after a swap of neighbours there are three broken
    joints, after a word was left out, one. The first word is out of place if it was not the first. A new word stands in
    the place that it took, and breaks no joint: `Corrupted.replaced` tells of it.

    Example:
        >>> moved = Corrupted(np.array(list("acbd")), np.array([0, 2, 1, 3]), np.zeros(4, dtype=bool))
        >>> out_of_place(moved).tolist()
        [False, True, True, True]
    """
    before = np.concatenate([[-1], corrupted.origin[:-1]])
    return np.asarray(corrupted.origin != before + 1)


def predecessors(corrupted: Corrupted) -> Places:
    """Return which word stood before each one in the sentence as it was, as its place now, (M,).

    -1 for the word that was the first; -2 where there is no answer: new words, and words whose predecessor is gone.

    Example:
        >>> moved = Corrupted(np.array(list("acbd")), np.array([0, 2, 1, 3]), np.zeros(4, dtype=bool))
        >>> predecessors(moved).tolist()
        [-1, 2, 0, 1]
    """
    place_of = np.full(int(corrupted.origin.max(initial=0)) + 1, -2)
    place_of[corrupted.origin[::-1]] = np.arange(len(corrupted.origin))[::-1]  # the first of two copies
    found = np.where(corrupted.origin == 0, -1, place_of[corrupted.origin - 1])
    return np.where(corrupted.replaced, -2, found)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Which kinds of corruption, how often, and how that changes in the course of training.

    Attributes:
        weights: kind to weight; they need not sum to 1.
        easy: weights at the first step, from which a curriculum leads to `weights` in a straight line; None has none.
        curriculum_steps: at which step `weights` are reached; 0 without a curriculum.

    Raises:
        DataError: an unknown kind, a negative weight, or none above zero; `easy` without `curriculum_steps`, or
            the other way round.

    Example:
        >>> mixture = Mixture({"swap": 1.0}, easy={"shuffle": 1.0}, curriculum_steps=100)
        >>> {kind: float(p) for kind, p in mixture.probabilities(step=25).items()}
        {'shuffle': 0.75, 'swap': 0.25}
    """

    weights: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"swap": 3.0, "window": 2.0, "blocks": 2.0, "shuffle": 1.0, "drop": 1.0,
                                 "duplicate": 0.5, "replace": 2.0}
    )  # fmt: skip
    easy: Mapping[str, float] | None = None
    curriculum_steps: int = 0

    def __post_init__(self) -> None:
        for weights in (self.weights, *([self.easy] if self.easy is not None else [])):
            unknown = sorted(set(weights) - set(KINDS))
            if unknown:
                hint = did_you_mean(unknown[0], KINDS)
                raise DataError(f"there is no corruption {unknown[0]!r}; there are {', '.join(KINDS)}.{hint}")
            if not (all(0 <= weight < math.inf for weight in weights.values()) and any(weights.values())):
                raise DataError(f"weights are not negative, and one is above zero; found {dict(weights)}.")
        if self.curriculum_steps < 0 or (self.curriculum_steps == 0) != (self.easy is None):
            raise DataError(
                f"a curriculum has weights to begin with and a number of steps; found easy={self.easy} and "
                f"curriculum_steps={self.curriculum_steps}."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that occur at some step, in the order of `KINDS`."""
        return tuple(kind for kind in KINDS if self.weights.get(kind, 0) > 0 or (self.easy or {}).get(kind, 0) > 0)

    def probabilities(self, step: int = 0) -> dict[str, float]:
        """Return how likely each kind is at a step."""
        goal = _shares(self.weights)
        if self.easy is not None and step < self.curriculum_steps:
            start, progress = _shares(self.easy), step / self.curriculum_steps
            goal = {kind: (1 - progress) * start[kind] + progress * goal[kind] for kind in KINDS}
        return {kind: share for kind, share in goal.items() if share > 0}


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {kind: weights.get(kind, 0.0) / total for kind in KINDS}


def corrupt(
    words: Words, rng: np.random.Generator, mixture: Mixture, draw_words: DrawWords, *, step: int = 0
) -> tuple[str, Corrupted] | None:
    """Corrupt a sentence by a kind drawn from a mixture; where that kind cannot, by another one of the mixture.

    Args:
        words: (N,) that may move.
        rng: the sentence's own.
        mixture: see `Mixture`.
        draw_words: (rng, count) to words of the corpus.
        step: of the curriculum.

    Returns:
        The kind, and what became of the words; None where no kind of the mixture can change them.

    Example:
        >>> words, rng = np.array(["so", "it", "goes"]), np.random.default_rng(0)
        >>> kind, bad = corrupt(words, rng, Mixture({"swap": 1}), lambda rng, count: words[:0])
        >>> kind, sorted(bad.words.tolist()), bad.words.tolist() == words.tolist()
        ('swap', ['goes', 'it', 'so'], False)
    """
    shares = mixture.probabilities(step)
    kinds, weights = list(shares), np.array(list(shares.values()))
    # An exponential race: the first is drawn with the mixture's probabilities, the others stand in for it in turn.
    for place in np.argsort(rng.exponential(size=len(kinds)) / weights):
        corrupted = KINDS[kinds[place]](words, rng, draw_words)
        if corrupted is not None:
            return kinds[place], corrupted
    return None
