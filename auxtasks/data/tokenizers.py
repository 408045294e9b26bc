"""Tokenizers: trained on a corpus, loaded by name, and told apart by what they put out."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from auxtasks.errors import DataError, library_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["SPECIAL_TOKENS", "TokenizerKind", "load_tokenizer", "tokenizer_digest", "train_tokenizer"]

TokenizerKind: TypeAlias = Literal["wordpiece", "bpe"]

# In the order of their ids.
SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_CONTINUES: Final = "##"
# As BERT: of a corpus with more characters, the rarer ones become [UNK] instead of filling the vocabulary.
_MOST_CHARACTERS: Final = 1000
_LEAST_FREQUENCY: Final = 2
_MOST_TOKENS: Final = 1_000_000  # the trainer takes memory for all of them at once
_STRANGE: Final = "\ua66e"  # a letter of next to nobody's alphabet


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: TokenizerKind = "wordpiece",
    size: int = 8192,
    lowercase: bool = True,
    limit: int = 500_000,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer; the same texts give the same one.

    Every text becomes ``[CLS] ... [SEP]``, a pair ``[CLS] ... [SEP] ... [SEP]``, without token types. The special
    tokens are the first ids, in the order of `SPECIAL_TOKENS`.

    Args:
        texts: the corpus.
        kind: ``"wordpiece"`` as BERT has it (of more than 1,000 characters the rarest become ``[UNK]``), or byte-level
            ``"bpe"``, which knows every text.
        size: most tokens; a small corpus gives fewer.
        lowercase: treat upper and lower case alike; wordpiece then drops accents too, as BERT does.
        limit: most texts trained on. Of more, every second, fourth, ... is taken, so that they are spread evenly.

    Raises:
        DataError: there is no text, or `size` is below what the characters and special tokens alone take.

    Example:
        >>> tokenizer = train_tokenizer(["the dog saw the cat", "the cat saw the dog"], size=60)
        >>> tokenizer.tokenize("The cats"), tokenizer("the dog").tokens()
        (['the', 'cat', '##s'], ['[CLS]', 'the', 'dog', '[SEP]'])
    """
    if kind not in ("wordpiece", "bpe"):
        raise DataError(f"there is no kind of tokenizer {kind!r}; there are wordpiece, bpe.")
    if isinstance(texts, str):
        raise DataError("found one string; expected many texts.")
    if size > _MOST_TOKENS:
        raise DataError(f"size is at most {_MOST_TOKENS:,} tokens; found {size:,}.")
    if limit < 1:
        raise DataError(f"limit must be at least 1, found {limit}.")
    corpus = _spread(texts, limit)
    if not any(text.strip() for text in corpus):
        raise DataError(f"there is nothing to train a tokenizer on: {len(corpus)} texts, none with a character.")
    train = _train_wordpiece if kind == "wordpiece" else _train_bpe
    return _finished(train(corpus, size, lowercase))


def load_tokenizer(name: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load a tokenizer of the fast kind from a local folder or the Hugging Face Hub, without running code of its own.

    Args:
        name: a folder that `save_pretrained` wrote, or a Hub name.

    Raises:
        DataError: it is not there, cannot be read, or has no fast version.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train_tokenizer(["the old dog", "a cat"], size=40).save_pretrained(folder)
        ...     print(load_tokenizer(folder).tokenize("a dog"))
        ['a', 'd', '##o', '##g']
    """
    from transformers import AutoTokenizer

    place = os.fspath(name)
    local = os.path.exists(place)  # noqa: PTH110 - unlike a Path, it takes a name that is too long for one not there
    if not local and (isinstance(name, Path) or place.count("/") > 1 or place.startswith((".", "/", "~"))):
        raise DataError(f"there is no tokenizer folder {place!r} (looked in {Path(place).absolute().parent}).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # the libraries behind raise too many types to name, and all mean: not loaded
        advice = (
            "It should be a folder written by save_pretrained, with tokenizer.json and tokenizer_config.json."
            if local
            else "It is no local folder; check the spelling of the Hub name. Without a network, download it elsewhere "
            "and pass its folder; a private one needs `hf auth login`."
        )
        raise DataError(f"the tokenizer {place!r} could not be loaded: {library_words(error)}\n{advice}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the tokenizer {place!r} ({type(tokenizer).__name__}) is written in Python; a fast one is needed. Convert "
            "it with its library, save it (tokenizer.json), and pass that folder."
        )
    _check_knows_unknown(tokenizer, place)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _check_knows_unknown(tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    """Refuse a tokenizer that fails at the first character that it was not trained on."""
    try:
        tokenizer(_STRANGE)
    except Exception as error:  # the library raises plain exceptions
        raise DataError(
            f"the tokenizer {place!r} cannot read a text with a character that it does not know: {error}. Its "
            "vocabulary needs the token that stands for what is unknown, such as [UNK]."
        ) from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of all that decides a tokenizer's output, equal after saving and loading.

    Raises:
        DataError: the tokenizer is not a fast one.

    Example:
        >>> one, two = (train_tokenizer(["a b", "b a"], size=size) for size in (20, 21))
        >>> tokenizer_digest(one) == tokenizer_digest(two), len(tokenizer_digest(one))  # the corpus gives no more
        (True, 64)
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"{type(tokenizer).__name__} is not a fast tokenizer; there is nothing to take a hash of.")
    parts = json.loads(backend.to_str())
    # What the last call asked for, not what the tokenizer is.
    del parts["truncation"], parts["padding"]
    parts["ids"] = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")}
    parts["truncation_side"] = tokenizer.truncation_side
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _spread(texts: Iterable[str], limit: int) -> list[str]:
    """Take every first, second, fourth, ... text: the smallest such step that leaves at most `limit`.

    Example:
        >>> _spread("abcdefgh", 8), _spread("abcdefgh", 7), _spread(iter("abcdefgh"), 3)
        (['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'], ['a', 'c', 'e', 'g'], ['a', 'e'])
    """
    kept: list[str] = []
    step = 1
    for place, text in enumerate(texts):
        if place % step:
            continue
        if not isinstance(text, str):
            raise DataError(f"text {place} is {type(text).__name__}; expected a string.")
        check_characters(text, f"text {place}")
        kept.append(text)
        if len(kept) > limit:
            kept = kept[::2]
            step *= 2
    return kept


def check_characters(text: str, where: str) -> None:
    r"""Refuse a text with half a character (a lone surrogate), which no tokenizer takes.

    Raises:
        DataError: says where.

    Example:
        >>> check_characters("\ud83d", "row 3")
        Traceback (most recent call last):
        auxtasks.errors.DataError: row 3 holds '\ud83d', half a character. It was read in a wrong encoding, or cut.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start : error.start + 1]
        message = f"{where} holds {half!r}, half a character. It was read in a wrong encoding, or cut."
        raise DataError(message) from error


def _train_wordpiece(corpus: list[str], size: int, lowercase: bool) -> Tokenizer:
    """Train WordPiece, in an order of the characters that does not depend on the library's hash tables."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts = Counter[str]()
    for text in corpus:
        counts.update(text)
    alphabet, dropped = _alphabet(counts, normalizer, splitter)
    units = alphabet + [_CONTINUES + character for character in alphabet if _may_continue(character, splitter)]
    _check_size(size, len(SPECIAL_TOKENS) + len(units), f"{len(alphabet)} characters at the start or inside of a word")
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizer, splitter
    # The trainer numbers "##a" as its hash table comes to it, at random, and breaks ties by number. Named as special
    # tokens, which come first and in order, all units have their numbers before it starts.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_LEAST_FREQUENCY,
        special_tokens=[*SPECIAL_TOKENS, *units],
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    trained.train_from_iterator((text.translate(dropped) for text in corpus) if dropped else corpus, trainer)
    # A new one, in which the units are ordinary tokens.
    tokenizer = Tokenizer(
        models.WordPiece(trained.get_vocab(), unk_token="[UNK]", continuing_subword_prefix=_CONTINUES)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
    return tokenizer


def _alphabet(
    counts: Mapping[str, int], normalizer: normalizers.Normalizer, splitter: pre_tokenizers.PreTokenizer
) -> tuple[list[str], dict[int, str]]:
    """Return the characters of a corpus once normalised, sorted, and a translation that blanks out the others."""
    normalised = {raw: normalizer.normalize_str(raw) for raw in counts}
    totals = Counter[str]()
    for raw, number in counts.items():
        for character in normalised[raw]:
            totals[character] += number
    words = [character for character in totals if splitter.pre_tokenize_str(character)]
    kept = set(sorted(words, key=lambda character: (-totals[character], character))[:_MOST_CHARACTERS])
    rare = set(words) - kept
    return sorted(kept), {ord(raw): " " for raw, normal in normalised.items() if rare.intersection(normal)}


def _may_continue(character: str, splitter: pre_tokenizers.PreTokenizer) -> bool:
    """Tell whether a character can be inside a word: punctuation is a word of its own."""
    return len(splitter.pre_tokenize_str(f"a{character}")) == 1


def _train_bpe(corpus: list[str], size: int, lowercase: bool) -> Tokenizer:
    """Train byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size(size, len(SPECIAL_TOKENS) + len(alphabet), f"{len(alphabet)} bytes")
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=_LEAST_FREQUENCY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _check_size(size: int, least: int, units: str) -> None:
    if size < least:
        raise DataError(
            f"size={size} is too small: {len(SPECIAL_TOKENS)} special tokens and {units} alone take {least}. "
            f"Ask for at least {least}, better for some thousands."
        )


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Add the special tokens around a text, and hand it over as transformers knows it."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
