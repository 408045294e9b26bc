"""The package as a stranger installs it: the wheel, from another folder, and its public names."""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("auxtasks", "transfer", "recipes")
PUBLIC = ("auxtasks.data", "auxtasks.backbones", "auxtasks.tasks", "transfer")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, since a build writes beside them."""
    place = tmp_path_factory.mktemp("sources")
    for name in (*PACKAGES, "tests", "benchmarks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, place)
    if not (place / "README.md").is_file():
        (place / "README.md").write_text("# auxtasks\n")
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist"],
        cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (found,) = (place / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into a folder of its own."""
    place = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(place), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return place


@pytest.fixture
def elsewhere(installed, tmp_path):
    """Run Python in another folder, with the installed wheel and without the checkout."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    modules = {
        str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }  # a package that pyproject.toml forgets would be missing
    assert {name for name in names if name.endswith(".py")} == modules
    recipes = {f"recipes/configs/{path.name}" for path in (ROOT / "recipes" / "configs").glob("*.yaml")}
    assert len(recipes) >= 2
    assert recipes <= set(names)


def test_the_installed_package_lists_and_validates_its_recipes(elsewhere, installed):
    listed = elsewhere("-m", "recipes", "list")
    assert listed.returncode == 0, listed.stderr
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == sorted(path.stem for path in (ROOT / "recipes" / "configs").glob("*.yaml"))
    program = (
        "import sys, recipes, auxtasks, transfer\n"
        "from recipes.config import load_recipe, recipe_names\n"
        "from auxtasks.errors import RecipeError\n"
        "for name in recipe_names():\n"
        "    try:\n"
        "        load_recipe(name)\n"
        "    except RecipeError as error:\n"
        "        problems = [p for p in error.problems if 'not given' not in p]\n"
        "        assert not problems, problems\n"
        "print(*(module.__file__ for module in (recipes, auxtasks, transfer)), sep='\\n')\n"
    )
    validated = elsewhere("-c", program)
    assert validated.returncode == 0, validated.stderr
    assert all(Path(line).is_relative_to(installed) for line in validated.stdout.splitlines())
    assert len(validated.stdout.splitlines()) == 3


def test_the_console_script_is_the_command_line(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "auxtasks = recipes.cli:main" in archive.read(entry_points).decode()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_sorted_present_and_documented(name):
    module = importlib.import_module(name)
    public = module.__all__
    assert isinstance(public, list)
    assert public == sorted(public)
    assert len(set(public)) == len(public) > 2
    for entry in public:
        found = getattr(module, entry)
        documented = inspect.getdoc(found)
        assert documented, f"{name}.{entry}"
        assert not documented.startswith(f"{entry}("), f"{name}.{entry} has the docstring that dataclass makes up"


@pytest.mark.parametrize("name", PUBLIC)
def test_nothing_public_is_missing_from_the_list(name):
    module = importlib.import_module(name)
    names = {
        entry for entry, found in vars(module).items() if not entry.startswith("_") and not inspect.ismodule(found)
    }
    assert names - set(module.__all__) - {"annotations"} == set()
