"""English sentences that need no download: read from the docstrings of the packages that are installed.

The files are parsed, never imported or executed. How many sentences there are, and which, depends on the versions that
are installed; for the same versions the result is the same on every machine.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import datasets
import numpy as np
import pyarrow as pa

from auxtasks.data.array_datasets import table_dataset
from auxtasks.data.corruptions import swap
from auxtasks.errors import DataError, did_you_mean
from auxtasks.seeding import generator

__all__ = ["PACKAGES", "TOPICS", "prose_sentences", "sentence_order", "sentence_topics", "sentences"]

PACKAGES: Final = (
    "datasets",
    "matplotlib",
    "networkx",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
)
TOPICS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "deep learning": ("torch", "transformers"),
        "plots": ("matplotlib",),
        "statistics": ("scipy", "sklearn"),
        "tables": ("datasets", "pandas"),
    }
)

# Parsing runs at some 5 MB/s: of a larger package, files spread evenly over it, so that all take seconds.
_MOST_BYTES_OF_A_PACKAGE: Final = 6_000_000
# Larger ones are generated code or tables.
_MOST_BYTES_OF_A_FILE: Final = 300_000
_SKIPPED_FOLDERS: Final = frozenset({"tests", "test", "testing", "_vendor", "externals", "extern", "third_party"})

_PARAGRAPH: Final = re.compile(r"\n\s*\n")
# A new item, directive or line of code starts a block of its own within a paragraph.
_NEW_BLOCK: Final = re.compile(r"(?:[-*+•]\s|\d+[.)]\s|:\w|\.\.\s|>>>|@|\|)")
_BULLET: Final = re.compile(r"(?:[-*+•]|\d+[.)])\s+")
_UNDERLINE: Final = re.compile(r"([=\-~^\"#*+])\1{2,}$")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# What ends in a point without ending a sentence.
_ABBREVIATION: Final = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|al|Eq|Eqs|Fig|Figs|Ref|Refs|Sec|No|Dr|Prof|St|approx|resp|[A-Z]))\.$"
)
_WORDS: Final = range(5, 41)
_SENTENCE: Final = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()\-\"/.!?]*[.!?]")
_WORD: Final = re.compile(r"\(?\"?[A-Za-z][A-Za-z'-]*[\"]?\)?[,;:.!?]*\)?[.!?]?")
_CODE: Final = re.compile(
    r"""
    :: | \w\( | \w\.\w | \w/\w*/ | :// | \.\. | -- | [ ],   # calls, attributes, paths, directives
    | \d\.$ | [A-Za-z]\d | [a-z][A-Z] | \b[A-Z]{6,}\b       # numbered names, camel case, constants
    | ^(?:Args|Defaults?|Examples?|Notes?|Optional|Returns|See)\b[^a-z]*:   # headings with their text
    """,
    re.VERBOSE,
)


def sentences(limit: int = 0, packages: str = "", part: int = -1) -> datasets.Dataset:
    """Return sentences of the installed packages' docstrings, each once: columns ``text`` and ``source``, the package.

    Args:
        limit: most sentences, spread evenly over all; 0 for all.
        packages: names from `PACKAGES`, with commas between them; all that are installed by default.
        part: 0 or 1 for either half of the sentences, which a hash of each decides; -1 for both.

    Raises:
        DataError: a package is unknown or not installed, or an option is out of range.

    Example:
        >>> some = sentences(limit=100, packages="numpy")
        >>> len(some), some.column_names, set(some["source"])
        (100, ['text', 'source'], {'numpy'})
    """
    _check_options(limit, part)
    found = _in_part(_read_all(_chosen_packages(packages)), part)
    rows = [(text, sources[0]) for text, sources in found.items()]
    rows = [rows[place] for place in _spread(len(rows), limit)]
    columns = datasets.Features({"text": datasets.Value("string"), "source": datasets.Value("string")})
    texts, names = ([row[column] for row in rows] for column in (0, 1))
    return table_dataset({"text": pa.array(texts, pa.string()), "source": pa.array(names, pa.string())}, columns)


def sentence_topics(limit: int = 0, part: int = -1, split: str = "") -> datasets.Dataset:
    """Return sentences with the field of the package that they are from: columns ``text``, ``label`` and ``source``.

    The classes are `TOPICS`, of equal size. A sentence found in packages of two fields is left out.

    Args:
        limit: most sentences of a class, spread evenly; 0 for as many as the smallest class has.
        part: 0 or 1 for either half of the sentences, which a hash of each decides; -1 for both. The halves of
            `sentences` are the same, so what one trains on and the other tests on are kept apart.
        split: ``"train"`` or ``"test"``, either half of those again; ``""`` for both.

    Raises:
        DataError: a package is not installed, or an option is out of range.

    Example:
        >>> found = sentence_topics(limit=3)
        >>> found.column_names, len(found) == 3 * len(TOPICS)
        (['text', 'label', 'source'], True)
    """
    _check_options(limit, part, split)
    topic_of = {package: topic for topic, packages in TOPICS.items() for package in packages}
    rows: dict[str, list[tuple[str, str]]] = {topic: [] for topic in TOPICS}
    for text, sources in _in_part(_read_all(_chosen_packages(",".join(sorted(topic_of)))), part, split).items():
        topics = {topic_of[source] for source in sources}
        if len(topics) == 1:
            rows[topics.pop()].append((text, sources[0]))
    size = min(len(found) for found in rows.values())
    size = min(size, limit) if limit else size
    if not size:
        raise DataError(f"sentence_topics: a class has no sentence; there are {_spell_sizes(rows)}.")
    kept = [(*found[place], label) for label, found in enumerate(rows.values()) for place in _spread(len(found), size)]
    columns = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(TOPICS)),
            "source": datasets.Value("string"),
        }
    )
    texts, names, labels = ([row[column] for row in kept] for column in (0, 1, 2))
    arrays = {"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.int64())}
    return table_dataset({**arrays, "source": pa.array(names, pa.string())}, columns)


def sentence_order(limit: int = 0, part: int = -1, split: str = "") -> datasets.Dataset:
    """Return sentences of which every second has two neighbouring words swapped: columns ``text`` and ``label``.

    The classes are ``in order`` and ``swapped``, of equal size; no sentence is in both. First word and closing
    punctuation stay, so that capitals and points tell nothing. It is the task of shuffled sentences itself, with
    labels: the closest target there is, and no evidence that pretraining on it helps with another.

    Args:
        limit: most sentences of a class, spread evenly; 0 for all.
        part, split: as for `sentence_topics`.

    Raises:
        DataError: a package is not installed, or an option is out of range.

    Example:
        >>> found = sentence_order(limit=3)
        >>> found.features["label"].names, found["label"][:].count(0), found["label"][:].count(1)
        (['in order', 'swapped'], 3, 3)

    Reference:
        Conneau et al., "What you can cram into a single vector", ACL 2018, whose task BShift it is.
    """
    _check_options(limit, part, split)
    # Where all words between are one, no swap makes another sentence.
    found = [
        text for text in _in_part(_read_all(_chosen_packages("")), part, split) if len(set(_words_between(text))) > 1
    ]
    found = found[: len(found) // 2 * 2]
    kept = [found[place] for place in _spread(len(found), 2 * limit)]
    texts = [text if place % 2 == 0 else _with_a_swap(text, place) for place, text in enumerate(kept)]
    columns = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["in order", "swapped"])}
    )
    labels = pa.array([place % 2 for place in range(len(kept))], pa.int64())
    return table_dataset({"text": pa.array(texts, pa.string()), "label": labels}, columns)


def _with_a_swap(sentence: str, place: int) -> str:
    """Swap two neighbours between the first word and the closing punctuation, always the same of a place."""
    inner = np.array(_words_between(sentence))
    moved = swap(inner, generator(0, "sentence order", index=place), lambda _rng, _count: inner[:0])
    assert moved is not None  # two of the words differ
    return " ".join([sentence.split()[0], *moved.words.tolist()]) + sentence[len(sentence.rstrip(".!?")) :]


def _words_between(sentence: str) -> list[str]:
    """Return the words between the first one and the closing punctuation."""
    return sentence.rstrip(".!?").split()[1:]


def prose_sentences(docstring: str) -> list[str]:
    """Return the sentences of a docstring that are prose: no code, list of parameters, heading or formula.

    A sentence starts with a capital letter, ends with a point, question or exclamation mark, has 5 to 40 words, four
    fifths of them of letters alone, and no character or pattern that prose does not have.

    Example:
        >>> prose_sentences('''Sort the rows by a key.
        ...
        ... The order of equal rows is kept, e.g. for a stable
        ... result. Use ``stable=False`` for speed, if you must do so.
        ...
        ... >>> sort([2, 1])
        ... Returns the sorted rows of the table.
        ... ''')
        ['Sort the rows by a key.', 'The order of equal rows is kept, e.g. for a stable result.']
    """
    return [
        sentence for block in _blocks(inspect.cleandoc(docstring)) for sentence in _split(block) if _is_prose(sentence)
    ]


def _blocks(docstring: str) -> Iterator[str]:
    """Yield runs of lines that belong together, joined by single spaces: paragraphs, or single items of a list."""
    for paragraph in _PARAGRAPH.split(docstring):
        lines = [line.rstrip() for line in paragraph.splitlines() if line.strip()]
        if any(line.lstrip().startswith((">>>", "...")) for line in lines):
            continue  # an example and what it prints
        block: list[str] = []
        indent = 0
        for line in lines:
            words = line.lstrip()
            moved = len(line) - len(words) != indent
            if _UNDERLINE.match(words):
                block = []  # what it stands under was a heading
                continue
            if block and (_NEW_BLOCK.match(words) or moved):
                yield " ".join(" ".join(block).split())
                block = []
            words = _BULLET.sub("", words)
            indent = len(line) - len(words)  # after its mark an item goes on below its text
            block.append(words)
        if block:
            yield " ".join(" ".join(block).split())


def _split(block: str) -> Iterator[str]:
    """Split a block where a sentence ends, not after an abbreviation or an initial."""
    start = 0
    for match in _SENTENCE_END.finditer(block):
        if not _ABBREVIATION.search(block[start : match.start()]):
            yield block[start : match.start()]
            start = match.end()
    yield block[start:]


def _is_prose(sentence: str) -> bool:
    if not _SENTENCE.fullmatch(sentence):
        return False
    words = sentence.split()
    if len(words) not in _WORDS or sentence.count("(") != sentence.count(")"):
        return False
    bare = re.sub(r"\b(?:e\.g|i\.e)\.", "", sentence)
    if _CODE.search(bare):
        return False
    plain = sum(_WORD.fullmatch(word) is not None for word in words)
    lower = sum(word.strip('(",;:.!?)').islower() for word in words)
    return plain >= 0.8 * len(words) and lower >= 0.6 * len(words)


def _read_all(packages: Iterable[str]) -> dict[str, list[str]]:
    """Return each sentence of some packages with the packages that hold it, in the order of reading."""
    found: dict[str, list[str]] = {}
    for package in packages:
        for sentence in _sentences_of(_root(package)):
            found.setdefault(sentence, []).append(package)
    return found


@functools.lru_cache(maxsize=len(PACKAGES))
def _sentences_of(root: Path) -> tuple[str, ...]:
    """Return each sentence of a package, once. Kept, since a run reads several built-in sets from the same packages."""
    docstrings = (docstring for path in _files(root) for docstring in _docstrings(path.read_bytes()))
    return tuple(dict.fromkeys(sentence for docstring in docstrings for sentence in prose_sentences(docstring)))


def _docstrings(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions, without running it."""
    if b'"""' not in source:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in somebody else's string
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return  # a template, or written for another version of Python
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield docstring
            # Definitions only are looked into: expressions, most of a tree, hold none.
            pending.extend(reversed(node.body))
        elif isinstance(node, ast.If | ast.Try):
            pending.extend(reversed(node.body))


def _files(root: Path) -> list[Path]:
    """List the Python files of a package, in an order that is the same on every file system."""
    sizes = {
        path: path.stat().st_size
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
    }
    files = sorted(
        (path for path, size in sizes.items() if size <= _MOST_BYTES_OF_A_FILE),
        key=lambda path: path.relative_to(root).parts,
    )
    total = sum(sizes[path] for path in files)
    if total <= _MOST_BYTES_OF_A_PACKAGE:
        return files
    return [files[place] for place in _spread(len(files), int(len(files) * _MOST_BYTES_OF_A_PACKAGE / total))]


def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"the package {package!r} is not installed, so there are no sentences of it.")
    return Path(spec.origin).parent


def _chosen_packages(names: str) -> list[str]:
    """Return the packages to read, sorted: those named, or all that are installed."""
    if not names:
        return [package for package in PACKAGES if importlib.util.find_spec(package) is not None]
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in PACKAGES:
            hint = did_you_mean(name, PACKAGES)
            raise DataError(f"sentences: there is no package {name!r}; there are {', '.join(PACKAGES)}.{hint}")
    return sorted(set(chosen))


def _in_part(found: dict[str, list[str]], part: int, split: str = "") -> dict[str, list[str]]:
    """Keep the sentences of a half, and of a half of that; a hash of each decides, so that nothing moves."""
    wanted = {"": None, "train": 0, "test": 1}[split]
    return {
        text: sources
        for text, sources in found.items()
        if (part == -1 or _hashed_bit(text, 0) == part) and (wanted is None or _hashed_bit(text, 1) == wanted)
    }


def _hashed_bit(text: str, place: int) -> int:
    """Return 0 or 1, for equal texts the same: capitals do not make another text."""
    return hashlib.sha256(text.lower().encode()).digest()[0] >> place & 1


def _spread(length: int, limit: int) -> list[int]:
    """Return at most `limit` places, all for 0, spread evenly over a length.

    Example:
        >>> _spread(10, 3), _spread(3, 10), _spread(2, 0)
        ([0, 3, 6], [0, 1, 2], [0, 1])
    """
    if not limit or limit >= length:
        return list(range(length))
    return [place * length // limit for place in range(limit)]


def _check_options(limit: int, part: int, split: str = "") -> None:
    if limit < 0:
        raise DataError(f"limit must be 0, for all, or more, found {limit}.")
    if part not in (-1, 0, 1):
        raise DataError(f"part must be 0, 1, or -1 for both, found {part}.")
    if split not in ("", "train", "test"):
        raise DataError(f'split must be "train", "test", or "" for both, found {split!r}.')


def _spell_sizes(rows: Mapping[str, list[tuple[str, str]]]) -> str:
    return ", ".join(f"{len(found)} of {topic}" for topic, found in rows.items())
