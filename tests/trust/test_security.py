"""Nothing that is read is run, nothing is written but where it belongs; and what looks for that finds it."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from trust import ROOT
from trust.code_audit import REVIEWED, audit, audited_files
from trust.dotted_names import MODULE, leaves, replaced
from trust.escapes import ESCAPES, Escape, followed
from trust.planted import PLANTED, YAML_TAGS
from trust.security import prove, prove_writes
from trust.traps import Planted, Trap, sprung
from trust.written import SECRETS, Place

# --- the proofs -------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_no_file_is_run_no_name_is_imported_and_nothing_is_written_elsewhere():
    # A short path, as `python -m trust` has one: workers' sockets are below the temporary folder of what is watched.
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        proofs = list(prove(Path(folder), full=False))
    assert [failure for proof in proofs for failure in proof.failures] == []
    source, planted, recipes, escapes, writes, searched = (proof.times for proof in proofs)
    assert source == len(audited_files()) > 150
    assert planted == len(PLANTED) >= 50
    assert recipes > 250
    assert escapes == len(ESCAPES) >= 60
    assert writes > 500
    assert searched > 100


# --- source text ------------------------------------------------------------------------------------------------------

UNSAFE = {
    "torch.load(path)": "torch.load without weights_only=True",
    "torch.load(path, weights_only=False)": "weights_only is not plainly True",
    "torch.load(path, weights_only=trusted)": "weights_only is not plainly True",
    "torch.hub.load('a/b', 'c')": "call of hub.load",
    "np.load(path)": "np.load without allow_pickle=False",
    "np.load(path, allow_pickle=True)": "allow_pickle is not plainly False",
    "import joblib": "import of joblib",
    "import pickle as p": "import of pickle",
    "from pickle import loads": "import from pickle",
    "import pickle\npickle.loads(text)": "use of pickle.loads",
    "from torch import load": "import of torch.load by its bare name",
    "eval(text)": "call of eval",
    "exec(text)": "call of exec",
    "__import__(name)": "call of __import__",
    "importlib.import_module(name)": "import of a module whose name is computed",
    "subprocess.run(command, shell=True)": "shell is not plainly False",
    "os.system(command)": "call of os.system",
    "yaml.load(text, Loader=yaml.Loader)": "yaml.load with a loader that is not known to be safe",
    "yaml.unsafe_load(text)": "call of yaml.unsafe_load",
    "class Loader(yaml.UnsafeLoader): pass": "use of yaml.UnsafeLoader",
    "AutoConfig.from_pretrained(name)": "AutoConfig.from_pretrained without trust_remote_code=False",
    "options = {'trust_remote_code': True}": "trust_remote_code is not plainly False",
    "accelerator.save_state(folder)": "call of accelerator.save_state",
}


@pytest.mark.parametrize("source", UNSAFE)
def test_an_unsafe_call_is_found(source):
    assert any(line.endswith(UNSAFE[source]) for line in audit(source, "a.py")), audit(source, "a.py")


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "import pickle\ntry: read()\nexcept pickle.UnpicklingError: pass",
        "module.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "class _Loader(yaml.SafeLoader): pass\nyaml.load(text, Loader=_Loader)",
        "importlib.import_module('transfer.foreign')",
    ],
)
def test_a_safe_call_is_not(source):
    assert audit(source, "a.py") == []


@pytest.mark.parametrize("name", REVIEWED)
def test_modules_imported_by_a_computed_name_are_those_of_a_closed_table(name):
    source = (ROOT / name).read_text(encoding="utf-8")
    assert [line.split(": ", 1)[1] for line in audit(source, "unreviewed.py")] == [
        "import of a module whose name is computed"
    ]
    assert f"\n{REVIEWED[name]}" in source


# --- planted files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda trap, place: pickle.loads(trap.pickled()),
        lambda trap, place: torch.load(_saved(place, trap), weights_only=False),
        lambda trap, place: np.load(_written(place, trap), allow_pickle=True),
        lambda trap, place: yaml.unsafe_load(f"!!python/{YAML_TAGS[0]} ['{trap.marker}']"),
        lambda trap, place: exec(trap.code),
    ],
    ids=["pickle", "torch", "numpy", "yaml", "code"],
)
def test_a_trap_goes_off_where_it_is_read_without_care(read, tmp_path):
    trap = Trap(tmp_path / "marker")
    read(trap, tmp_path)
    assert trap.marker.is_dir()


def _saved(place, trap):
    torch.save({"weight": trap}, place / "weights.pt")
    return place / "weights.pt"


def _written(place, trap):
    (place / "file").write_bytes(trap.pickled())
    return place / "file"


def test_postscript_goes_off_where_pillow_is_let(tmp_path, monkeypatch):
    trap = Trap(tmp_path / "marker")
    (postscript,) = [planted for planted in PLANTED if planted.name == "PostScript as a picture"]
    picture, programs = postscript.plant(tmp_path, trap)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    with Image.open(picture) as opened, pytest.raises((OSError, subprocess.CalledProcessError)):
        opened.load()
    assert trap.marker.is_dir()


def test_a_careless_reader_is_found_out(tmp_path):
    careless = Planted(
        "a careless reader", lambda folder, trap: _written(folder, trap), lambda path: pickle.loads(path.read_bytes()),
        "no",
    )  # fmt: skip
    assert sprung(careless, tmp_path) == (
        "a careless reader: its code was run",
        "a careless reader: expected a refusal that says 'no', found None",
    )


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_that_leads_out_is_found_out(tmp_path):
    escape = Escape("writes beside", lambda folder: (folder / "inside" / ".." / "new").write_text("x"), None)
    (failure,) = followed(escape, tmp_path / "a")
    assert failure.startswith("writes beside: ")
    assert "new" in failure


def test_a_removal_outside_is_found_out(tmp_path):
    escape = Escape("removes beside", lambda folder: shutil.rmtree(folder / "precious"), None)
    assert len(followed(escape, tmp_path / "a")) == 2  # the folder and its file


ARCHIVES = [escape for escape in ESCAPES if escape.name.startswith("members of")]


@pytest.mark.parametrize("escape", ARCHIVES, ids=lambda escape: escape.name)
def test_a_reader_that_unpacks_where_members_say_is_found_out(tmp_path, monkeypatch, escape):
    def unpack(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                Path(member).parent.mkdir(parents=True, exist_ok=True)
                Path(member).write_bytes(archive.read(member))

    monkeypatch.setattr("trust.escapes.read_foreign", unpack)
    folder, here = tmp_path / "watched" / "a", Path.cwd()
    changed = " ".join(followed(escape, folder))
    for place in (folder.parent / "absolute", folder.parent / "out", folder / "out", folder / "work" / "a"):
        assert str(place) in changed
    assert Path.cwd() == here


def test_every_text_of_a_recipe_is_replaced():
    recipe = {"a": "x", "b": {"c": None, "d": 1}, "e": ["y", {"f": "z"}]}
    keys = list(leaves(recipe))
    assert keys == ["a", "b.c", "e.0", "e.1.f"]
    changed = recipe
    for key in keys:
        changed = replaced(changed, key, MODULE)
    assert changed == {"a": MODULE, "b": {"c": MODULE, "d": 1}, "e": [MODULE, {"f": MODULE}]}
    assert recipe["a"] == "x"


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_what_is_written_elsewhere_and_a_secret_are_found_out(tmp_path):
    place = Place(tmp_path)
    place.inputs.mkdir()
    elsewhere = tmp_path / "elsewhere"
    program = (
        "import os, pathlib, shutil, tempfile\n"
        f"out, elsewhere = pathlib.Path({str(place.out)!r}), pathlib.Path({str(elsewhere)!r})\n"
        "(out / 'inside').mkdir(); (elsewhere / 'new').mkdir(parents=True)\n"
        "(elsewhere / 'file').write_text('x'); (elsewhere / 'file').rename(elsewhere / 'renamed')\n"
        "(out / 'told').write_text(os.environ['HF_TOKEN'])\n"
        "os.symlink('/', pathlib.Path.home() / 'link')\n"
        "tempfile.NamedTemporaryFile(delete=False)\n"
        "tempfile.NamedTemporaryFile()\n"
        "shutil.rmtree(elsewhere)\n"
    )
    writes, searched = prove_writes([["anything"]], _with_command(place, program))
    escaped = "\n".join(writes.failures)
    for words in (f"os.mkdir {elsewhere}", f"open {elsewhere}/file", f"os.rename {elsewhere}/renamed",
                  f"os.symlink {place.home}/link", f"open {place.temporary}/", f"os.rmdir {elsewhere}",
                  f"another folder or file: ('{place.home}/link'"):  # fmt: skip
        assert words in escaped
    assert str(place.out) not in escaped
    assert searched.failures == (f"{place.out}/told holds a secret of the environment",)
    assert SECRETS["HF_TOKEN"] == (place.out / "told").read_text()


@pytest.mark.processes
def test_what_compiled_code_writes_in_the_checkout_or_beside_is_found_out(tmp_path):
    place, beside, checkout = Place(tmp_path), tmp_path / "beside", tmp_path / "checkout"
    for folder in (place.inputs, checkout / ".git", checkout / "recipes"):
        folder.mkdir(parents=True)
    found_out = [beside, checkout / "new", checkout / "recipes" / "new"]
    written = [*found_out, checkout / ".git" / "new", place.out / "new"]
    program = (
        "import numpy\nfrom safetensors.numpy import save_file\n"
        f"for place in {list(map(str, written))!r}: save_file({{'weight': numpy.zeros(2)}}, place)\n"
    )
    writes, _ = prove_writes([["anything"]], _with_command(place, program))
    assert all(path.is_file() for path in written)
    assert list(writes.failures) == [f"a new folder or file: {path}" for path in found_out]


def _with_command(place, program):
    """Return a place where a program is run for the command line, and the checkout is the folder of that name."""
    script = place.inputs / "recipes" / "cli.py"
    script.parent.mkdir()
    (script.parent / "__init__.py").touch()
    script.write_text(f"def main():\n    exec({program!r})\n", encoding="utf-8")

    class First(Place):
        @property
        def checkout(self):
            return self.folder / "checkout"

        def environment(self):
            found = super().environment()
            watching, rest = found["PYTHONPATH"].split(os.pathsep, 1)
            return {**found, "PYTHONPATH": os.pathsep.join([watching, str(self.inputs), rest])}

    return First(place.folder)


def test_a_process_that_is_not_watched_says_nothing(tmp_path):
    watching = Path(sys.modules["trust.written"].__file__).parent / "watching"
    log = tmp_path / "log"
    for environment in ({}, {"TRUST_WRITES_LOG": str(log)}):
        subprocess.run(
            [sys.executable, "-c", f"open({str(tmp_path / 'file')!r}, 'w')"],
            env={"PYTHONPATH": str(watching), **environment}, check=True,
        )  # fmt: skip
        assert log.is_file() == bool(environment)
    assert f'["open", "{tmp_path}/file"]' in log.read_text()
