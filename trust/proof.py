"""What was tried, how often, and with what result: a line of the table that `make trust` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

__all__ = ["Proof", "as_table"]


@dataclasses.dataclass(frozen=True)
class Proof:
    """One claim that was tried.

    Attributes:
        part: of the table, such as ``"kills"``.
        tried: what was tried, in words.
        times: how often: runs, kills, inputs or comparisons.
        failures: a line for each that did not hold.
        result: a figure, such as ``"largest relative difference 2.1e-07 (allowed 1e-05)"``.

    Example:
        >>> Proof("kills", "SIGKILL at a random moment", times=50).holds
        True
        >>> Proof("kills", "SIGKILL at a random moment", times=0).holds  # what was never tried proves nothing
        False
    """

    part: str
    tried: str
    times: int
    failures: tuple[str, ...] = ()
    result: str = ""

    @property
    def holds(self) -> bool:
        """Whether it was tried, and held each time."""
        return self.times > 0 and not self.failures


def as_table(proofs: Sequence[Proof]) -> Table:
    """Return the table of all that was tried."""
    table = Table("part", "what was tried", "times", "failed", "result", title="Trust")
    table.columns[2].justify = table.columns[3].justify = "right"
    for proof in proofs:
        table.add_row(proof.part, escape(proof.tried), f"{proof.times:,}", _failed(proof), escape(proof.result))
    return table


def _failed(proof: Proof) -> str:
    if proof.holds:
        return "0"
    return f"[red]{len(proof.failures) or 'not tried'}[/red]"
