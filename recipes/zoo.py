"""What `auxtasks zoo` prints: models that work as a backbone's name, with their input, size and licence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from auxtasks.backbones.catalogue import Entry, catalogue, counted
from auxtasks.data.progress import ProgressBar

__all__ = ["describe_zoo"]

HEADING = ("name", "input", "parameters", "licence of weights", "cut", "weights")
UNKNOWN = "-"


def describe_zoo(search: Sequence[str] = (), *, count: bool = False) -> str:
    """Return a table of the models whose names have all words, and for a single one how to use it.

    Args:
        search: words; none gives all models.
        count: count parameters that a library does not tell; takes a moment for each model.

    Raises:
        BackboneError: no name has all the words.

    Example:
        >>> print(describe_zoo(["facenet", "casia"]))
        name                   input          parameters  licence of weights  cut  weights
        facenet/casia-webface  3 x 160 x 160       23.5M  mit (code)          yes  published
        <BLANKLINE>
        1 model: 1 of facenet.
        weights: https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180408-102900-casia-webface.pt
        in a recipe: backbone: {name: facenet/casia-webface}
        <BLANKLINE>
        cut: ...
    """
    entries = catalogue(search)
    if count:
        entries = _counted(entries)
    table = _table([HEADING, *(_row(entry) for entry in entries)])
    details = [_how_to_use(entries[0])] if len(entries) == 1 else []
    return "\n".join([*table, "", _summary(entries), *details, "", *NOTES])


def _counted(entries: Sequence[Entry]) -> list[Entry]:
    found = []
    with ProgressBar("Counting parameters", len(entries)) as bar:
        for entry in entries:
            found.append(counted(entry))
            bar.advance(1)
    return found


NOTES = (
    "cut: yes for what can be parted at a layer (frozen below, trained above, cached at the cut); no for what is read "
    "layer by layer only; - for what shows once it is built.",
    "licence: of the published weights as the library states it; (code) where it states that of its code only.",
    "hf: any BERT, RoBERTa, DistilBERT, ModernBERT or ViT of the Hugging Face Hub works by its name; a few are listed.",
)


def _row(entry: Entry) -> tuple[str, ...]:
    cut = UNKNOWN if entry.can_be_cut is None else "yes" if entry.can_be_cut else "no"
    weights = "published" if entry.source else "none"
    return (entry.name, entry.size, _millions(entry.parameters), entry.licence or UNKNOWN, cut, weights)


def _millions(parameters: int | None) -> str:
    """Write a number of parameters as model cards do.

    Example:
        >>> _millions(11_689_512), _millions(469_168), _millions(1_011_000_000), _millions(None)
        ('11.7M', '0.5M', '1011.0M', '-')
    """
    return UNKNOWN if parameters is None else f"{parameters / 1e6:.1f}M"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = HEADING.index("parameters")
    return [
        "  ".join(
            cell.rjust(width) if place == right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _summary(entries: Sequence[Entry]) -> str:
    """Count the models, and those of each zoo."""
    zoos = Counter(entry.name.partition("/")[0] for entry in entries)
    parts = ", ".join(f"{number:,} of {zoo}" for zoo, number in zoos.items())
    return f"{len(entries):,} {'model' if len(entries) == 1 else 'models'}: {parts}."


def _how_to_use(entry: Entry) -> str:
    """Say where the weights of a model are, and how a recipe asks for it."""
    # Of the other two zoos the name alone stands for weights.
    by_argument = entry.name.startswith(("timm/", "torchvision/"))
    asks = ", arguments: {pretrained: true}" if by_argument and entry.source else ""
    weights = entry.source or "none are published; the network begins with random ones"
    return f"weights: {weights}\nin a recipe: backbone: {{name: {entry.name}{asks}}}"
