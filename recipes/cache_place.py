"""Where what is kept between runs goes, ours and that of the libraries below: one folder. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

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

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, AUXTASKS_CACHE="scratch/kept"):
        ...     cache_folder().parts
        ('scratch', 'kept')
    """
    given = os.environ.get("AUXTASKS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "auxtasks"


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
    for variable, name in _OF_LIBRARIES.items():
        os.environ.setdefault(variable, str(cache_folder().absolute() / name))
