"""One folder for what is kept between runs: the libraries' share too, unless the user says where."""

import os
from pathlib import Path

import pytest

from auxtasks.data import load_source
from auxtasks.errors import DataError
from recipes.cache import clear_cache, describe_cache, kept_in
from recipes.cache_place import cache_folder, keep_libraries_inside

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
def homeless(unset, monkeypatch):
    """A user without a home folder, as in a container that is run as an unknown one."""
    for variable in ("AUXTASKS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)


@pytest.mark.parametrize(("variable", "below"), [("AUXTASKS_CACHE", ""), ("XDG_CACHE_HOME", "auxtasks")])
def test_no_home_is_needed_where_a_folder_is_given(homeless, monkeypatch, tmp_path, variable, below):
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path / below
    keep_libraries_inside()
    assert os.environ["HF_DATASETS_CACHE"] == str(tmp_path / below / "tables")


def test_without_a_home_what_needs_the_folder_says_what_to_set_and_the_rest_goes_on(homeless, command_line):
    keep_libraries_inside()
    assert not set(VARIABLES) & set(os.environ)
    assert command_line("list").code == 0
    called = command_line("cache", "list")
    assert (called.code, called.err.startswith("error: there is no home folder")) == (1, True)
    assert "set AUXTASKS_CACHE" in called.err


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
