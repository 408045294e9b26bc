"""What the newest steps were made of, held or asked for again, so that a step that went wrong can be done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from auxtasks.data.loaders import BatchSource, KnowsRows, Shard

__all__ = ["RecentBatches"]

HELD_STEPS = 64


class RecentBatches:
    """The micro-batches of a feed's newest steps.

    Where each step is checked at once, those of one step are held. Where checks come later, a feed that follows steps
    is asked for a step again; of a stream, which cannot go back, those of so many steps are held, on the CPU.

    Args:
        feed: where the batches come from.
        shard: which of them are this process's.
        checked_at_once: whether a step is checked before the next one.

    Example:
        >>> from auxtasks.data.plan import EpochPlan
        >>> from auxtasks.data.row_feed import RowFeed
        >>> feed = RowFeed(lambda rows: rows + 100, EpochPlan(4, batch_size=2, seed=0, shuffle=False))
        >>> recent = RecentBatches(feed, Shard(), checked_at_once=False)
        >>> recent.begin(1)
        >>> [batch.tolist() for batch in recent.batches(1)], recent.rows(1)
        ([[102, 103]], [[2, 3]])
    """

    def __init__(self, feed: BatchSource, shard: Shard, *, checked_at_once: bool) -> None:
        self.feed = feed
        self._shard = shard
        comes_again = feed.position() is None
        self._steps_held = 1 if checked_at_once else 0 if comes_again else HELD_STEPS
        self._held: dict[int, list[Any]] = {}

    def begin(self, step: int) -> None:
        """Begin with a step; let go of the oldest."""
        self._held.pop(step - self._steps_held, None)
        if self._steps_held:
            self._held[step] = []

    def add(self, batch: Any) -> None:
        """Hold a micro-batch of the step that was begun, if need be."""
        if self._held:
            self._held[max(self._held)].append(batch)

    def batches(self, step: int) -> Sequence[Any]:
        """Return a step's micro-batches; none where they are gone."""
        if not self._steps_held:
            return list(self.feed.batches(step, step + 1, self._shard))
        return self._held.get(step, [])

    def rows(self, step: int) -> Sequence[Sequence[int]]:
        """Return the rows of a step's micro-batches; none where the feed does not know them."""
        return self.feed.rows(step, self._shard) if isinstance(self.feed, KnowsRows) else []

    @property
    def spell_row(self) -> Callable[[int], str]:
        """What spells a row."""
        return self.feed.spell_row if isinstance(self.feed, KnowsRows) else str
