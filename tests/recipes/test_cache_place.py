"""One folder for what is kept between runs: the libraries' share too, unless the user says where."""

import os

import pytest

from auxtasks.data import load_source
from auxtasks.errors import DataError
from recipes.cache import clear_cache, describe_cache, kept_in
from recipes.cache_place import keep_libraries_inside

VARIABLES = ("HF_DATASETS_CACHE", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """An environment in which no library is told where it keeps things."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AUXTASKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_libraries_keep_theirs_below_the_cache_folder(unset):
    keep_libraries_inside()
    assert [os.environ[variable] for variable in VARIABLES] == [
        str(unset / name) for name in ("tables", "matplotlib", "torchinductor")
    ]


def test_what_the_user_says_stays(unset, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", "/data/tables")
    keep_libraries_inside()
    assert os.environ["HF_DATASETS_CACHE"] == "/data/tables"
    assert os.environ["MPLCONFIGDIR"] == str(unset / "matplotlib")


@pytest.fixture
def tables(tmp_path):
    """A cache folder with a table of text and one of CSV, and a folder of somebody's beside them."""
    (tmp_path / "a.txt").write_text("A cat sleeps.\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,label\nyes,1\nno,0\n", encoding="utf-8")
    for name in ("a.txt", "b.csv"):
        load_source(tmp_path / name, columns={"text": "text"}, cache_dir=tmp_path / "cache" / "tables")
    (tmp_path / "cache" / "tables" / "mine").mkdir()
    (tmp_path / "cache" / "tables" / "mine" / "notes").write_text("x", encoding="utf-8")
    return tmp_path / "cache"


def test_tables_are_listed_with_what_they_take(tables):
    found = kept_in(tables)
    assert sorted((kept.kind, kept.what) for kept in found) == [
        ("tables", "csv, read as Arrow"), ("tables", "text, read as Arrow"),
    ]  # fmt: skip
    for kept in found:
        assert kept.bytes == sum(path.stat().st_size for path in kept.place.rglob("*") if path.is_file()) > 0
    assert "tables" in describe_cache(tables)


def test_tables_are_cleared_and_nothing_beside_them(tables):
    assert " 2 removed" in clear_cache(tables, kind="tables")
    assert kept_in(tables) == []
    assert (tables / "tables" / "mine" / "notes").read_text(encoding="utf-8") == "x"


def test_a_kind_that_is_none_is_refused_with_a_hint(tables):
    with pytest.raises(DataError, match=r'no kind "table".*Did you mean "tables"'):
        clear_cache(tables, kind="table")
