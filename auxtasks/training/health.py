"""Whether a run learns anything at all: its metrics against what a network gives that has learnt nothing.

A task says which of its metrics have such a trivial level. A run looks at them where it logs them anyway, warns once of
each, and goes on: a collapse is sometimes left again, and who trains decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

__all__ = ["CollapseWatch", "TrivialLevel"]

FEWEST_STEPS = 100  # before these nothing need be learnt
ADVICE = "Lower the learning rate or the weight decay, lengthen the warm-up, or check that the labels say something."


@dataclasses.dataclass(frozen=True)
class TrivialLevel:
    """What a metric is when nothing is learnt, or all that was is lost.

    Attributes:
        metric: by its name in the log, in training as well as in validation.
        level: of the trivial network, with a margin for chance.
        trivial: whether it is a value ``"below"`` the level, or one ``"above"``, that says so.
        says: what it means, in a sentence without its end.
        at_once: whether it is a fault from the first step on; else half of the run, and 100 steps, may be trivial.
        lines: how many log lines in a row, or validations, have to say so.

    Example:
        >>> chance = TrivialLevel("pair_accuracy", 0.52, "below", "pairs are told apart no better than by chance")
        >>> chance.holds(0.501), chance.holds(0.7)
        (True, False)
    """

    metric: str
    level: float
    trivial: Literal["below", "above"]
    says: str
    at_once: bool = False
    lines: int = 2

    def holds(self, value: float) -> bool:
        """Return whether a value is trivial; one that is not a number says nothing."""
        return value < self.level if self.trivial == "below" else value > self.level

    def begins(self, total: int) -> int:
        """Return the first step, of so many, that may be judged."""
        return 0 if self.at_once else max(FEWEST_STEPS, total // 2)


class CollapseWatch:
    """Looks at the metrics of a run.

    Args:
        levels: of what is trained.
        total: steps of the run.
        told: the warnings that an interrupted run has given.
        in_a_row: what it has counted, see below.

    Attributes:
        told: all warnings so far, each once.
        in_a_row: how often in a row a level has held up to now, where it did: its kind of metrics, what it says, the
            number; as JSON has it.

    Example:
        >>> watch = CollapseWatch([TrivialLevel("spread", 0.1, "below", "all embeddings are alike", at_once=True)], 1000)
        >>> [len(watch.look(step, {"spread": 0.01})) for step in (50, 100, 150)]
        [0, 1, 0]
        >>> print(watch.told[0].partition(". Lower")[0])
        all embeddings are alike: spread was 0.01 at step 100, trivial is below 0.1
        >>> watch.in_a_row
        [('', 'all embeddings are alike', 3)]
    """  # noqa: E501  an example

    def __init__(
        self,
        levels: Sequence[TrivialLevel],
        total: int,
        told: Sequence[str] = (),
        in_a_row: Iterable[tuple[str, str, int]] = (),
    ) -> None:
        self._levels = levels
        self._total = total
        self._in_a_row = {(kind, says): count for kind, says, count in in_a_row}
        self.told = list(told)

    @property
    def in_a_row(self) -> list[tuple[str, str, int]]:
        """How often in a row a level has held up to now, where it did; in an order that does not tell of resumes."""
        return sorted((kind, says, count) for (kind, says), count in self._in_a_row.items() if count)

    def look(self, step: int, metrics: Mapping[str, float], kind: str = "") -> list[str]:
        """Look at a log line; return the warnings that are new.

        Args:
            step: of the line, from 1.
            metrics: of the line.
            kind: of metrics that are measured apart, such as ``"validation "``.
        """
        new = [
            f"{level.says}: {kind}{level.metric} was {metrics[level.metric]:.3g} at step {step}, trivial is "
            f"{level.trivial} {level.level:.3g}. {ADVICE}"
            for level in self._levels
            if level.metric in metrics and self._is_new(level, step, metrics[level.metric], kind)
        ]
        self.told += new
        return new

    def _is_new(self, level: TrivialLevel, step: int, value: float, kind: str) -> bool:
        if step < level.begins(self._total):
            return False
        key = (kind, level.says)
        self._in_a_row[key] = self._in_a_row.get(key, 0) + 1 if level.holds(value) else 0
        return self._in_a_row[key] >= level.lines and not any(told.startswith(level.says) for told in self.told)
