"""A sentence put together from words has the tokens that the tokenizer gives it, token for token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from auxtasks.data.lexicon import CLOSING, GLUED, Lexicon, build_lexicon, lexicon_digest, tells_the_start
from auxtasks.data.ragged import Ragged
from auxtasks.data.sentences import split_words
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import DataError

SENTENCES = [
    "The cat sat on the mat.",
    "Is this the right order?",
    "No! It was, I think, the dog.",
    "“Where are you?” she asked.",
    'He said: "Never again."',
    "She said (quietly): 'no.'",
    "They waited... and waited...",
    "They waited … and waited …",
    "Once upon a time there was a story :",
    "A list follows :-",
    "What, me worry?!",
    "You don't know what you've got 'til it's gone.",
    "The dogs' bowl is the cat's.",
    "It costs $5.99, i.e. 20% less than e.g. £7.50.",
    "It costs 5€",
    "He rated it 9/10; she, 10/10.",
    "See https://example.org/a_b?c=d#e (2024-05-06).",
    "C++, C# and F# are languages.",
    "x = y ** 2 + z_1",
    "Naïve café owners in São Paulo déjà vu.",
    "Der Fuß im Straßenbau, größer als je!",
    "Москва слезам не верит.",
    "Γρήγορη αλεπού.",
    "我 喜欢 吃 苹果 。",
    "我喜欢吃苹果。",
    "الكلب يجري بسرعة.",
    "हिन्दी में लिखना।",
    "Emoji are words too 🙂 👍🏽 .",
    "Trade™ and degree° signs™.",
    "It was 20°.",
    "A no-break\u00a0space and  two   spaces.",
    "  Leading and trailing spaces.  ",
    "Tabs\tand\nnew lines too.",
    "Zero\u200bwidth and soft\u00adhyphens.",
    "word",
    "Word.",
    "...",
    "?",
    "( a b )",
    "no no no",
    "The the THE the.",
    "IT IS ALL CAPITALS!",
    "mixedCase and snake_case and CamelCase.",
    "1 2 3 4 5 6 7 8 9 10",
    "1,000,000 people; 3.14159 pies.",
    "Mr. Smith, Ph.D., went to Washington, D.C.",
    "rock 'n' roll",
    "half\u2013way—there - dash.",
    "the dog [sic] barked <loudly> {now}.",
    "ends with a bracket)",
    "ends with quotes.”",
    "ends with many!!!???...",
    "“”",
    "¿Qué pasa? ¡Nada!",
    "antidisestablishmentarianism is unpronounceable.",
    "²³ superscripts and ½ fractions ½.",
    "Łódź, Kraków.",
    "Café naïve.",  # composed of letter and accent
    "a",
    "The end",
]  # fmt: skip
# Where words cannot tell all: a mark that is no letter to Python and none between two of them to the tokenizer.
EXCEPTIONS = {"wordpiece": 0, "bpe": 1}


def without_prefix_space(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def make_tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    corpus = SENTENCES * 2
    return {
        "wordpiece": train_tokenizer(corpus, size=700),
        "wordpiece_cased": train_tokenizer(corpus, size=700, lowercase=False),
        "bpe": train_tokenizer(corpus, kind="bpe", size=600),
        "bpe_cased": train_tokenizer(corpus, kind="bpe", size=600, lowercase=False),
        "bpe_without_prefix_space": without_prefix_space(
            train_tokenizer(corpus, kind="bpe", size=600, lowercase=False)
        ),
    }


TOKENIZERS = make_tokenizers()
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def numbered(texts: list[str]) -> tuple[list[str], list[list[int]]]:
    """Return the words of texts, and each text as their numbers."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in split_words(text)] for text in texts]
    return list(numbers), rows


def spell_all(name: str) -> tuple[Lexicon, list[list[int]]]:
    keys, rows = numbered(SENTENCES)
    return build_lexicon(keys, TOKENIZERS[name]), rows


@every_tokenizer
def test_sentences_are_spelled_as_the_tokenizer_does(name):
    lexicon, rows = spell_all(name)
    expected = [TOKENIZERS[name](" ".join(text.split()))["input_ids"] for text in SENTENCES]
    found = [lexicon.spell(np.array(row), length=200).tokens.tolist() for row in rows]
    wrong = [text for text, one, other in zip(SENTENCES, found, expected, strict=True) if one != other]
    assert len(wrong) <= EXCEPTIONS[name.split("_")[0]], wrong
    assert len({len(row) for row in expected}) > 15


@every_tokenizer
def test_a_wrong_order_is_spelled_as_the_tokenizer_does(name):
    lexicon, rows = spell_all(name)
    rng = np.random.default_rng(0)
    keys, _ = numbered(SENTENCES)
    checked = 0
    for row in rows:
        words = [word for word in row if not lexicon.closes[word]]
        if not all(keys[word].isalnum() for word in words):
            continue
        order = rng.permutation(len(words))
        shuffled = [words[place] for place in order] + row[len(words) :]
        text = " ".join(keys[word] for word in shuffled).replace(f" {GLUED}", "").replace(CLOSING, "")
        assert lexicon.spell(np.array(shuffled), 200).tokens.tolist() == TOKENIZERS[name](text)["input_ids"]
        checked += 1
    assert checked > 10


@every_tokenizer
def test_words_begin_where_they_are_said_to(name):
    lexicon, rows = spell_all(name)
    for row in rows:
        spelled = lexicon.spell(np.array(row), length=200)
        starts = np.flatnonzero(spelled.begins_word)
        sizes = np.diff([*starts, len(spelled.tokens) - 1])  # but [SEP]
        words = [lexicon.initial[row[0]], *(lexicon.inner[word] for word in row[1:])]
        assert sizes.tolist() == [len(word) for word in words if len(word)]
        assert starts[0] == 1  # behind [CLS]


def test_only_a_tokenizer_without_prefix_space_tells_the_start():
    assert [name for name, tokenizer in TOKENIZERS.items() if tells_the_start(tokenizer)] == [
        "bpe_without_prefix_space"
    ]
    lexicon, _ = spell_all("bpe_without_prefix_space")
    assert lexicon.initial.values.tolist() != lexicon.inner.values.tolist()
    same = spell_all("bpe")[0]
    assert same.initial is same.inner


def test_punctuation_that_closes_is_glued_or_stands_apart():
    keys = ["dog", ".", f"{GLUED}.", f"{CLOSING}."]
    for name in ("wordpiece", "bpe_cased"):
        lexicon = build_lexicon(keys, TOKENIZERS[name])
        assert lexicon.closes.tolist() == [False, False, True, True]
        for row, text in (([0, 2], "dog."), ([0, 3], "dog ."), ([1, 0], ". dog")):
            assert lexicon.spell(np.array(row), 20).tokens.tolist() == TOKENIZERS[name](text)["input_ids"]
    # WordPiece writes both alike; yet what closes a sentence is no word that may move.
    assert build_lexicon(keys, TOKENIZERS["wordpiece"]).same_as.tolist() == [0, 1, 2, 2]
    assert build_lexicon(keys, TOKENIZERS["bpe_cased"]).same_as.tolist() == [0, 1, 2, 3]


def test_words_with_the_same_tokens_are_one():
    keys = ["The", "the", "café", "THE", "cafe"]
    assert build_lexicon(keys, TOKENIZERS["wordpiece"]).same_as.tolist() == [0, 0, 2, 0, 2]
    assert build_lexicon(keys, TOKENIZERS["bpe"]).same_as.tolist() == [0, 0, 2, 0, 4]
    assert build_lexicon(keys, TOKENIZERS["wordpiece_cased"]).same_as.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length", [3, 4, 6, 9])
def test_a_long_sentence_is_cut_but_keeps_its_special_tokens(length):
    lexicon, rows = spell_all("wordpiece")
    whole = lexicon.spell(np.array(rows[0]), 200)
    cut = lexicon.spell(np.array(rows[0]), length)
    assert len(whole.tokens) == 9
    assert cut.tokens.tolist() == [*whole.tokens[: length - 1], whole.tokens[-1]]
    assert cut.begins_word.tolist() == [*whole.begins_word[: length - 1], False]


def test_lengths_are_those_of_the_spelled_sentences():
    lexicon, rows = spell_all("bpe")
    expected = [len(lexicon.spell(np.array(row), 200).tokens) for row in rows]
    assert lexicon.token_lengths(Ragged.of(rows)).tolist() == expected
    assert lexicon.token_lengths(Ragged.of([])).tolist() == []


def test_a_digest_tells_lexicons_apart():
    keys, _ = numbered(SENTENCES)
    digests = [lexicon_digest(build_lexicon(keys, tokenizer)) for tokenizer in TOKENIZERS.values()]
    lexicon = build_lexicon(keys, TOKENIZERS["bpe"])
    digests += [
        lexicon_digest(build_lexicon(keys[1:], TOKENIZERS["bpe"])),
        lexicon_digest(dataclasses.replace(lexicon, prefix=lexicon.suffix, suffix=lexicon.prefix)),
    ]
    assert len(set(digests)) == len(digests)
    assert lexicon_digest(lexicon) in digests


def test_a_tokenizer_without_padding_is_refused():
    plain = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")
    with pytest.raises(DataError, match="the tokenizer has no padding token: give it one"):
        build_lexicon(["a"], tokenizer)


def test_a_tokenizer_without_special_tokens_puts_none_around():
    plain = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1, "b": 2}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[UNK]")
    lexicon = build_lexicon(["b", "a"], tokenizer)
    assert lexicon.spell(np.array([1, 0]), 9).tokens.tolist() == [0, 2]
    assert (len(lexicon.prefix), len(lexicon.suffix), lexicon.pad_id, len(lexicon)) == (0, 0, 1, 2)
