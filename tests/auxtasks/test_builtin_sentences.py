"""Built-in sentences: prose and nothing else, read without running anything, the same on every file system."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from auxtasks.data import builtin_sentences
from auxtasks.data.builtin_sentences import TOPICS, prose_sentences, sentence_order, sentence_topics, sentences
from auxtasks.data.sources import load_source
from auxtasks.errors import DataError

FILLER = "Word number {} of this file is one that no other file of the package has."


def write_package(root: Path, files: Mapping[str, str]) -> None:
    for name, docstring in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Running any of it would be noticed.
        path.write_text(f'"""{docstring}"""\nraise SystemExit("executed")\n', encoding="utf-8")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for all packages of the topics, found by a path of their own."""
    for package in builtin_sentences.PACKAGES:
        own = "\n\n".join(f"Sentence {name} is found in {package} and nowhere else." for name in "abcdefgh".upper())
        shared = "This very sentence is in every one of the packages."
        write_package(
            tmp_path / package,
            {"__init__.py": f"{own}\n\n{shared}", "tests/test_a.py": "Tests are not read at all here."},
        )
    monkeypatch.setattr(builtin_sentences, "_root", lambda package: tmp_path / package)
    return tmp_path


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Sort the rows by a key.", ["Sort the rows by a key."]),
        (
            "Is the order of equal rows kept? It is kept for all of them!",
            ["Is the order of equal rows kept?", "It is kept for all of them!"],
        ),
        ("Sort the rows, e.g. by a key,\n    or by several.", ["Sort the rows, e.g. by a key, or by several."]),
        ("The method is that of J. Smith and others.", ["The method is that of J. Smith and others."]),
        (
            "Heading of the Section here\n---------------------------\nThe text below it is taken.",
            ["The text below it is taken."],
        ),
        (
            "- The first item is\n  a sentence.\n- The second item is one too.",
            ["The first item is a sentence.", "The second item is one too."],
        ),
        (
            "x : int\n    The number of rows to take.\ny : int\n    The number of columns to take.",
            ["The number of rows to take.", "The number of columns to take."],
        ),
    ],
)
def test_prose_is_found(docstring: str, found: list[str]) -> None:
    assert prose_sentences(docstring) == found


@pytest.mark.parametrize(
    "docstring",
    [
        "Too short here.",
        "the first letter is a small one.",
        "There is no point at the end",
        "Use `key` to sort the rows by.",
        "Use key=len to sort the rows by.",
        "Call sort() to sort the rows by key.",
        "Read https://example.org for all of the rest.",
        "Take the rows a[0] and b of it.",
        "The share is 5% of all of the rows.",
        "See the following code for an example::",
        ">>> print('Sort the rows by a key.')\nSort the rows by a key.",
        "Set the max_rows of the table to sort.",
        "The module numpy.linalg has all of the rest.",
        "A bracket that is (never closed again here.",
        "Ä non-ASCII letter starts this very sentence.",
        "1 2 3 4 5 6 7 8 9 10.",
        " ".join(["Word"] * 41) + ".",
    ],
)
def test_all_else_is_not(docstring: str) -> None:
    assert prose_sentences(docstring) == []


def test_real_sentences_are_prose_and_unique() -> None:
    data = load_source("builtin:sentences", columns={"text": "text"}, options={"packages": "datasets,numpy"})
    texts = data["text"][:]
    assert len(texts) > 3000
    assert len(set(texts)) == len(texts)
    assert set(data["source"]) == {"datasets", "numpy"}
    for text in texts:
        assert text[0].isupper()
        assert text[-1] in ".?!"
        assert 5 <= len(text.split()) <= 40
        assert text == " ".join(text.split())
        assert not set(text) & set("`=_[]{}<>%\\|@#*~^$&+")
        assert sum(character.isalpha() or character == " " for character in text) > 0.75 * len(text)


def test_nothing_is_imported_or_executed(packages: Path) -> None:
    before = set(sys.modules)
    (packages / "numpy" / "broken.py").write_text('"""This file cannot be parsed at all."""\ndef (:\n')
    (packages / "numpy" / "latin.py").write_bytes(b'"""This file is not UTF-8 at all: \xe9."""\n')
    (packages / "numpy" / "escape.py").write_text('"""This file has a bad escape in it."""\nx = "\\d"\n')
    texts = set(sentences(packages="numpy")["text"])
    assert "This file has a bad escape in it." in texts
    assert not any("at all" in text for text in texts)
    assert {name for name in set(sys.modules) - before if name.startswith("numpy.broken")} == set()


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b.py", "a.py", "c/d.py", "B.py", "a/z.py"]
    monkeypatch.setattr(builtin_sentences, "_root", lambda _: tmp_path)
    write_package(tmp_path, {name: FILLER.format(name[:-3].replace("/", " ")) for name in names})
    expected = [FILLER.format(name) for name in ("B", "a z", "a", "b", "c d")]
    assert sentences(packages="numpy")["text"][:] == expected
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(listed(self, pattern))))
    assert sentences(packages="numpy")["text"][:] == expected


def test_a_large_package_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_sentences, "_root", lambda _: tmp_path)
    write_package(tmp_path, {f"f{letter}.py": FILLER.format(letter) for letter in "abcdefgh"})
    size = (tmp_path / "fa.py").stat().st_size
    monkeypatch.setattr(builtin_sentences, "_MOST_BYTES_OF_A_PACKAGE", 4 * size)
    assert sentences(packages="numpy")["text"][:] == [FILLER.format(letter) for letter in "aceg"]


def test_sources_limit_and_parts(packages: Path) -> None:
    everything = sentences()
    assert len(everything) == 9 * 8 + 1
    assert Counter(everything["source"])["datasets"] == 9  # the shared one is the first package's
    texts = everything["text"][:]
    assert sentences(limit=10)["text"][:] == [texts[place * len(texts) // 10] for place in range(10)]
    halves = [sentences(part=part)["text"][:] for part in (0, 1)]
    assert sorted(halves[0] + halves[1]) == sorted(texts)
    assert min(map(len, halves)) > 20
    assert set(sentences(packages="scipy, numpy")["source"]) == {"numpy", "scipy"}


def test_topics_are_balanced_and_apart_from_the_other_half(packages: Path) -> None:
    data = sentence_topics()
    assert data.features["label"].names == list(TOPICS) == sorted(TOPICS)
    assert Counter(data["label"]) == dict.fromkeys(range(4), 8)
    for row in data:
        assert row["source"] in TOPICS[list(TOPICS)[row["label"]]]
        assert f"found in {row['source']} " in row["text"]
    assert set(data["source"]) == {package for group in TOPICS.values() for package in group}
    assert Counter(sentence_topics(limit=3)["label"]) == dict.fromkeys(range(4), 3)
    part = set(sentence_topics(part=0)["text"])
    assert part <= set(sentences(part=0)["text"])
    assert part
    assert not part & set(sentences(part=1)["text"])


def test_topics_without_sentences(packages: Path) -> None:
    (packages / "matplotlib" / "__init__.py").write_text("")
    with pytest.raises(DataError, match=r"a class has no sentence; there are 16 of deep learning, 0 of plots"):
        sentence_topics()


def swapped_places(sentence: str, other: str) -> list[int]:
    """Return the places of the words, closing punctuation left out, at which two sentences differ."""
    pair = [text.rstrip(".!?").split() for text in (sentence, other)]
    assert len(pair[0]) == len(pair[1])
    assert sentence[-1] == other[-1]
    return [place for place, (a, b) in enumerate(zip(*pair, strict=True)) if a != b]


def test_order_is_balanced_and_a_swap_is_one_of_two_neighbours(packages: Path) -> None:
    data = sentence_order()
    originals = sentences()["text"][:]
    assert data.features["label"].names == ["in order", "swapped"]
    assert Counter(data["label"]) == {0: 36, 1: 36}  # of 73, the last has no partner
    assert data["label"][:4] == [0, 1, 0, 1]
    for original, row in zip(originals, data, strict=False):
        if row["label"] == 0:
            assert row["text"] == original
            continue
        first, second = swapped_places(original, row["text"])
        assert second == first + 1 > 1  # never the first word
        before, after = (text.rstrip(".").split() for text in (original, row["text"]))
        assert [before[first], before[second]] == [after[second], after[first]]


def test_no_sentence_is_in_order_and_swapped_too(packages: Path) -> None:
    data = sentence_order()
    words = [Counter(text.lower().rstrip(".").split()).items() for text in data["text"]]
    assert len({frozenset(bag) for bag in words}) == len(data)  # not even as a bag of words


def test_order_is_the_same_every_time_and_keeps_to_its_part(packages: Path) -> None:
    assert sentence_order()[:] == sentence_order()[:]
    some = sentence_order(limit=5)
    assert Counter(some["label"]) == {0: 5, 1: 5}
    halves = [sentence_order(part=part) for part in (0, 1)]
    for part, half in enumerate(halves):
        kept = {frozenset(text.rstrip(".").split()) for text in sentences(part=part)["text"]}
        assert len(half) > 20
        assert {frozenset(text.rstrip(".").split()) for text in half["text"]} <= kept
    assert not set(halves[0]["text"]) & set(halves[1]["text"])


def test_a_sentence_that_no_swap_changes_is_left_out(packages: Path) -> None:
    for package in builtin_sentences.PACKAGES:
        (packages / package / "__init__.py").write_text('"""No swap swap swap swap."""\n')
    write_package(packages, {"numpy/a.py": "Word order is a thing.\n\nWord order is another thing."})
    data = sentence_order()
    assert data["text"][0] == "Word order is a thing."
    assert len(data) == 2


def test_wrong_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no package 'nunpy'; there are datasets, .*Did you mean \"numpy\"\?"):
        sentences(packages="nunpy")
    for make in (sentences, sentence_order, sentence_topics):
        with pytest.raises(DataError, match=r"limit must be 0, for all, or more, found -1"):
            make(limit=-1)
        with pytest.raises(DataError, match=r"part must be 0, 1, or -1 for both, found 2"):
            make(part=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"the package 'numpy' is not installed"):
        sentences(packages="numpy")
