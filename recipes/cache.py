"""What the cache folder holds, told and cleared: features, pictures, faces, sentences, signatures, tables."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from auxtasks.data.array_files import map_array
from auxtasks.errors import CheckpointError, DataError, did_you_mean
from auxtasks.features.cache import FeatureCache
from auxtasks.features.entries import Entry, entries, remove, remove_folder
from recipes.cache_place import cache_folder

__all__ = ["Kept", "clear_cache", "describe_cache", "feature_cache", "kept_in"]

DAY = 24 * 3600.0

# Only folders of these names, with entries that our own code named, are ever touched: somebody may point the variable
# AUXTASKS_CACHE at a folder with other things in it.
_OURS = re.compile(r"\.?((images|faces)-)?[0-9a-f]{32}(\.(writing|replaced|removed|unfinished)[-\d]*)*")


@dataclasses.dataclass(frozen=True)
class Kept:
    """One thing that is kept.

    Attributes:
        kind: the sub-folder: features, pictures, aligned, sentences, near_duplicates or tables.
        name: of its folder.
        place: its folder.
        what: it is, in a few words.
        bytes: that it takes.
        used: seconds since 1970 when it was last used, or last written where its use is not noted.
        entry: of features, as `auxtasks.features.entries` knows it.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> (Path(folder.name) / "pictures" / ("0" * 32)).mkdir(parents=True)
        >>> np.save(Path(folder.name) / "pictures" / ("0" * 32) / "pixels.npy", np.zeros((2, 8, 8, 1), np.uint8))
        >>> (kept,) = kept_in(Path(folder.name))
        >>> isinstance(kept, Kept), kept.kind, kept.what, kept.bytes
        (True, 'pictures', '2 pictures of 8 x 8 pixels, 1 channel', 256)
        >>> clear_cache(Path(folder.name), keys=["00"]).partition(": ")[2]
        '1 removed, 0.0 MB freed.'
        >>> kept_in(Path(folder.name))
        []
        >>> folder.cleanup()
    """

    kind: str
    name: str
    place: Path
    what: str
    bytes: int
    used: float
    entry: Entry | None = None


def feature_cache(folder: Path | None = None) -> FeatureCache:
    """Return the features' part of a cache folder; by default that of all runs.

    The environment variable AUXTASKS_CACHE_GB limits what it holds, see `FeatureCache`.

    Raises:
        DataError: the variable holds no number above 0.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"features": [[0.0, 1.0], [1.0, 0.0]], "label": ["left", "right"]})
        >>> table = encode_features(rows, width=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = feature_cache(Path(folder)).features(mlp(width=2, hidden=[3]), table, {"hidden1": "auto"})
        ...     found["hidden1"].shape, [kept.kind for kept in kept_in(Path(folder))]
        ((2, 3), ['features'])
    """
    given = os.environ.get("AUXTASKS_CACHE_GB")
    try:
        limit = None if given is None else float(given)
    except ValueError:
        limit = 0.0
    if limit is not None and not limit > 0:
        raise DataError(f'AUXTASKS_CACHE_GB="{given}": expected how many gigabytes features may take, such as 20.')
    return FeatureCache((folder or cache_folder()) / "features", None if limit is None else int(limit * 1e9))


def kept_in(folder: Path | None = None) -> list[Kept]:
    """Return what a cache folder holds, the least recently used first; by default that of all runs."""
    place = folder or cache_folder()
    found = [_features(entry) for entry in entries(place / "features") if _OURS.fullmatch(entry.place.name)]
    for kind, describe in _DESCRIBED.items():
        below = place / kind
        if below.is_dir():
            found += [
                _kept(kind, path, describe)
                for path in sorted(below.iterdir())
                if path.is_dir() and _OURS.fullmatch(path.name)
            ]
    found += [_table(path) for path in _tables(place / "tables")]
    return sorted(found, key=lambda kept: kept.used)


def describe_cache(folder: Path | None = None) -> str:
    """Return a table of what a cache folder holds, with its sum.

    Example:
        >>> print(describe_cache(Path("not there")))
        not there: nothing is kept.
    """
    place = folder or cache_folder()
    found = kept_in(place)
    if not found:
        return f"{place}: nothing is kept."
    rows = [("KIND", "KEY", "SIZE", "LAST USED", "WHAT")]
    rows += [(kept.kind, kept.name, _megabytes(kept.bytes), _date(kept.used), kept.what) for kept in found]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}"
        for row in rows
    ]
    total = sum(kept.bytes for kept in found)
    return "\n".join([str(place), *lines, f"{len(found)} kept, {_megabytes(total)}"])


def clear_cache(
    folder: Path | None = None,
    *,
    keys: Sequence[str] = (),
    kind: str | None = None,
    unused_days: float | None = None,
    now: float | None = None,
) -> str:
    """Remove what is kept, but for what a process reads or computes; return what was done, in a line.

    Args:
        folder: the cache folder; by default that of all runs.
        keys: of what goes, or the beginnings of them; all by default.
        kind: only this kind.
        unused_days: only what was not used for so many days.
        now: seconds since 1970.

    Raises:
        DataError: nothing has such a key, or there is no such kind.
    """
    place = folder or cache_folder()
    kinds = ("features", *_DESCRIBED, "tables")
    if kind is not None and kind not in kinds:
        raise DataError(f'no kind "{kind}". Kinds: {", ".join(kinds)}.{did_you_mean(kind, kinds)}')
    found = kept_in(place)
    for key in keys:
        if not any(kept.name.startswith(key) for kept in found):
            raise DataError(f'nothing with the key "{key}" is kept in {place}. See `auxtasks cache list`.')
    before = np.inf if unused_days is None else (time.time() if now is None else now) - unused_days * DAY
    chosen = [
        kept
        for kept in found
        if kept.used < before
        and kind in (None, kept.kind)
        and (not keys or any(kept.name.startswith(key) for key in keys))
    ]
    gone = [kept for kept in chosen if _removed(kept)]
    line = f"{place}: {len(gone)} removed, {_megabytes(sum(kept.bytes for kept in gone))} freed"
    stayed = len(chosen) - len(gone)
    return f"{line}; {stayed} in use stayed." if stayed else f"{line}."


def _removed(kept: Kept) -> bool:
    # What maps a file of pictures or sentences keeps what it has mapped; only of features is a use known.
    return remove_folder(kept.place) if kept.entry is None else remove(kept.entry)


def _features(entry: Entry) -> Kept:
    about = entry.about
    pools = about.get("layers")
    layers = ", ".join(f"{name} ({pool})" for name, pool in pools.items()) if isinstance(pools, dict) else ""
    parts = [about.get("holds", "of an earlier version, or damaged"), layers, about.get("items"), about.get("backbone")]
    words = "; ".join(str(part) for part in parts if part)
    what = words if entry.state == "whole" else f"{entry.state}: {words}"
    return Kept("features", entry.key, entry.place, what, entry.bytes, entry.used, entry)


def _kept(kind: str, place: Path, describe: Callable[[Path], str]) -> Kept:
    files = [path for path in place.iterdir() if path.is_file()]
    try:
        what = "left over, or being written" if place.name.startswith(".") else describe(place)
    except (CheckpointError, OSError, ValueError, IndexError, SafetensorError) as error:
        what = f"damaged ({error})"
    used = max((path.stat().st_mtime for path in files), default=place.stat().st_mtime)
    return Kept(kind, place.name, place, what, sum(path.stat().st_size for path in files), used)


def _pictures(place: Path) -> str:
    rows, height, width, channels = map_array(place / "pixels.npy").shape
    return f"{rows:,} pictures of {height} x {width} pixels, {channels} {'channel' if channels == 1 else 'channels'}"


def _aligned(place: Path) -> str:
    import pyarrow.parquet

    return f"{pyarrow.parquet.read_metadata(place / 'faces.parquet').num_rows:,} aligned faces"


def _sentences(place: Path) -> str:
    return f"{map_array(place / 'rows.npy').size:,} sentences"


def _signatures(place: Path) -> str:
    with safe_open(place / "signatures.safetensors", framework="numpy") as file:
        name = next(iter(sorted(file.keys())), "nothing")
        return f"what near duplicates of {file.get_slice(name).get_shape()[0]:,} items are found by"


_DESCRIBED: dict[str, Callable[[Path], str]] = {
    "pictures": _pictures,
    "aligned": _aligned,
    "sentences": _sentences,
    "near_duplicates": _signatures,
}


def _tables(place: Path) -> list[Path]:
    """Return the folders in which `datasets` keeps a table: by format, then by a hash, a version and another hash."""
    return sorted({info.parents[2] for info in place.glob("*/*/*/*/dataset_info.json")})


def _table(place: Path) -> Kept:
    files = [path for path in place.rglob("*") if path.is_file()]
    used = max(path.stat().st_mtime for path in files)
    size = sum(path.stat().st_size for path in files)
    return Kept("tables", place.name, place, f"{place.parent.name}, read as Arrow", size, used)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="minutes")[:16]
