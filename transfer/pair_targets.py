"""What is different about a target of pairs: settings that make no sense for it, and what its report must say."""

from __future__ import annotations

from auxtasks.errors import TransferError

__all__ = ["check_pair_settings", "pair_notes"]


def check_pair_settings(*, metric: str, has_pretrained: bool, augments: bool) -> None:
    """Refuse what cannot be done with pairs.

    Args:
        metric: of the test.
        has_pretrained: whether pretraining items are offered for discriminants and for choices with one shot.
        augments: whether training shall change pictures.

    Raises:
        TransferError: says what, and why.

    Example:
        >>> check_pair_settings(metric="accuracy", has_pretrained=False, augments=False)
        >>> check_pair_settings(metric="accuracy", has_pretrained=False, augments=True)
        Traceback (most recent call last):
            ...
        auxtasks.errors.TransferError: the target holds pairs, which are trained on as they are: leave augment out.
        >>> len(pair_notes("essays", fixed_test=True))
        1
    """
    if metric != "accuracy":
        raise TransferError(
            f"the target holds pairs, whose sides are drawn by chance: {metric} would depend on the drawing. Use "
            "accuracy, the share of pairs whose better item is found."
        )
    if has_pretrained:
        raise TransferError(
            "the target holds pairs: identities of the pretraining data do not say which of two items is the better, "
            "so neither discriminants nor episodes can be made of them. Pass pretrained=None."
        )
    if augments:
        raise TransferError("the target holds pairs, which are trained on as they are: leave augment out.")


def pair_notes(name: str, *, fixed_test: bool) -> list[str]:
    """Return what a reader has to know about the scores of pairs."""
    notes = [
        f"{name}: pairs are resampled one by one; those that share an item or a query are not independent, so that "
        "intervals are too narrow."
    ]
    if not fixed_test:
        notes.append(
            f"{name}: without a fixed test set of other queries, items of a test pair may be in labelled pairs too."
        )
    return notes
