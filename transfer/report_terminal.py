"""The report on a terminal: the verdicts in colour, the tables narrow."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from transfer.report_numbers import Units, metric_title
from transfer.report_schema import Report
from transfer.report_tables import Rows, arm_rows, depth_rows, paired_rows
from transfer.verdicts import Outcome, backbone_remark, crossing_sentence, failed_sentences, verdicts

__all__ = ["print_report"]

_COLOURS: dict[Outcome, str] = {
    "helps": "green",
    "mixed": "yellow",
    "no evidence": "yellow",
    "hurts": "red",
    "unknown": "dim",
}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print verdicts and tables for a terminal.

    Example:
        >>> import io
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> said = Console(file=io.StringIO(), width=100)
        >>> print_report(build_report("demo", 0, {"digits": TargetResults(arms, protocol)}), said)
        >>> "scratch" in said.file.getvalue()
        True
    """
    console = console or Console()
    console.print(Text(f"Few-shot report: {report.recipe}", style="bold"))
    found = verdicts(report)
    for name, target in report.targets.items():
        shots, units = target.protocol.shots, Units.of(target)
        console.print()
        console.print(Text(name, style="bold underline"))
        for verdict in found:
            if verdict.target == name:
                console.print(Text(f"  {verdict.headline}", style=_COLOURS[verdict.outcome]))
        if crossing := crossing_sentence(target):
            console.print(Text(f"  {crossing}"))
        for failed in failed_sentences(target):
            console.print(Text(f"  {failed}", style="yellow"))
        console.print(
            _rich_table(
                f"{metric_title(target.metric)}{units.in_brackets}, [95 % interval]", "arm", shots, arm_rows(target)
            )
        )
        if target.paired:
            title = f"paired difference{units.difference_in_brackets}, [95 % interval]"
            console.print(_rich_table(title, "arms", shots, paired_rows(target)))
        if target.depth:
            console.print(
                _rich_table(
                    f"{metric_title(target.metric)}{units.in_brackets} by layer, from the input up",
                    "layer",
                    shots,
                    depth_rows(target),
                )
            )
    console.print()
    for line in [backbone_remark(report), *report.notes]:
        if line:
            console.print(Text(line, style="dim"))


def _rich_table(title: str, first: str, shots: Sequence[int], rows: Rows) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column(first)
    for shot in shots:
        table.add_column(str(shot), justify="right")
    for name, cells in rows:
        table.add_row(Text(name), *(_rich_cell(text, stands_out) for text, stands_out in cells))
    return table


def _rich_cell(text: str, stands_out: bool) -> Text:
    """Return the mean above its interval, since a terminal is narrow."""
    mean, _, bounds = text.partition(" ")
    return Text.assemble((mean, "bold" if stands_out else ""), (f"\n{bounds}" if bounds else "", "dim"))
