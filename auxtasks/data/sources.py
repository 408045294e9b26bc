"""Anything to a `datasets.Dataset` with declared, checked columns.

A source is a folder of images, a parquet, CSV, JSON lines, text or svmlight file, a Hub name, a built-in, or something
already in memory. Whatever it was, the result has one column for each declared role, under the role's name, and keeps
the others:

==========  =====================================================================================================
role        what the result holds
==========  =====================================================================================================
``image``   `datasets.Image(decode=False)`: ``{"bytes", "path"}``, not decoded (see `auxtasks.data.images`)
``label``   `datasets.ClassLabel`, its names in natural order (``s2`` before ``s10``)
``text``    strings
any other   the column as it is, renamed
==========  =====================================================================================================

Class names are collected before `where` selects rows, so two selections of one file agree on what label 3 is. A column
that is not a role but carries a role's name is kept as ``source_<name>``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import datasets
import numpy as np

from auxtasks.data.arrow import Cell
from auxtasks.data.columns import apply_roles, matching_rows, present_columns
from auxtasks.data.opening import Kind, Source, open_source, quiet_unless_terminal
from auxtasks.errors import DataError

__all__ = ["load_source"]


def load_source(
    path: Source,
    *,
    kind: Kind = "auto",
    columns: Mapping[str, str],
    split: str | None = None,
    config: str | None = None,
    where: Mapping[str, Cell] | None = None,
    required: Collection[str] | None = None,
    allow_unlabelled: bool = False,
    options: Mapping[str, Cell] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Load a source and check its columns.

    Args:
        path: where the rows are.

            - a folder of images: one sub-folder a class (its columns are ``image``, ``label`` and ``file``), or flat
              (``image`` and ``file``); with `split` the sub-folder of that name is read;
            - a parquet, CSV, TSV, JSON lines or text file, or a folder of parquet files. Image paths in it are
              relative to its folder. In CSV, the label and image columns are read as strings, so ``001`` stays ``001``;
            - an svmlight file, such as LETOR's, with the columns ``qid``, ``label`` and ``features``;
            - a Hub name, ``"owner/name"``;
            - ``"builtin:NAME"``, such as ``"builtin:digits"``: see `auxtasks.data.builtin.BUILTINS`;
            - a `datasets.Dataset`, or a mapping from column names to lists.
        kind: what `path` is; ``"auto"`` looks.
        columns: role to column name in the source, such as ``{"image": "image", "label": "name"}``.
        split: which split, where a source has several.
        config: which configuration of a Hub data set.
        where: keep the rows whose column (of the source, or a role) equals a value; several are joined by "and".
        required: the roles that must be there; all by default. Another role whose column is missing is left out.
        allow_unlabelled: let rows have no label (null); otherwise the first such row is an error.
        options: arguments of a built-in; of an svmlight file ``width`` and ``zero_based``, see `read_svmlight`.
        cache_dir: where `datasets` keeps its Arrow files; its own default if not given.

    Returns:
        A data set with the roles first, then the source's other columns.

    Raises:
        ColumnError: a column is missing, or holds what its role cannot use.
        DataError: the source is not there, cannot be read, has no such split, or no row is left.

    Example:
        >>> data = load_source({"text": ["yes", "no", "no"], "answer": ["b10", "b2", "b2"]},
        ...                    columns={"text": "text", "label": "answer"})
        >>> data.features["label"].names, data[0]
        (['b2', 'b10'], {'text': 'yes', 'label': 1})
    """
    dataset, place, base = open_source(path, kind, columns, split, config, options, cache_dir)
    columns = present_columns(dataset, columns, required, place)
    if where:
        # Which rows stay is decided on the source's columns, and applied last: labels must not depend on it.
        kept = matching_rows(dataset, {columns.get(name, name): value for name, value in where.items()}, place)
    else:
        kept = np.arange(len(dataset))
    if not len(kept):
        raise DataError(f"{place} has no rows." if not where else f"{place}: no row has {_spell(where)}. Ask for less.")
    with quiet_unless_terminal():
        dataset = apply_roles(dataset, columns, kept, base, place, allow_unlabelled)
    return dataset if len(kept) == len(dataset) else dataset.select(kept)


def _spell(where: Mapping[str, Cell]) -> str:
    return " and ".join(f"{name} = {value!r}" for name, value in where.items())
