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
    │   ├── NonFiniteError       the loss or a gradient is NaN or infinite; names the step, the rows and the layer
    │   └── TrainingStoppedError a signal asked it to stop, and it has; says what is kept
    ├── TransferError            a target cannot be trained or evaluated as asked
    │   └── LeakError            what should be unseen was seen in pretraining
    └── RecipeError              a recipe or an override is wrong; holds all its problems at once

All derive from `AuxtasksError`, so that the command line can turn each into a message and an exit code,
and from the built-in error that a caller would expect (`ValueError` for bad values).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
    "TrainingStoppedError",
    "TransferError",
    "did_you_mean",
    "library_words",
]


class AuxtasksError(Exception):
    """The root of all errors of this project; other processes can be given each of them, with its attributes.

    Attributes:
        told: whether another process of the run raises the same, and tells it.

    Example:
        >>> all(issubclass(error, DataError) for error in (ColumnError, ImageError))
        True
        >>> all(issubclass(error, BackboneError) for error in (LayerError, InputMismatchError))
        True
        >>> issubclass(LeakError, TransferError), issubclass(CheckpointError, AuxtasksError)
        (True, True)
        >>> all(issubclass(error, TrainingError) for error in (NonFiniteError, TrainingStoppedError))
        True
    """

    told = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[AuxtasksError], args: tuple[Any, ...], attributes: dict[str, Any]) -> AuxtasksError:
    """Make an error of a given kind without its own constructor, which may take something else than the message."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


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
    """The loss or a gradient is NaN or infinite.

    Attributes:
        step: the first such step, from 1; None where nobody knows.
        rows: of the data that it was made of: the bad ones where they are known, else all of the micro-batch; empty
            where the data are not to blame, or nobody remembers them.
        layer: module whose output is the first, in forward order, that is not finite.
        parameter: whose gradient is the first, in backward order, that is not finite; or that itself no longer was.

    Example:
        >>> error = NonFiniteError("the loss is NaN at step 7", step=7, rows=[3], layer="backbone.module.0")
        >>> error.step, error.layer
        (7, 'backbone.module.0')
    """

    def __init__(
        self,
        message: str,
        *,
        step: int | None = None,
        rows: Sequence[int] = (),
        layer: str | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.step = step
        self.rows = tuple(rows)
        self.layer = layer
        self.parameter = parameter


class TrainingStoppedError(TrainingError):
    """A signal asked training to stop, and it has.

    Attributes:
        signal: its number, such as `signal.SIGTERM`.
        checkpoint: the folder of what was kept; None where nothing is.

    Example:
        >>> import signal
        >>> TrainingStoppedError("stopped by SIGTERM", signal=signal.SIGTERM, checkpoint=None).signal == signal.SIGTERM
        True
    """

    def __init__(self, message: str, *, signal: int, checkpoint: Path | None) -> None:
        super().__init__(message)
        self.signal = signal
        self.checkpoint = checkpoint


class TransferError(AuxtasksError, ValueError):
    """A target cannot be trained or evaluated as asked."""


class LeakError(TransferError):
    """What should be unseen was seen in pretraining."""


class RecipeError(AuxtasksError, ValueError):
    """A recipe or an override is wrong.

    Args:
        problems: one line a problem, each with its dotted key, what was found and what is allowed.

    Example:
        >>> problems = RecipeError(["training.steps: must be at least 1.", "seed: must be a whole number."])
        >>> len(problems.problems)
        2
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


def library_words(error: Exception) -> str:
    """Return what a library of Hugging Face says went wrong, without its advice to let a file's code run.

    Example:
        >>> library_words(ValueError("... Please pass the argument `trust_remote_code=True` to allow custom code ..."))
        'it comes with code of its own that would have to be run, which is never done here'
        >>> library_words(ValueError("no such file"))
        'no such file'
    """
    if "trust_remote_code" in str(error):
        return "it comes with code of its own that would have to be run, which is never done here"
    return str(error)
