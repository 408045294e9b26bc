"""What a network cut at a layer predicts: with heads on the frozen part, or fine-tuned from there down.

A fit is asked for as rows to learn from and rows to predict. Heads of many such fits are batched linear algebra; every
fine-tuned network is a training of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.arms import TunedArm
from transfer.batched_heads import BATCHED_HEADS, Problems, batched_predictions
from transfer.choices import Candidate
from transfer.head import Head

__all__ = ["Cut", "Fit", "Fits", "Mode", "Setting"]

Features = NDArray[np.float32]
Rows = NDArray[np.int64]
Mode = Literal["frozen", "finetuned"]

# Numbers that the fits of a setting gather. Below that, threads wait for each other longer than they compute: with two
# threads on two busy cores, five folds of 310 items took eight times the time that they take with one.
_ALONE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a network is cut, and what happens to the part that is kept.

    Attributes:
        layer: the highest that is kept; a head reads it.
        mode: ``"frozen"``, or ``"finetuned"`` together with the head.

    Example:
        >>> str(Cut("stage3", "frozen"))
        'stage3, frozen'
    """

    layer: str
    mode: Mode

    def __str__(self) -> str:
        """Return "stage3, frozen"."""
        return f"{self.layer}, {self.mode}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A cut with the head on it.

    Attributes:
        cut: where, and how.
        head: for messages, such as "ridge(alpha=1.0)"; of a fine-tuned network it is linear.
        candidate: layer and head to fit where the part below is frozen; None where it is fine-tuned.

    Example:
        >>> from transfer.choices import Candidate
        >>> setting = Setting(Cut("stage3", "frozen"), "ridge(alpha=1.0)", Candidate("stage3", "ridge"))
        >>> str(setting.cut), setting.candidate.head
        ('stage3, frozen', 'ridge')
    """

    cut: Cut
    head: str
    candidate: Candidate | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """One fit and what it is asked.

    Attributes:
        draw: number of the label draw.
        train: (S,) rows to learn from.
        ask: (Q,) rows to predict.

    Example:
        >>> fold = Fit(draw=0, train=np.array([0, 1, 2]), ask=np.array([3]))
        >>> len(fold.train), len(fold.ask)
        (3, 1)
    """

    draw: int
    train: Rows
    ask: Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Fits:
    """What answers fits.

    Attributes:
        features: layer to (N, D) frozen features of all items.
        labels: (N,) classes, of which only those of rows to learn from are read.
        n_classes: C.
        make_arm: layer to what fine-tunes a network cut there.

    Example:
        >>> from transfer.choices import Candidate
        >>> features = np.array([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9], [0.9, 0.1]], np.float32)
        >>> def no_network(layer):
        ...     raise LookupError(layer)
        >>> fits = Fits({"stage3": features}, np.array([0, 1, 0, 1]), n_classes=2, make_arm=no_network)
        >>> setting = Setting(Cut("stage3", "frozen"), "prototype", Candidate("stage3", "prototype"))
        >>> answers = fits.predict(setting, [Fit(0, train=np.array([0, 1]), ask=np.array([2, 3]))])
        >>> [answer.tolist() for answer in answers]
        [[0, 1]]
    """

    features: Mapping[str, Features]
    labels: Rows
    n_classes: int
    make_arm: Callable[[str], TunedArm]

    def predict(self, setting: Setting, fits: Sequence[Fit], done: Callable[[], None] = lambda: None) -> list[Rows]:
        """Return the classes of the rows that each fit is asked.

        Args:
            setting: what is fitted.
            fits: what to learn from and to predict.
            done: called after each training of a network.
        """
        if setting.candidate is not None:
            head, values = setting.candidate.build(), self.features[setting.cut.layer]
            return _predict_frozen(head, values, self.labels, self.n_classes, fits)
        arm, found = self.make_arm(setting.cut.layer), []
        for fit in fits:
            answer = arm.predict(fit.train, self.labels[fit.train], fit.ask, shot=1, draw=fit.draw)
            found.append(answer.classes)
            done()
        return found


def _predict_frozen(head: Head, features: Features, labels: Rows, n_classes: int, fits: Sequence[Fit]) -> list[Rows]:
    """Fit a head on frozen features, all fits of one size at once where the head knows how."""
    if not isinstance(head, BATCHED_HEADS):
        return [head.fit(features[fit.train], labels[fit.train], n_classes).predict(features[fit.ask]) for fit in fits]
    # Rows that no fit needs would be scaled for nothing. Float32 takes half the time; it decides near ties by rounding.
    needed = np.unique(np.concatenate([rows for fit in fits for rows in (fit.train, fit.ask)]))
    values = features[needed]
    found: dict[int, Rows] = {}
    for places in _by_size(fits):
        support = np.stack([fits[place].train for place in places])
        query = np.stack([fits[place].ask for place in places])
        problems = Problems(
            np.searchsorted(needed, support), labels[support], np.searchsorted(needed, query), n_classes
        )
        with _one_thread(when=(support.size + query.size) * values.shape[1] <= _ALONE):
            answers = batched_predictions(head, values, problems, precision="float32")
        found |= dict(zip(places, answers, strict=True))
    return [found[place] for place in range(len(fits))]


@contextlib.contextmanager
def _one_thread(*, when: bool) -> Iterator[None]:
    """Let torch compute with one thread, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if when else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_size(fits: Sequence[Fit]) -> list[list[int]]:
    """Return places of fits, those with as many rows to learn from and to predict together."""
    found: dict[tuple[int, int], list[int]] = {}
    for place, fit in enumerate(fits):
        found.setdefault((len(fit.train), len(fit.ask)), []).append(place)
    return list(found.values())
