"""A list of a folder's files with their sizes and digests, by which damage is found before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError

__all__ = ["FILE_LIST", "find_damage", "write_file_list"]

FILE_LIST: Final = "files.json"


def write_file_list(folder: Path) -> None:
    """Write the list of all files of a folder into it."""
    checkpoint.write_json(
        folder / FILE_LIST,
        {
            "schema": checkpoint.SCHEMA_VERSION,
            "files": {
                path.relative_to(folder).as_posix(): {
                    "bytes": path.stat().st_size,
                    "sha256": checkpoint.file_digest(path),
                }
                for path in _files(folder)
                if path != folder / FILE_LIST
            },
        },
    )


def find_damage(folder: Path, below: str = "") -> str | None:
    """Return what is wrong with a folder's files, in a sentence; None if they are whole.

    The list is written last, so a folder without one, as a copy that was interrupted leaves, is not whole either.

    Args:
        folder: with its list.
        below: looks only at files whose path begins so, such as ``"backbone/"``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("whole")
        >>> write_file_list(folder)
        >>> find_damage(folder)  # doctest: +ELLIPSIS
        >>> _ = (folder / "a.txt").write_text("wh0le")
        >>> find_damage(folder)  # doctest: +ELLIPSIS
        '.../a.txt is damaged: its content is not what was written (another SHA-256).'
    """
    try:
        if not (folder / FILE_LIST).is_file():
            return _missing(folder / FILE_LIST, folder)
        listed = checkpoint.read_json(folder / FILE_LIST)["files"]
        for name, facts in listed.items():
            if name.startswith(below) and (problem := _compare(folder / name, facts["bytes"], facts["sha256"], folder)):
                return problem
    except CheckpointError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return f"{folder / FILE_LIST} is damaged: it is not a list of files."
    except OSError as error:
        return f"{error.filename or folder} is damaged: {error.strerror or error}."
    return None


def _compare(path: Path, size: int, digest: str, folder: Path) -> str | None:
    if not path.is_file():
        return _missing(path, folder)
    if (found := path.stat().st_size) != size:
        return f"{path} is damaged: {found:,} bytes are there, {size:,} were written."
    if checkpoint.file_digest(path) != digest:
        return f"{path} is damaged: its content is not what was written (another SHA-256)."
    return None


def _missing(path: Path, folder: Path) -> str:
    return f"{path} is missing: the folder {folder} is not complete."


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
