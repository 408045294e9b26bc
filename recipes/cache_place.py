"""Where what is kept between runs goes, ours and that of the libraries below: one folder. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from auxtasks.errors import DataError

__all__ = ["cache_folder", "keep_libraries_inside"]

# What the libraries keep, by the variable that says where, which each reads when it is imported. Not among them: what
# was fetched from the Hugging Face Hub or by torchvision. It belongs to the user, and other programs share it.
_OF_LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "HF_DATASETS_CACHE": "tables",  # CSV, JSON, text and parquet files as Arrow
        "MPLCONFIGDIR": "matplotlib",  # a list of the fonts
        "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # made when it is imported, else in the folder of temporary files
    }
)


def cache_folder() -> Path:
    """Return where decoded pictures and features are kept: AUXTASKS_CACHE, or ``auxtasks`` in the user's cache.

    Raises:
        DataError: neither is known.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, AUXTASKS_CACHE="scratch/kept"):
        ...     cache_folder().parts
        ('scratch', 'kept')
    """
    if given := os.environ.get("AUXTASKS_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "auxtasks"
    try:
        return Path.home() / ".cache" / "auxtasks"
    except RuntimeError as error:  # neither HOME nor an entry for the user, as in some containers
        raise DataError(
            "there is no home folder to keep decoded pictures and features in: set AUXTASKS_CACHE to a folder for them."
        ) from error


def keep_libraries_inside() -> None:
    """Let the libraries of this process keep what they keep below the cache folder, unless the user says where.

    To be called before they are imported, in processes that are ours alone: the command line's.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"AUXTASKS_CACHE": "/scratch", "MPLCONFIGDIR": "/home/me/fonts"}, clear=True):
        ...     keep_libraries_inside()
        ...     os.environ["HF_DATASETS_CACHE"], os.environ["MPLCONFIGDIR"]
        ('/scratch/tables', '/home/me/fonts')
    """
    try:
        kept = cache_folder().absolute()
    except DataError:
        return  # what needs the folder says so itself; what does not, such as a word of help, is not stopped
    for variable, name in _OF_LIBRARIES.items():
        os.environ.setdefault(variable, str(kept / name))
