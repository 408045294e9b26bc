"""Every error that this project raises on purpose.

::

    AuxtasksError
    ├── DataError                what was read is not what was declared
    │   ├── ColumnError          a column is missing or has the wrong type
    │   └── ImageError           a picture cannot be decoded; names the row and the file
    ├── BackboneError            a backbone cannot be built, cut or read
    │   ├── LayerError           a layer name that the backbone does not have, or a cut it cannot make
    │   └── InputMismatchError   the data does not fit what the backbone takes; shows both
    ├── CheckpointError          a folder on disk is damaged, of another version, or of another run
    ├── TrainingError            training cannot go on
    │   └── NonFiniteError       the loss or a gradient is NaN or infinite; names the step
    ├── TransferError            a target cannot be trained or evaluated as asked
    │   └── LeakError            what should be unseen was seen in pretraining
    └── RecipeError              a recipe or an override is wrong; holds all its problems at once

All derive from `AuxtasksError`, so that the command line can turn each into a message and an exit code,
and from the built-in error that a caller would expect (`ValueError` for bad values).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "AuxtasksError",
    "BackboneError",
    "CheckpointError",
    "ColumnError",
    "DataError",
    "ImageError",
    "InputMismatchError",
    "LayerError",
    "LeakError",
    "NonFiniteError",
    "RecipeError",
    "TrainingError",
    "TransferError",
    "did_you_mean",
]


class AuxtasksError(Exception):
    """The root of all errors of this project."""


class DataError(AuxtasksError, ValueError):
    """What was read is not what was declared."""


class ColumnError(DataError):
    """A column is missing or has the wrong type."""


class ImageError(DataError):
    """A picture cannot be decoded."""


class BackboneError(AuxtasksError, ValueError):
    """A backbone cannot be built, cut or read."""


class LayerError(BackboneError):
    """A layer that the backbone does not have, or a cut that it cannot make."""


class InputMismatchError(BackboneError):
    """The data does not fit what the backbone takes."""


class CheckpointError(AuxtasksError):
    """A folder on disk is damaged, of another version, or belongs to another run."""


class TrainingError(AuxtasksError):
    """Training cannot go on."""


class NonFiniteError(TrainingError):
    """The loss or a gradient is NaN or infinite."""


class TransferError(AuxtasksError, ValueError):
    """A target cannot be trained or evaluated as asked."""


class LeakError(TransferError):
    """What should be unseen was seen in pretraining."""


class RecipeError(AuxtasksError, ValueError):
    """A recipe or an override is wrong.

    Args:
        problems: one line a problem, each with its dotted key, what was found and what is allowed.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """Return a hint that names the closest allowed word, or nothing when none is close.

    Example:
        >>> did_you_mean("identiy", ["image", "identity"])
        ' Did you mean "identity"?'
        >>> did_you_mean("qqq", ["image", "identity"])
        ''
    """
    close = difflib.get_close_matches(found, list(allowed), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""
