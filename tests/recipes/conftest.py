"""A miniature recipe, its finished run, and the command line called as a user calls it, in this process."""

import contextlib
import dataclasses
import io
import sys

import pytest
import yaml

from recipes.cli import main

MINIATURE = {
    "name": "miniature",
    "data": {"path": "builtin:drawn_faces", "options": {"people": 8, "photos": 4, "size": 20}, "holdout": 0.25},
    "backbone": {
        "name": "convnet",
        "arguments": {"size": 16, "widths": [8, 16], "blocks": [1, 1], "embedding": 8, "dropout": 0.0},
    },
    "task": {"name": "face_pairs", "photos": 2},
    "training": {"steps": 4, "batch_size": 8, "workers": 0, "log_every": 2, "checkpoint_every": 2},
    "transfer": {
        "shots": [1, 2],
        "draws": 2,
        "arms": ["scratch", "raw", "frozen"],
        "heads": [{"name": "prototype"}, {"name": "ridge"}],
        "tuning": {"stages": [{"steps": 2}], "batch_size": 8},
        "scratch": {"stages": [{"steps": 2}], "batch_size": 8},
    },
    "targets": {
        "strangers": {
            "path": "builtin:drawn_faces",
            "options": {"people": 3, "photos": 5, "size": 20, "first_person": 100},
        }
    },
}


@dataclasses.dataclass(frozen=True)
class Called:
    """What a call of the command line left."""

    code: int
    out: str
    err: str


def call(*arguments):
    """Call the command line's entry point; an exception that is no exit is a failure of the test."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patched.setattr(sys, "argv", ["auxtasks", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code
    return Called(0 if code is None else code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Keep what tests decode out of the user's cache, and share it among them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AUXTASKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def command_line():
    return call


@pytest.fixture(scope="session")
def miniature(tmp_path_factory):
    """The miniature recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "miniature.yaml"
    path.write_text(yaml.safe_dump(MINIATURE))
    return path


@pytest.fixture(scope="session")
def finished(miniature, tmp_path_factory):
    """The folder of a whole run of the miniature recipe; tests read it and write elsewhere."""
    place = tmp_path_factory.mktemp("runs") / "miniature"
    called = call("run", miniature, "--out", place)
    assert called.code == 0, called.err
    return place
