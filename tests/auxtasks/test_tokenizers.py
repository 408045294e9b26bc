"""Tokenizers: trained the same way twice, saved and read back, and refused with numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from auxtasks.data.tokenizers import SPECIAL_TOKENS, TokenizerKind, load_tokenizer, tokenizer_digest, train_tokenizer
from auxtasks.errors import DataError

WORDS = "the cat sat on a mat while seven dogs chased another runner around their garden".split()  # noqa: SIM905
# Many pairs of letters are equally frequent, so that ties decide the vocabulary.
CORPUS = [" ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 8)) + "." for row in range(40)]
KINDS: list[TokenizerKind] = ["wordpiece", "bpe"]
SIZES = {"wordpiece": 80, "bpe": 290}
EVERY_CHARACTER = "".join(map(chr, range(0x21, 0x3000)))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_the_template(kind: TokenizerKind) -> None:
    tokenizer = train_tokenizer(CORPUS, kind=kind, size=SIZES[kind])
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == list(SPECIAL_TOKENS)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    assert len(tokenizer) == SIZES[kind]
    inner = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    other = tokenizer("a mat", add_special_tokens=False)["input_ids"]
    assert tokenizer("the cat")["input_ids"] == [2, *inner, 3]
    pair = tokenizer("the cat", "a mat", return_token_type_ids=True)
    assert pair["input_ids"] == [2, *inner, 3, *other, 3]
    assert set(pair["token_type_ids"]) == {0}
    assert "token_type_ids" not in tokenizer("the cat")
    assert tokenizer("[MASK]")["input_ids"] == [2, 4, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back(kind: TokenizerKind) -> None:
    tokenizer = train_tokenizer(CORPUS, kind=kind, size=SIZES[kind])
    # Words that were not in the corpus, of letters that were.
    text = "another red dogcat"
    assert 1 not in tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase(kind: TokenizerKind) -> None:
    texts = [*CORPUS, *(text.title() for text in CORPUS)]
    alike = train_tokenizer(texts, kind=kind, size=SIZES[kind] + 30)
    assert alike("The CAT")["input_ids"] == alike("the cat")["input_ids"]
    cased = train_tokenizer(texts, kind=kind, size=SIZES[kind] + 30, lowercase=False)
    assert cased("The Cat")["input_ids"] != cased("the cat")["input_ids"]


def test_accents_go_with_lowercase() -> None:
    texts = ["café cafe"] * 3
    assert len(set(train_tokenizer(texts, size=40).tokenize("café cafe"))) == 1
    assert len(set(train_tokenizer(texts, size=40, lowercase=False).tokenize("café cafe"))) == 2


def test_the_same_texts_give_the_same_tokenizer_in_every_process() -> None:
    # In processes of their own: the order of a hash table may differ between processes only.
    code = (
        "import json, sys; from auxtasks.data.tokenizers import train_tokenizer, tokenizer_digest; "
        "corpus, sizes = json.load(sys.stdin); "
        "print(*[tokenizer_digest(train_tokenizer(corpus, kind=kind, size=size)) for kind, size in sizes.items()])"
    )
    given = json.dumps([CORPUS, SIZES])
    runs = [
        subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    here = [tokenizer_digest(train_tokenizer(CORPUS, kind=kind, size=SIZES[kind])) for kind in KINDS]
    assert runs[0].split() == runs[1].split() == here
    assert len(set(here)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_equal(tmp_path: Path, kind: TokenizerKind) -> None:
    tokenizer = train_tokenizer(CORPUS, kind=kind, size=SIZES[kind])
    before = tokenizer_digest(tokenizer)
    tokenizer(CORPUS, truncation=True, max_length=4, padding=True)  # use leaves no trace in the digest
    assert tokenizer_digest(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(tmp_path), load_tokenizer(str(tmp_path))):
        assert tokenizer_digest(loaded) == before
        assert loaded(CORPUS)["input_ids"] == tokenizer(CORPUS)["input_ids"]
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert (loaded.pad_token, loaded.mask_token, list(loaded.model_input_names)) == (
            "[PAD]",
            "[MASK]",
            ["input_ids", "attention_mask"],
        )


def test_digest_tells_what_changes_the_output() -> None:
    digests = {
        tokenizer_digest(train_tokenizer(CORPUS, size=80)),
        tokenizer_digest(train_tokenizer(CORPUS, size=79)),
        tokenizer_digest(train_tokenizer(CORPUS, size=80, lowercase=False)),
    }
    changed = train_tokenizer(CORPUS, size=80)
    changed.pad_token = "[MASK]"
    assert len(digests | {tokenizer_digest(changed)}) == 4


def test_a_corpus_gives_what_it_can() -> None:
    assert 20 < len(train_tokenizer(CORPUS, size=50_000)) < 200


def test_rare_characters_are_unknown_and_cost_no_vocabulary() -> None:
    texts = [*CORPUS * 3, *(f"cat{character} x" for character in EVERY_CHARACTER)]
    tokenizer = train_tokenizer(texts, size=4096, lowercase=False)
    singles = {token.removeprefix("##") for token in tokenizer.get_vocab() if len(token.removeprefix("##")) == 1}
    assert len(singles) == 1000
    assert "c" in singles
    rare = next(
        character for character in reversed(EVERY_CHARACTER) if character.isalpha() and character not in singles
    )
    assert tokenizer("cat " + rare)["input_ids"][2] == tokenizer.unk_token_id


def test_more_texts_than_the_limit_are_thinned_out_evenly() -> None:
    texts = ["aa bb" if row % 2 == 0 else "cc dd" for row in range(100)]
    # Every second one: the odd rows are not seen at all.
    thinned = train_tokenizer(iter(texts), size=100, limit=60)
    assert tokenizer_digest(thinned) == tokenizer_digest(train_tokenizer(texts[::2], size=100))


def test_too_small_a_size_shows_the_numbers() -> None:
    with pytest.raises(DataError, match=r"size=8 is too small: 5 special tokens and 2 characters .* alone take 9"):
        train_tokenizer(["ab ba"], size=8)
    assert len(train_tokenizer(["ab ba"], size=9)) == 9
    with pytest.raises(DataError, match=r"size=260 is too small: 5 special tokens and 256 bytes alone take 261"):
        train_tokenizer(["ab ba"], kind="bpe", size=260)


def test_nothing_to_train_on() -> None:
    for texts in ([], ["", " \n"]):
        with pytest.raises(DataError, match=rf"nothing to train a tokenizer on: {len(texts)} texts"):
            train_tokenizer(texts)
    with pytest.raises(DataError, match=r"text 1 is NoneType; expected a string"):
        train_tokenizer(["a", None])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"no kind of tokenizer 'unigram'; there are wordpiece, bpe"):
        train_tokenizer(["a"], kind="unigram")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"limit must be at least 1, found 0"):
        train_tokenizer(["a"], limit=0)
    with pytest.raises(DataError, match=r"one string; expected many texts"):
        train_tokenizer("one text")


def test_tokenizer_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no tokenizer folder '.*gone'"):
        load_tokenizer(tmp_path / "gone")
    with pytest.raises(DataError, match=r"could not be loaded: [\s\S]*a folder written by save_pretrained"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"'owner/absent' could not be loaded: [\s\S]*check the spelling of the Hub name"
    ):
        load_tokenizer("owner/absent")


def test_damaged_and_slow_tokenizers(tmp_path: Path) -> None:
    train_tokenizer(CORPUS, size=80).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"could not be loaded: [\s\S]*a folder written by save_pretrained"):
        load_tokenizer(tmp_path)
    slow = tmp_path / "slow"
    transformers.CanineTokenizer().save_pretrained(slow)
    with pytest.raises(DataError, match=r"\(CanineTokenizer\) is written in Python; a fast one is needed"):
        load_tokenizer(slow)
    with pytest.raises(DataError, match=r"CanineTokenizer is not a fast tokenizer"):
        tokenizer_digest(transformers.CanineTokenizer())
