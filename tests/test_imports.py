"""Imports run one way: recipes -> transfer -> auxtasks, and inside auxtasks from the ground up."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("auxtasks", "transfer", "recipes")

# What a part of auxtasks may import: itself, and what stands on a lower floor.
FLOORS = [
    {"errors"},
    {"seeding", "signals"},
    {"checkpoint", "energies", "losses", "metrics", "noise", "ranking_inputs", "ranking_losses", "ranking_metrics"},
    {"data", "backbones"},
    {"contraction", "features", "training"},
    {"tasks"},
    {"pretrain", "layerwise"},
]
ENTRANCES = {"tasks", "pretrain", "layerwise"}  # transfer takes backbones, however they were pretrained


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str) -> set[str]:
    """Return the modules of this project that a module names in an import, at its top or anywhere below."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from auxtasks import checkpoint` imports a module, `from auxtasks.errors import DataError` does not.
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return {module for module in found if module.split(".")[0] in PACKAGES}


def part_of(module: str) -> str:
    """Return which part of auxtasks a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def edges(package: str) -> set[tuple[str, str]]:
    return {(name, target) for name in MODULES if name.split(".")[0] == package for target in imports_of(name)}


def test_the_imports_are_found():
    # Else the tests below would hold for any source.
    assert len(MODULES) > 30
    assert ("auxtasks.pretrain", "auxtasks.tasks.base") in edges("auxtasks")
    assert ("auxtasks.tasks.backbone_task", "auxtasks.checkpoint") in edges("auxtasks")
    assert any(target.startswith("auxtasks.") for _, target in edges("transfer"))
    assert any(target.startswith("transfer.") for _, target in edges("recipes"))


@pytest.mark.parametrize(("package", "allowed"), [("auxtasks", {"auxtasks"}), ("transfer", {"auxtasks", "transfer"})])
def test_packages_import_in_one_direction(package, allowed):
    assert {(a, b) for a, b in edges(package) if b.split(".")[0] not in allowed} == set()


def test_transfer_knows_no_task_and_no_pretraining():
    assert {(a, b) for a, b in edges("transfer") if b.startswith("auxtasks") and part_of(b) in ENTRANCES} == set()


def test_auxtasks_is_built_from_the_ground_up():
    floor = {part: level for level, parts in enumerate(FLOORS) for part in parts}
    unknown = {part_of(name) for name in MODULES if name.startswith("auxtasks.")} - floor.keys()
    assert unknown == set(), "give a new part of auxtasks its floor"
    upwards = {
        (a, b)
        for a, b in edges("auxtasks")
        if part_of(a) != part_of(b) and "" not in (part_of(a), part_of(b)) and floor[part_of(b)] > floor[part_of(a)]
    }
    assert upwards == set()


def test_neighbours_on_a_floor_import_each_other_one_way_at_most():
    crossing = {(part_of(a), part_of(b)) for a, b in edges("auxtasks") if part_of(a) != part_of(b)}
    for parts in FLOORS:
        for a, b in itertools.combinations(sorted(parts), 2):
            assert not ({(a, b), (b, a)} <= crossing), (a, b)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_import_each_other(package):
    found = edges(package)
    assert {(a, b) for a, b in found if a < b and (b, a) in found} == set()


def test_no_module_is_a_drawer_for_everything():
    assert [name for name in MODULES if name.split(".")[-1] in {"utils", "util", "helpers", "common", "misc"}] == []


@pytest.mark.processes
@pytest.mark.parametrize("module", ["auxtasks", "auxtasks.errors", "auxtasks.seeding", "recipes.config", "recipes.cli"])
def test_what_must_start_fast_imports_no_torch(module):
    heavy = ("torch", "transformers", "datasets", "sklearn", "timm", "matplotlib")
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == []
