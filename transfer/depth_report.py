"""The report of a depth search: depth.json with every number, depth.md for a reader, and the curve as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError
from transfer import plots
from transfer.depth import DepthSearch, DepthTest
from transfer.depth_curve import DepthPoint
from transfer.depth_fits import Cut
from transfer.report_numbers import FRACTION_METRICS, metric_title
from transfer.report_schema import list_problems
from transfer.statistics import Estimate

__all__ = [
    "DepthReport", "build_depth_report", "depth_markdown", "depth_panel", "read_depth_report", "write_depth_report",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Score(_Strict):
    """A mean with its 95 % interval, and what it is the mean of."""

    mean: float
    ci95: tuple[float, float] | None
    values: list[float]


class Row(_Strict):
    """One cut: its score on held-out labels and, where the test was opened, on that."""

    layer: str
    mode: Literal["frozen", "finetuned"]
    head: str
    validation: Score
    standard_error: float
    test: Score | None = None
    draws_that_chose_it: int


class Place(_Strict):
    """A cut."""

    layer: str
    mode: Literal["frozen", "finetuned"]


class DepthReport(_Strict):
    """What `depth.json` holds.

    Attributes:
        target: name.
        rows: all cuts, mode by mode, layers from the input up.
        chosen: the best by the mean on held-out labels.
        choices: what each draw chose by its own labels.
        test: each draw tested with its own choice; None where there was no test.
        folds, repeats: of the cross-validation, as asked for; None on a named validation set.
    """

    schema_version: Literal[1] = 1
    target: str
    metric: str
    rows: list[Row]
    chosen: Place
    choices: list[Place]
    chosen_by: str
    remark: str
    test: Score | None
    shots: int | None
    draws: int
    classes: int
    labels: int
    validation_labels: int
    folds: int | None = None
    repeats: int | None = None
    test_items: int
    resampled: str
    notes: list[str]


def build_depth_report(
    target: str,
    found: DepthSearch,
    tested: DepthTest | None,
    notes: list[str] | None = None,
    *,
    folds: int | None = None,
    repeats: int | None = None,
) -> DepthReport:
    """Put a search, and its test if it was opened, into a report.

    Args:
        target: its name.
        found, tested: see `search_depth` and `DepthSearch.test`.
        notes: for the reader.
        folds, repeats: as asked for; None takes those that were made, which are fewer where a class has few labels.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> from transfer.depth import search_depth
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> iris, network = encode_features(source), mlp(width=4, hidden=[8, 8])
        >>> found = search_depth(network, iris, shots=5, draws=2, modes=["frozen"], heads=[("ridge", {})])
        >>> report = build_depth_report("iris", found, found.test())
        >>> report.target, report.labels, [row.layer for row in report.rows]
        ('iris', 15, ['hidden1', 'hidden2'])
        >>> print(depth_markdown(report).splitlines()[0])
        # Depth search: iris
        >>> depth_panel(report).x_ticks
        {0.0: 'hidden1', 1.0: 'hidden2'}
    """
    protocol = found.protocol
    rows = [
        Row(
            layer=layer,
            mode=mode,
            head=point.head,
            validation=_score(point),
            standard_error=point.standard_error,
            test=_score(tested.curve[mode][layer]) if tested else None,
            draws_that_chose_it=found.choices.count(Cut(layer, mode)),
        )
        for mode, by_layer in found.curve.items()
        for layer, point in by_layer.items()
    ]
    return DepthReport(
        target=target,
        metric=protocol.metric,
        rows=rows,
        chosen=_place(found.chosen),
        choices=[_place(cut) for cut in found.choices],
        chosen_by=found.chosen_by,
        remark=found.remark,
        test=_score(tested.chosen) if tested else None,
        shots=protocol.shots,
        draws=len(protocol.draws),
        classes=protocol.classes,
        labels=protocol.labels,
        validation_labels=protocol.validation_labels,
        folds=None if protocol.folds is None else folds or protocol.folds,
        repeats=None if protocol.repeats is None else repeats or protocol.repeats,
        test_items=protocol.test_items,
        resampled=f"label draws and test {'classes' if protocol.unit == 'class' else 'items'}",
        notes=list(notes or []),
    )


def write_depth_report(report: DepthReport, folder: Path) -> list[Path]:
    """Write depth.png, depth.md and depth.json, each as a whole; return their paths.

    Raises:
        CheckpointError: the disk is full or cannot be written.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> from transfer.depth import search_depth
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> found = search_depth(mlp(width=4, hidden=[8]), encode_features(source), shots=5, draws=2, modes=["frozen"])
        >>> report: DepthReport = build_depth_report("iris", found, None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = write_depth_report(report, Path(folder))
        ...     print([path.name for path in written], read_depth_report(Path(folder) / "depth.json") == report)
        ['depth.png', 'depth.md', 'depth.json'] True
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "depth.png", folder / "depth.md", folder / "depth.json"]
    plots.save_png(plots.depth_curve([depth_panel(report)]), written[0])
    checkpoint.write_text_atomically(written[1], depth_markdown(report))
    # Last, so that a depth.json never stands beside older files.
    checkpoint.write_text_atomically(written[2], report.model_dump_json(indent=2) + "\n")
    return written


def read_depth_report(path: Path) -> DepthReport:
    """Read a depth.json.

    Raises:
        CheckpointError: it is missing, damaged, or of another version; lists all problems.
    """
    try:
        return DepthReport.model_validate(checkpoint.read_json(path))
    except ValidationError as error:
        raise CheckpointError(f"{path} is not the report of a depth search:\n{list_problems(error)}") from error


def depth_panel(report: DepthReport) -> plots.Panel:
    """Return the curves on held-out labels and on the test, a pair a mode; the chosen cut has a ring."""
    factor = 100.0 if report.metric in FRACTION_METRICS else 1.0
    layers = list(dict.fromkeys(row.layer for row in report.rows))
    curves = []
    for mode in dict.fromkeys(row.mode for row in report.rows):
        rows = [row for row in report.rows if row.mode == mode]
        here = [row.layer for row in rows]
        marked = here.index(report.chosen.layer) if report.chosen.mode == mode else None
        curves.append(_curve(f"{mode}, validation", here, layers, [row.validation for row in rows], 100.0, marked))
        tests = [row.test for row in rows if row.test is not None]
        if tests:
            curves.append(_curve(f"{mode}, test", here, layers, tests, factor, marked))
    unit = " (%)" if factor == 100.0 else ""
    ticks = {float(place): layer for place, layer in enumerate(layers)}
    chance = 100.0 / report.classes if report.metric == "accuracy" else None
    return plots.Panel(report.target, f"{metric_title(report.metric)}{unit}", curves, x_ticks=ticks, chance=chance)


def _curve(
    name: str, here: list[str], layers: list[str], scores: list[Score], factor: float, marked: int | None
) -> plots.Curve:
    bounds = [score.ci95 or (score.mean, score.mean) for score in scores]
    return plots.Curve(
        name=name,
        x=[float(layers.index(layer)) for layer in here],
        mean=[factor * score.mean for score in scores],
        low=[factor * low for low, _ in bounds],
        high=[factor * high for _, high in bounds],
        marked=marked,
    )


def depth_markdown(report: DepthReport) -> str:
    """Return the section for a reader: the choice first, the table of all cuts after."""
    each = "label" if report.shots == 1 else "labels"
    labels = "all labels" if report.shots is None else f"{report.shots} {each} a class"
    draws = "" if report.draws == 1 else f", {report.draws} draws"
    chosen = f"{report.chosen.layer}, {report.chosen.mode}"
    blocks = [
        f"# Depth search: {report.target}",
        f"**Cut at {chosen}**, by {labels} ({report.labels} in all{draws}). {report.chosen_by}; the mean over "
        f"draws, which sees more labels than any of them, decides this line. {report.remark}"
        if report.draws > 1
        else f"**Cut at {chosen}**, by {labels} ({report.labels} in all). {report.chosen_by}. {report.remark}",
        _tested(report),
        "![Score against layer](depth.png)",
        _table(report),
        "Validation: accuracy on labels that a fit did not see, of the best head at each cut. In brackets: 95 % "
        f"intervals. Resampled in the test: {report.resampled}.",
    ]
    if report.notes:
        blocks.append("\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(blocks) + "\n"


def _tested(report: DepthReport) -> str:
    if report.test is None:
        return "Not tested: there is no test set."
    how = "with what each draw chose for itself" if report.draws > 1 else "with what was chosen"
    return (
        f"Test ({report.test_items} items a draw), {how}, opened after the choice: "
        f"{_cell(report.test, report.metric)}. The test column below is to look at, not to choose by."
    )


def _table(report: DepthReport) -> str:
    with_test = any(row.test is not None for row in report.rows)
    header = ["layer", "mode", "head", "validation", *(["test"] if with_test else []), "draws that chose it"]
    lines = [header, ["---", "---", "---", *["---:"] * (len(header) - 3)]]
    for row in report.rows:
        name = f"**{row.layer}**" if Place(layer=row.layer, mode=row.mode) == report.chosen else row.layer
        test = [_cell(row.test, report.metric)] if row.test is not None else []
        cells = [name, row.mode, row.head, _cell(row.validation, "accuracy"), *test]
        lines.append([*cells, f"{row.draws_that_chose_it} of {report.draws}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(score: Score, metric: str) -> str:
    """Return "98.5 % [97.1, 99.5]"."""
    factor, digits, sign = (100.0, 1, " %") if metric in FRACTION_METRICS else (1.0, 3, "")
    interval = ""
    if score.ci95 is not None:
        interval = f" [{factor * score.ci95[0]:.{digits}f}, {factor * score.ci95[1]:.{digits}f}]"
    return f"{factor * score.mean:.{digits}f}{sign}{interval}"


def _score(found: DepthPoint | Estimate) -> Score:
    return Score(mean=found.mean, ci95=found.ci95, values=list(found.values))


def _place(cut: Cut) -> Place:
    return Place(layer=cut.layer, mode=cut.mode)
