"""Two plots: score against labels a class, and score against depth; one panel a target.

Drawn through Matplotlib's object interface with the Agg canvas: no window, and no state that another plot of the
same process could see. Colours are Okabe and Ito's, which colour-blind readers can tell apart; each arm has a marker of
its own as well, for print in grey.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from auxtasks.errors import CheckpointError

__all__ = ["Curve", "Panel", "depth_curve", "learning_curve", "save_png"]

_STYLES = {  # arm: colour, marker, dashes; what reuses the backbone is drawn through
    "frozen": ("#0072B2", "o", "-"),
    "finetuned": ("#D55E00", "s", "-"),
    "scratch": ("#000000", "^", "--"),
    "raw": ("#009E73", "D", "--"),
    "untrained": ("#8c8c8c", "v", "--"),
    "longer": ("#b8860b", "x", "--"),
}
_SPARE_STYLES = (("#CC79A7", "P", "-"), ("#56B4E9", "X", "-"), ("#E69F00", "h", "-"))
_QUIET = "#666666"
_MOST_COLUMNS = 2  # more, and the letters are too small on a page


@dataclass(frozen=True)
class Curve:
    """Points with intervals.

    Args:
        name: of the line.
        x: (K,) positions: labels a class, or places of the layers.
        mean: (K,) scores.
        low: (K,) lower ends of the intervals, the mean itself where there is none.
        high: (K,) upper ends.
        marked: place in `x` that was chosen, or None.
    """

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    marked: int | None = None


@dataclass(frozen=True)
class Panel:
    """One target.

    Args:
        title: name of the target.
        y_label: what is scored, with its unit.
        curves: lines to draw.
        x_ticks: labels along the x axis, by position.
        chance: score of guessing, or None.
    """

    title: str
    y_label: str
    curves: Sequence[Curve]
    x_ticks: Mapping[float, str] = field(default_factory=dict)
    chance: float | None = None


def learning_curve(panels: Sequence[Panel]) -> Figure:
    """Draw score against labels a class, one line an arm, named at its right end.

    Args:
        panels: one a target; x is the number of labels a class.

    Example:
        >>> curve = Curve("frozen", x=[1, 2, 4], mean=[50, 60, 70], low=[45, 56, 67], high=[55, 64, 73])
        >>> len(learning_curve([Panel("digits", "accuracy (%)", [curve])]).axes)
        1
    """
    figure, every_axes = _grid(len(panels))
    for axes, panel in zip(every_axes, panels, strict=True):
        _draw_arms(axes, panel)
    return figure


def depth_curve(panels: Sequence[Panel]) -> Figure:
    """Draw score against layer, one line a number of labels, with a ring around the layer that was chosen.

    Args:
        panels: one a target; x counts the layers from the input up, `x_ticks` names them.
    """
    figure, every_axes = _grid(len(panels))
    for axes, panel in zip(every_axes, panels, strict=True):
        _draw_depth(axes, panel)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as a whole PNG, or leave what was there before.

    Raises:
        CheckpointError: when the disk is full or cannot be written.

    Example:
        >>> import tempfile
        >>> curve = Curve("5 labels", x=[0, 1], mean=[50, 60], low=[45, 56], high=[55, 64])
        >>> figure = depth_curve([Panel("digits", "accuracy (%)", [curve], x_ticks={0.0: "stage1", 1.0: "stage2"})])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_png(figure, Path(folder) / "depth.png")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['depth.png']
    """
    picture = io.BytesIO()
    # Without the version of Matplotlib in it, the same figure is the same file.
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        temporary.write_bytes(picture.getvalue())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"could not write {path}: {error.strerror or error}.") from error


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many axes, in rows of at most two."""
    columns = min(count, _MOST_COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.6 * columns, 4.2 * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _draw_arms(axes: Axes, panel: Panel) -> None:
    spare = iter(_SPARE_STYLES * len(panel.curves))
    styles = {curve.name: _STYLES.get(curve.name) or next(spare) for curve in panel.curves}
    for place, curve in enumerate(panel.curves):
        colour, marker, dashes = styles[curve.name]
        # Arms stand a little apart, so that their bars do not cover each other; the axis is a logarithm.
        beside = 2 ** (0.035 * (place - (len(panel.curves) - 1) / 2))
        _draw_with_bars(axes, curve, np.asarray(curve.x) * beside, colour, marker, dashes)
    _draw_chance(axes, panel)
    shots = sorted({shot for curve in panel.curves for shot in curve.x})
    axes.set_xscale("log", base=2)
    axes.set_xlim(shots[0] / 1.25, shots[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(shots))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([panel.x_ticks.get(shot, f"{shot:g}") for shot in shots])
    _finish(axes, panel, "labels a class")
    _name_line_ends(axes, panel, {name: style[0] for name, style in styles.items()})


def _draw_depth(axes: Axes, panel: Panel) -> None:
    # From dark to light with more labels; the palest tenth of the map is not readable on white.
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(panel.curves)))
    for place, (curve, colour) in enumerate(zip(panel.curves, colours, strict=True)):
        beside = 0.04 * (place - (len(panel.curves) - 1) / 2)
        at = np.asarray(curve.x) + beside
        _draw_with_bars(axes, curve, at, colour, "o", "-")
        if curve.marked is not None:
            axes.plot(at[curve.marked], curve.mean[curve.marked], "o", ms=13, mfc="none", mec=colour, mew=1.8)
    _draw_chance(axes, panel)
    axes.xaxis.set_major_locator(FixedLocator([*panel.x_ticks]))
    names = list(panel.x_ticks.values())
    crowded = sum(len(name) for name in names) > 45
    axes.set_xticklabels(names, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    _finish(axes, panel, "layer, from the input up (ring: chosen)")
    _name_line_ends(axes, panel, {curve.name: colour for curve, colour in zip(panel.curves, colours, strict=True)})


def _draw_with_bars(
    axes: Axes, curve: Curve, at: npt.NDArray[np.float64], colour: object, marker: str, dashes: str
) -> None:
    mean = np.asarray(curve.mean, dtype=np.float64)
    reach = np.abs(np.stack([mean - np.asarray(curve.low), np.asarray(curve.high) - mean]))
    axes.plot(at, mean, color=colour, lw=2.0 if dashes == "-" else 1.4, ls=dashes)
    axes.errorbar(at, mean, yerr=reach, color=colour, marker=marker, ms=5.5, ls="none", elinewidth=1.1, capsize=2.5)


def _draw_chance(axes: Axes, panel: Panel) -> None:
    if panel.chance is not None:
        axes.axhline(panel.chance, color=_QUIET, lw=1, ls=(0, (1, 2)), zorder=0)
        axes.annotate(
            "chance", (0.01, panel.chance), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", color=_QUIET, fontsize=8,
        )  # fmt: skip


def _finish(axes: Axes, panel: Panel, x_label: str) -> None:
    axes.set_title(panel.title, loc="left", fontweight="bold", fontsize=11)
    axes.set_xlabel(x_label, color=_QUIET)
    axes.set_ylabel(panel.y_label, color=_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=9)
    axes.grid(axis="y", color="#e5e5e5", lw=0.8)
    axes.set_axisbelow(True)


def _name_line_ends(axes: Axes, panel: Panel, colours: Mapping[str, object]) -> None:
    """Write each line's name beside its last point, moved apart where lines end together, with a thin line to it."""
    low, high = axes.get_ylim()
    ends = [curve.mean[-1] for curve in panel.curves]
    beside = axes.get_yaxis_transform()  # x as a share of the axes' width, y in data
    for curve, end, place in zip(panel.curves, ends, _moved_apart(ends, 0.055 * (high - low), high), strict=True):
        colour = colours[curve.name]
        axes.plot([1.0, 1.035], [end, place], color=colour, lw=0.8, transform=beside, clip_on=False)
        axes.text(1.045, place, curve.name, color=colour, fontsize=9.5, va="center", transform=beside)


def _moved_apart(values: Sequence[float], least: float, highest: float) -> list[float]:
    """Return the values, moved so that neighbours are at least `least` apart and none is above `highest`.

    Example:
        >>> _moved_apart([1.0, 1.0, 5.0], least=1.0, highest=9.0)
        [0.5, 1.5, 5.0]
    """
    groups: list[list[int]] = []  # places of values that stand together, `least` apart, around their mean
    for place in sorted(range(len(values)), key=lambda place: values[place]):
        groups.append([place])
        while len(groups) > 1 and _start(groups[-1], values, least) < _end(groups[-2], values, least) + least:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = [0.0] * len(values)
    for group in groups:
        above = max(0.0, _end(group, values, least) - highest)
        for rank, place in enumerate(group):
            moved[place] = _start(group, values, least) + rank * least - above
    return moved


def _start(group: Sequence[int], values: Sequence[float], least: float) -> float:
    """Return where the lowest of a group stands when the group is centred on the mean of its values."""
    return sum(values[place] for place in group) / len(group) - least * (len(group) - 1) / 2


def _end(group: Sequence[int], values: Sequence[float], least: float) -> float:
    """Return where the highest of a group stands."""
    return _start(group, values, least) + least * (len(group) - 1)
