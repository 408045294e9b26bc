"""Every public name has a docstring, and stands in an example that is executed: its own, or that of its neighbours."""

import ast
import doctest
import importlib
import inspect
import pkgutil

import pytest

PACKAGES = ("auxtasks", "transfer", "recipes")
# Its import runs the command line.
NOT_IMPORTED = {"recipes.__main__"}


def modules():
    found = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        found += [package, *(module.name for module in pkgutil.walk_packages(path, f"{package}."))]
    return [importlib.import_module(name) for name in found if name not in NOT_IMPORTED]


MODULES = modules()


def public_names():
    """Return what each module offers of its own: classes and functions, by dotted name."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in MODULES
        for name in getattr(module, "__all__", ())
        if getattr(getattr(module, name), "__module__", None) == module.__name__
    }


PUBLIC = public_names()


def words_of_examples(module):
    """Return all names in the code of a module's doctests."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    code = [example.source for test in finder.find(module) for example in test.examples]
    trees = [ast.parse(source) for source in code]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return (
        {node.id for node in nodes if isinstance(node, ast.Name)}
        | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        | {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    )


def test_the_names_are_found():
    assert len(PUBLIC) > 400
    assert {"auxtasks.pretrain.pretrain", "transfer.reuse.reuse", "recipes.config.load_recipe"} <= PUBLIC.keys()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    assert [name for name, value in PUBLIC.items() if name.startswith(package) and not inspect.getdoc(value)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_stands_in_an_executed_example(package):
    shown = {name for module in MODULES if module.__name__.startswith(package) for name in words_of_examples(module)}
    missing = [name for name in PUBLIC if name.startswith(package) and name.rpartition(".")[2] not in shown]
    assert missing == []
