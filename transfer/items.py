"""All items of a target in one table: the pool that labels are drawn from and, behind it, what is named beside it.

In one table every arm reads features, pixels, texts or pairs by row, and need not know which kind of test there is.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.ragged import Ragged
from auxtasks.data.rankings import ItemTable
from auxtasks.data.texts import TextTable, tokenise
from auxtasks.errors import InputMismatchError, TransferError
from auxtasks.features.batches import Table, item_noun

__all__ = ["Items", "for_backbone", "gather_items"]


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """What a target is evaluated on.

    Attributes:
        table: the pool and, behind it, the fixed test set and the named validation set, where there are such.
        pool: how many items labels are drawn from: the first of the table.
        test: (M,) rows of the fixed test set, or None: then each draw is tested on what it leaves over.
        validation: (V,) rows of the named validation set, or None: then choices are made inside the support.
    """

    table: Table
    pool: int
    test: NDArray[np.int64] | None
    validation: NDArray[np.int64] | None = None

    @property
    def pool_labels(self) -> NDArray[np.int64]:
        """Labels of the pool, (N,)."""
        return self.table.labels[: self.pool]


def gather_items(table: Table, test: Table | None, validation: Table | None = None) -> Items:
    """Put a pool, its test set and its validation set into one table, with the pool's numbering of the classes.

    Raises:
        InputMismatchError: they hold items of different kinds, pictures of another shape, or vectors of another width.
        TransferError: the test or validation set is the pool, or one is the other; other class names, a set without
            items, or one with unlabelled ones.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> pool, test = (
        ...     feature_table_of(rows, np.array([0, 1]), ("low", "high"), np.arange(2))
        ...     for rows in (np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32))
        ... )
        >>> items: Items = gather_items(pool, test)
        >>> items.pool, items.test.tolist(), len(items.table)
        (2, [2, 3], 4)
    """
    _check_different(table, test, validation)
    pool = len(table)
    table, test_rows = _with_part(table, test, "test")
    table, validation_rows = _with_part(table, validation, "validation")
    return Items(table, pool, test_rows, validation_rows)


def for_backbone(backbone: Backbone, table: Table) -> Table:
    """Return a table as another backbone takes it: texts are spelled anew by that one's own tokenizer.

    Raises:
        BackboneError: it takes texts, and has no tokenizer.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((2, 3), np.float32), np.array([0, 1]), ("low", "high"), np.arange(2))
        >>> for_backbone(mlp(width=3, hidden=[4]), table) is table  # vectors need no spelling
        True
    """
    if isinstance(table, PairTable):
        items = for_backbone(backbone, table.items)
        assert not isinstance(items, PairTable)  # the items of pairs are none
        together = hashlib.sha256(f"{table.fingerprint}|{items.fingerprint}".encode())
        if items is table.items:
            return table
        return dataclasses.replace(table, items=items, fingerprint=together.hexdigest())
    if not isinstance(table, TextTable):
        return table
    tokenizer, length = backbone.text_settings
    tokens, cut = tokenise(table.texts, tokenizer, length)
    digest = hashlib.sha256(table.fingerprint.encode() + tokens.values.tobytes() + tokens.offsets.tobytes())
    assert tokenizer.pad_token_id is not None  # held where the backbone was built
    return dataclasses.replace(
        table, tokens=tokens, truncated=cut, pad_id=int(tokenizer.pad_token_id), fingerprint=digest.hexdigest()
    )


def _check_different(table: Table, test: Table | None, validation: Table | None) -> None:
    """Refuse a test or validation set that is the pool, or one that is the other."""
    for part, kind, without in (
        (test, "test", "each draw is tested on what it leaves over"),
        (validation, "validation", "choices are made inside the support"),
    ):
        if part is not None and part.fingerprint == table.fingerprint:
            raise TransferError(
                f"the {kind} set is the pool itself, the same {len(part)} {item_noun(part)} that labels are drawn "
                f"from: pass others, or no {kind} set; then {without}."
            )
    if test is not None and validation is not None and test.fingerprint == validation.fingerprint:
        raise TransferError(
            f"the validation set is the test set itself, the same {len(test)} {item_noun(test)}: what is chosen on "
            "them says nothing about others. Pass others, or no validation set."
        )


def _with_part(table: Table, part: Table | None, kind: str) -> tuple[Table, NDArray[np.int64] | None]:
    """Put a part behind a table; return both as one, and the rows of the part."""
    if part is None:
        return table, None
    if set(table.class_names) != set(part.class_names):
        raise TransferError(
            f"labels are drawn from the classes {', '.join(table.class_names)}; the {kind} set has "
            f"{', '.join(part.class_names)}. Both need the same names."
        )
    if not len(part) or part.labels.min() < 0:
        raise TransferError(
            f"{np.sum(part.labels < 0)} of the {len(part)} {kind} {item_noun(part)} have no label: a {kind} set needs "
            "items, each with a label."
        )
    places = np.array([table.class_names.index(name) for name in part.class_names], dtype=np.int64)
    renumbered = dataclasses.replace(part, labels=places[part.labels], class_names=table.class_names)
    return _joined(table, renumbered, kind), len(table) + np.arange(len(part))


def _joined(first: Table, second: Table, kind: str) -> Table:
    if isinstance(first, PairTable) and isinstance(second, PairTable):
        return _joined_pairs(first, second, kind)
    if not isinstance(first, PairTable) and not isinstance(second, PairTable):
        return _joined_items(first, second, kind)
    raise _of_two_kinds(first, second, kind)


def _joined_pairs(first: PairTable, second: PairTable, kind: str) -> PairTable:
    """Put pairs behind pairs; items that both share stay where they are."""
    items, shift = first.items, 0
    if second.items.fingerprint != first.items.fingerprint:
        items, shift = _joined_items(first.items, second.items, kind), len(first.items)
    return PairTable(
        items=items,
        left=np.concatenate([first.left, second.left + shift]),
        right=np.concatenate([first.right, second.right + shift]),
        labels=np.concatenate([first.labels, second.labels]),
        rows=np.concatenate([first.rows, second.rows]),
        skipped=first.skipped + second.skipped,
        fingerprint=_joined_fingerprint(first, second),
    )


def _joined_items(first: ItemTable, second: ItemTable, kind: str) -> ItemTable:
    if isinstance(first, TextTable) and isinstance(second, TextTable):
        values = np.concatenate([first.tokens.values, second.tokens.values])
        offsets = np.concatenate([first.tokens.offsets, second.tokens.offsets[1:] + first.tokens.offsets[-1]])
        return dataclasses.replace(
            _with_rows_of_both(first, second),
            tokens=Ragged(values, offsets),
            texts=first.texts + second.texts,
            truncated=first.truncated + second.truncated,
        )
    if isinstance(first, ImageTable) and isinstance(second, ImageTable):
        if first.pixels.shape[1:] != second.pixels.shape[1:]:
            raise InputMismatchError(
                f"pictures of the pool are {first.pixels.shape[1:]}, those of the {kind} set "
                f"{second.pixels.shape[1:]}: decode both to one size."
            )
        return dataclasses.replace(
            _with_rows_of_both(first, second), pixels=np.concatenate([first.pixels, second.pixels])
        )
    if isinstance(first, FeatureTable) and isinstance(second, FeatureTable):
        if first.width != second.width:
            raise InputMismatchError(
                f"vectors of the pool have {first.width} features, those of the {kind} set {second.width}: both need "
                "the same."
            )
        return dataclasses.replace(
            _with_rows_of_both(first, second), values=np.concatenate([first.values, second.values])
        )
    raise _of_two_kinds(first, second, kind)


def _of_two_kinds(first: Table, second: Table, kind: str) -> InputMismatchError:
    return InputMismatchError(
        f"labels are drawn from {item_noun(first)}, and the {kind} set holds {item_noun(second)}: both must be of a "
        "kind."
    )


SomeTable = TypeVar("SomeTable", ImageTable, TextTable, FeatureTable)


def _with_rows_of_both(first: SomeTable, second: SomeTable) -> SomeTable:
    """Return the first table with what all kinds of items have in common joined."""
    return dataclasses.replace(
        first,
        labels=np.concatenate([first.labels, second.labels]),
        rows=np.concatenate([first.rows, second.rows]),
        skipped=first.skipped + second.skipped,
        fingerprint=_joined_fingerprint(first, second),
    )


def _joined_fingerprint(first: Table, second: Table) -> str:
    return hashlib.sha256(f"joined|{first.fingerprint}|{second.fingerprint}".encode()).hexdigest()
