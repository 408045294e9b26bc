"""Loader workers send tensors through sockets in the temporary folder, whose path must not be too long for one."""

from __future__ import annotations

import sys
import tempfile

from auxtasks.errors import TrainingError

__all__ = ["check_worker_sockets"]

# Bytes of a socket's path that the kernel takes, without the closing zero.
_LONGEST = 103 if sys.platform == "darwin" else 107
# What Python puts below the temporary folder.
_BELOW = len("/pymp-12345678/listener-12345678")


def check_worker_sockets(folder: str | None = None) -> None:
    """Refuse a temporary folder in which loader workers could send nothing: training would wait for them for ever.

    Args:
        folder: the temporary folder; that of this process by default.

    Raises:
        TrainingError: its path is too long; says by how much.

    Example:
        >>> check_worker_sockets("/tmp")
        >>> check_worker_sockets("/scratch/" + 80 * "x")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.TrainingError: the path of the temporary folder has 89 bytes...
    """
    found = tempfile.gettempdir() if folder is None else folder
    size, most = len(found.encode("utf-8", "surrogateescape")), _LONGEST - _BELOW
    if size > most:
        raise TrainingError(
            f"the path of the temporary folder has {size} bytes, and loader workers send their batches through sockets "
            f"in it, which take at most {most}: {found}. Set TMPDIR to a shorter path, or read without workers "
            "(training.workers=0)."
        )
