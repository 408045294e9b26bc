"""A corpus read as words: what stays in place, what is left out and why, and the folder in which it is kept."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from auxtasks.data import load_source
from auxtasks.data.lexicon import CLOSING, GLUED
from auxtasks.data.sentences import SentenceTable, read_block, read_sentences, split_words
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import DataError

TEXTS = [
    "The cat sat on the mat.",
    "A dog barked at the cat",
    "Where is the dog?",
    "They said no ...",
    "The the cat THE dog.",
    "A very long sentence goes on and on about the dog and the cat and the mat.",
]


@pytest.fixture(scope="module")
def uncased() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 2, size=200)


@pytest.fixture(scope="module")
def cased() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 2, size=200, lowercase=False)


def spelled(table: SentenceTable, tokenizer: PreTrainedTokenizerFast, index: int, movable: bool = False) -> str:
    """Return a sentence, or what of it may move, as text."""
    record = table.record(index)
    words = record["words"][record["movable"]] if movable else record["words"]
    tokens = [token for word in words for token in record["lexicon"].inner[int(word)]]
    return tokenizer.decode(tokens)


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the dog barks", ["the", "dog", "barks"]),
        ("the dog barks.", ["the", "dog", "barks", "|."]),
        ("the dog barks!?”", ["the", "dog", "barks", "|!?”"]),
        ("once a story :", ["once", "a", "story", "~:"]),
        ("Yes, no, e.g. this.", ["Yes,", "no,", "e.g.", "this", "|."]),
        ("...", ["..."]),  # nothing before it that it could close
        ("Yes.", ["Yes", "|."]),
        ("5€", ["5€"]),
        ("ends in C++", ["ends", "in", "C", "|++"]),
        ("  a\t b\n", ["a", "b"]),
        ("", []),
        (" \n", []),
        (f"a{GLUED}b {CLOSING}", ["a", "b"]),  # the marks themselves are no text
    ],
)
def test_words_stand_between_spaces_and_what_closes_is_one_of_its_own(text, words):
    assert [word.replace(GLUED, "|").replace(CLOSING, "~") for word in split_words(text)] == words


def test_real_sentences_are_put_together_as_their_tokenizer_does(caplog):
    # `read_sentences` compares them, and warns of one that differs.
    data = load_source("builtin:sentences", columns={"text": "text"}, options={"limit": 300, "packages": "sklearn"})
    texts = list(data["text"])
    assert len(texts) == 300
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        for options in ({}, {"lowercase": False}, {"kind": "bpe"}, {"kind": "bpe", "lowercase": False}):
            tokenizer = train_tokenizer(texts, size=1500, **options)
            table = read_sentences(texts, tokenizer, length=200)
            assert len(table) >= 290
            assert table.keep_initial == ("lowercase" in options)
            for index in range(len(table)):
                found = table.lexicon.spell(table.words[index], 200).tokens.tolist()
                assert found == tokenizer(texts[table.rows[index]])["input_ids"]
    assert caplog.records == []


# What stays in place


def test_the_end_stays_and_with_a_cased_tokenizer_the_first_word(uncased, cased):
    free, kept = (read_sentences(TEXTS, tokenizer, length=40) for tokenizer in (uncased, cased))
    assert not free.keep_initial
    assert kept.keep_initial
    expected = ["the cat sat on the mat", "a dog barked at the cat", "where is the dog", "they said no"]
    assert [spelled(free, uncased, index, movable=True) for index in range(4)] == expected
    assert [spelled(kept, cased, index, movable=True) for index in range(4)] == [
        text.split(" ", 1)[1] for text in expected
    ]
    assert spelled(free, uncased, 2) == "where is the dog?"


def test_keeping_the_first_word_can_be_asked_for(uncased, cased):
    assert read_sentences(TEXTS, uncased, length=40, keep_initial=True).record(0)["movable"] == slice(1, 6)
    assert read_sentences(TEXTS, cased, length=40, keep_initial=False).record(0)["movable"] == slice(0, 6)


def test_a_first_word_that_lacks_its_space_stays_too():
    tokenizer = train_tokenizer(TEXTS * 2, kind="bpe", size=300)  # lower case
    assert not read_sentences(TEXTS, tokenizer, length=40).keep_initial
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert read_sentences(TEXTS, tokenizer, length=40).keep_initial


def test_words_that_look_the_same_to_the_model_are_one(uncased, cased):
    words, other = (read_sentences(TEXTS, tokenizer, length=40).words[4] for tokenizer in (uncased, cased))
    assert words[0] == words[1] == words[3] != words[2]
    assert len(set(other.tolist())) == 6  # and the full stop


def test_words_without_a_token_are_none(uncased):
    texts = ["the \u200b cat \u200b sat .", "\u200b \ufeff", "the cat sat ."]
    table = read_sentences(texts, uncased, length=40, most_left_out=0.4)
    assert table.words[0].tolist() == table.words[1].tolist()
    assert table.rows.tolist() == [0, 2]
    assert table.left_out["empty"] == 1


# What is left out


def test_what_cannot_be_shuffled_is_counted_by_reason(uncased, cased, caplog):
    texts = ["", "  ", "word", "Word.", "...", "no no no", "No no no!", "the cat", "The cat.", None, "cat cat the"]
    with caplog.at_level(logging.INFO, logger="auxtasks"):
        table = read_sentences(texts, uncased, length=40, most_left_out=0.8)
    assert dict(table.left_out) == {"empty": 3, "one word": 3, "no other order": 2}
    assert table.rows.tolist() == [7, 8, 10]
    assert "8 of 11 sentences cannot be shuffled and are left out: 3 empty, 3 one word, 2 no other" in caplog.text
    kept = read_sentences(texts, cased, length=40, most_left_out=0.95)
    assert dict(kept.left_out) == {"empty": 3, "one word": 5, "no other order": 2}
    assert kept.rows.tolist() == [10]


def test_more_than_the_allowed_share_is_an_error(uncased):
    texts = [*TEXTS, "word", "no no no"]
    assert len(read_sentences(texts, uncased, length=40, most_left_out=0.25)) == 6
    message = r"2 of 8 sentences cannot be shuffled \(1 one word, 1 no other order\), more than the 24% that may be"
    with pytest.raises(DataError, match=message):
        read_sentences(texts, uncased, length=40, most_left_out=0.24)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["word", "", "no no"], r"in any of 3 sentences \(1 empty, 1 one word, 1 no other order\): the corpus needs"),
        ([], r"in any of 0 sentences \(there are none\)"),
        ("the cat sat", "found one string; expected many sentences"),
        (["the cat", 7], "row 1 holds 7; expected a sentence"),
    ],
)
def test_a_corpus_in_which_nothing_can_be_shuffled_is_refused(uncased, texts, message):
    with pytest.raises(DataError, match=message):
        read_sentences(texts, uncased, length=40, most_left_out=1.0)


def test_a_block_of_a_larger_corpus_is_not_judged(uncased):
    table = read_block(["word", "the cat", "no no"], uncased, length=40)
    assert table.rows.tolist() == [1]
    assert dict(table.left_out) == {"empty": 0, "one word": 1, "no other order": 1}
    assert len(read_block(["word"], uncased, length=40)) == 0


def test_blocks_of_the_same_words_have_fingerprints_of_their_own(uncased):
    # One lexicon for all of them: the words are numbered as they first come.
    blocks = [["the cat sat", "cat the"], ["the cat sat", "the sat"], ["the cat sat", "", "cat the"]]
    tables = [read_block(texts, uncased, length=40) for texts in blocks]
    tables.append(read_block(blocks[0], uncased, length=40, keep_initial=False))
    assert len({table.fingerprint for table in tables}) == 3
    assert tables[0].fingerprint == tables[3].fingerprint
    kept = read_block(["the cat sat"], uncased, length=40, keep_initial=True)
    assert kept.fingerprint != read_block(["the cat sat"], uncased, length=40).fingerprint


def test_what_is_too_long_loses_its_last_words(uncased, caplog):
    with caplog.at_level(logging.INFO, logger="auxtasks"):
        table = read_sentences(TEXTS, uncased, length=10)
    assert table.truncated == 1
    assert "1 of 6 sentences are too long and were cut" in caplog.text
    assert table.token_lengths().max() == 10
    assert spelled(table, uncased, 5) == "a very long sentence goes on and on"
    assert spelled(table, uncased, 5, movable=True) == "a very long sentence goes on and on"


def test_a_word_that_is_too_long_leaves_one_word(uncased):
    table = read_sentences([*TEXTS, "matcatmatcatmatcat cat"], uncased, length=6, most_left_out=0.5)
    assert table.left_out["one word"] == 1


def test_a_tokenizer_that_looks_across_spaces_is_refused(uncased):
    from tokenizers import normalizers

    crossing = train_tokenizer(TEXTS * 2, size=200)
    # It takes the spaces away before it looks for words.
    crossing.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(" ", "")]
    )
    with pytest.raises(DataError, match=r"the tokenizer gives \d of 6 sentences other tokens than those of their wo"):
        read_sentences(TEXTS, crossing, length=40)


def test_a_few_sentences_that_differ_are_warned_of(caplog):
    # An accent of its own is no letter to Python, but part of a word to the tokenizer.
    texts = ["the cat sat on the mat of the cafe\u0301.", *["the cat sat on the mat"] * 9]
    tokenizer = train_tokenizer(texts, kind="bpe", size=300)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e\u0301.", "isolated"), pre_tokenizers.ByteLevel()]
    )
    tokenizer.backend_tokenizer.normalizer = None
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        read_sentences(texts, tokenizer, length=40)
    assert "the tokenizer gives 1 of 10 sentences other tokens than those of their words, such as 'the" in caplog.text


# Tables


def test_a_subset_has_its_rows_and_another_fingerprint(uncased):
    table = read_sentences(TEXTS, uncased, length=40)
    part = table.subset([4, 1])
    assert part.rows.tolist() == [4, 1]
    assert part.words[0].tolist() == table.words[4].tolist()
    assert part.record(1)["corpus"].tolist() == part.words.values.tolist()
    prints = {table.fingerprint, part.fingerprint, table.subset([1, 4]).fingerprint}
    assert len(prints) == 3
    assert part.fingerprint == table.subset([4, 1]).fingerprint
    with pytest.raises(DataError, match=r"indices run from -1 to 2, but there are \d sentences"):
        table.subset([2, -1])


def assert_equal_tables(one: SentenceTable, other: SentenceTable) -> None:
    for name in ("left_out", "truncated", "keep_initial", "fingerprint"):
        assert getattr(one, name) == getattr(other, name)
    assert one.lexicon.pad_id == other.lexicon.pad_id
    for a, b in (
        (one.rows, other.rows),
        (one.words.values, other.words.values),
        (one.words.offsets, other.words.offsets),
        *((getattr(one.lexicon, name), getattr(other.lexicon, name)) for name in ("same_as", "closes", "prefix")),
    ):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    for index in range(len(one)):
        a, b = (table.lexicon.spell(table.words[index], 40).tokens.tolist() for table in (one, other))
        assert a == b


def test_a_second_reading_is_memory_mapped_and_the_same(tmp_path, uncased, monkeypatch):
    plain = read_sentences(TEXTS, uncased, length=40)
    first = read_sentences(TEXTS, uncased, length=40, cache=tmp_path)
    monkeypatch.setattr("auxtasks.data.sentences.build_lexicon", None)  # nothing is tokenised again
    second = read_sentences(iter(TEXTS), uncased, length=40, cache=tmp_path)
    assert_equal_tables(plain, first)
    assert_equal_tables(first, second)
    for values in (table.values for read in (first, second) for table in (read.words, read.lexicon.inner)):
        assert isinstance(values.base, np.memmap)
        assert type(values) is np.ndarray  # slicing a `memmap` costs ten times what slicing an array does
    assert len(list(tmp_path.iterdir())) == 1


def test_a_length_that_leaves_no_room_is_refused(uncased):
    for reader in (read_sentences, read_block):
        with pytest.raises(DataError, match="length=2 leaves no room for text: the tokenizer adds 2 special tokens"):
            reader(TEXTS, uncased, length=2)


def test_a_corpus_that_was_refused_is_refused_from_its_cache_too(tmp_path, uncased):
    for _ in range(2):
        with pytest.raises(DataError, match="nothing can be shuffled in any of 1 sentences"):
            read_sentences(["word"], uncased, length=40, cache=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "not JSON", "no facts"])
def test_a_damaged_cache_is_read_anew(tmp_path, uncased, damage):
    first = read_sentences(TEXTS, uncased, length=40)
    read_sentences(TEXTS, uncased, length=40, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    if damage == "cut":
        content = (folder / "words.npy").read_bytes()
        (folder / "words.npy").write_bytes(content[:-4] + b"\1\1\1\1")
    elif damage == "gone":
        (folder / "initial_offsets.npy").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("{" if damage == "not JSON" else '{"digests": {}}')
    again = read_sentences(TEXTS, uncased, length=40, cache=tmp_path)
    assert_equal_tables(first, again)
    assert_equal_tables(first, read_sentences(TEXTS, uncased, length=40, cache=tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_anything_else_misses_the_cache(tmp_path, uncased, cased):
    options = {"tokenizer": uncased, "length": 40, "cache": tmp_path}
    changes = [
        {},
        {"tokenizer": cased},
        {"length": 39},
        {"keep_initial": True},
        {"texts": TEXTS[:-1]},
        {"texts": [*TEXTS[:-1], TEXTS[-1] + " "]},
        {"texts": TEXTS[::-1]},
        {"texts": ["the cat\nsat on", "a mat"]},
        {"texts": ["the cat", "sat on\na mat"]},  # the same characters, split elsewhere
        {"texts": ["the cat", "sat on", "a mat"]},
    ]
    tables = [read_sentences(**{"texts": TEXTS, **options, **change}) for change in changes]
    assert len(list(tmp_path.iterdir())) == len(changes)
    assert len({table.fingerprint for table in tables}) == len(changes)
    assert len(tables[-1]) == 3
