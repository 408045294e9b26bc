"""Sentences as words: a table in memory, or memory-mapped from the folder in which it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from auxtasks import checkpoint
from auxtasks.data.array_files import map_array
from auxtasks.data.lexicon import Lexicon
from auxtasks.data.ragged import Ragged
from auxtasks.data.sealed import read_sealed, write_sealed
from auxtasks.errors import CheckpointError, DataError

__all__ = ["LEFT_OUT", "SentenceRecord", "SentenceTable", "load_sentences", "save_sentences"]

LEFT_OUT = ("empty", "one word", "no other order")


class SentenceRecord(TypedDict):
    """One sentence: its words, which of them may move, and what it takes to spell and to replace them."""

    words: NDArray[np.int32]
    movable: slice
    lexicon: Lexicon
    corpus: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceTable:
    """N sentences in which something can be shuffled.

    Attributes:
        words: N rows of words of the lexicon.
        lexicon: see `Lexicon`.
        rows: (N,) int64, the row in the source of each sentence.
        left_out: why (see `LEFT_OUT`) to how many sentences were left out.
        truncated: how many sentences are longer than the backbone takes, and lost their last words.
        keep_initial: whether the first word stays where it is, since its capital would tell.
        fingerprint: changes with any word, token or row.

    Example:
        >>> import tempfile
        >>> from auxtasks.data.sentences import read_sentences
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> texts = ["The old dog sleeps.", "A cat hears the dog.", "The cat sees a dog."]
        >>> tokenizer = train_tokenizer(texts, size=60)
        >>> table: SentenceTable = read_sentences(texts, tokenizer, length=16)
        >>> record: SentenceRecord = table.record(0)
        >>> len(table), len(record["words"]), record["movable"]
        (3, 5, slice(0, 4, None))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sentences(table, Path(folder) / "kept")
        ...     print(load_sentences(Path(folder) / "kept").fingerprint == table.fingerprint)
        True
    """

    words: Ragged
    lexicon: Lexicon
    rows: NDArray[np.int64]
    left_out: Mapping[str, int]
    truncated: int
    keep_initial: bool
    fingerprint: str

    def __len__(self) -> int:
        return len(self.words)

    def record(self, index: int) -> SentenceRecord:
        """Return one sentence."""
        words = self.words[index]
        stop = len(words) - int(self.lexicon.closes[words[-1]])
        movable = slice(int(self.keep_initial), stop)
        return {"words": words, "movable": movable, "lexicon": self.lexicon, "corpus": self.words.values}

    def token_lengths(self) -> NDArray[np.int64]:
        """Return how many tokens each sentence has, special ones included, (N,)."""
        return self.lexicon.token_lengths(self.words)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> SentenceTable:
        """Return the sentences at `indices`, in that order, with the same lexicon.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} sentences.")
        digest = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()
        return dataclasses.replace(self, words=self.words.take(chosen), rows=self.rows[chosen], fingerprint=digest)


def _arrays(table: SentenceTable) -> dict[str, NDArray[Any]]:
    """Return every array of a table by the name of its file."""
    lexicon = table.lexicon
    ragged = {"words": table.words, "inner": lexicon.inner, "initial": lexicon.initial}
    plain: dict[str, NDArray[Any]] = {
        "rows": table.rows,
        "same_as": lexicon.same_as,
        "closes": lexicon.closes,
        "prefix": lexicon.prefix,
        "suffix": lexicon.suffix,
    }
    values = {name: rows.values for name, rows in ragged.items()}
    return plain | values | {f"{name}_offsets": rows.offsets for name, rows in ragged.items()}


def save_sentences(table: SentenceTable, place: Path) -> None:
    """Write a table into a folder, in place of what is there.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    with checkpoint.atomic_folder(place) as folder:
        digests = {}
        for name, values in _arrays(table).items():
            np.save(folder / f"{name}.npy", values)
            digests[name] = checkpoint.file_digest(folder / f"{name}.npy")
        facts = {
            "schema": checkpoint.SCHEMA_VERSION,
            "left_out": dict(table.left_out),
            "truncated": table.truncated,
            "pad_id": table.lexicon.pad_id,
            "keep_initial": table.keep_initial,
            "fingerprint": table.fingerprint,
            "digests": digests,
        }
        write_sealed(folder / "manifest.json", facts)


def load_sentences(place: Path) -> SentenceTable | None:
    """Return what was kept, memory-mapped, or None when it is not there or damaged: then it is read anew."""
    if not place.is_dir():
        return None
    try:
        facts = read_sealed(place / "manifest.json")
        for name, digest in facts["digests"].items():
            if checkpoint.file_digest(place / f"{name}.npy") != digest:
                return None
        # As plain arrays over the mapped memory: slicing a `memmap` costs ten times what slicing an array does.
        kept = {name: np.asarray(map_array(place / f"{name}.npy")) for name in facts["digests"]}
        words, inner, initial = (Ragged(kept[name], kept[f"{name}_offsets"]) for name in ("words", "inner", "initial"))
        return SentenceTable(
            words=words,
            lexicon=Lexicon(
                inner=inner,
                initial=initial,
                same_as=kept["same_as"],
                closes=kept["closes"],
                prefix=kept["prefix"],
                suffix=kept["suffix"],
                pad_id=int(facts["pad_id"]),
            ),
            rows=kept["rows"],
            left_out={reason: int(facts["left_out"][reason]) for reason in LEFT_OUT},
            truncated=int(facts["truncated"]),
            keep_initial=bool(facts["keep_initial"]),
            fingerprint=str(facts["fingerprint"]),
        )
    except (CheckpointError, OSError, AttributeError, KeyError, TypeError, ValueError):
        return None
