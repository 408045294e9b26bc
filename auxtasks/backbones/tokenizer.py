"""Tokenizers of transformers, read from a folder or by name; code that came with one is never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from auxtasks.errors import BackboneError, library_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["has_tokenizer", "read_tokenizer", "token_ids"]

# One of these makes a folder one with a tokenizer. Without any, transformers would make up an empty one.
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")

MOST_IDS = 10_000_000


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds a tokenizer's files."""
    return any((Path(folder) / name).is_file() for name in FILES)


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer in a folder, or the one under a name on the Hugging Face Hub.

    Raises:
        BackboneError: there is none, it is damaged, it wants to run its own code, or there is no network.

    Example:
        >>> import tempfile
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train_tokenizer(["a b c", "c d"], size=20).save_pretrained(folder)
        ...     print(has_tokenizer(folder), read_tokenizer(folder).tokenize("a c"))
        True ['a', 'c']
    """
    from transformers import AutoTokenizer

    is_folder = Path(source).is_dir()
    try:
        return AutoTokenizer.from_pretrained(str(source), local_files_only=is_folder, trust_remote_code=False)
    except Exception as error:  # parsers and the Hub's client raise errors of half a dozen libraries
        advice = "" if is_folder else f" Without a network, pass name=FOLDER: see `hf download {source} --local-dir`."
        raise BackboneError(f'could not read the tokenizer of "{source}": {library_words(error)}{advice}') from error


def token_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many token ids a network needs for a tokenizer: one more than its highest.

    Raises:
        BackboneError: an id that is beyond all networks.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> token_ids(train_tokenizer(["a b c", "c d"], size=20)) > 4
        True
    """
    ids: dict[str, int] = tokenizer.get_vocab()
    highest = max(ids.values(), default=0)
    if highest > MOST_IDS:
        raise BackboneError(
            f"the tokenizer has the token id {highest:,} for {len(ids):,} tokens: a network needs a row of weights for "
            f"each id, at most {MOST_IDS:,}. Is its vocabulary damaged?"
        )
    return 1 + highest
