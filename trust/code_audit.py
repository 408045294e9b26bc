"""Calls through which a file, or a name that it holds, could become code: found in source text, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from trust import ROOT

__all__ = ["REVIEWED", "audit", "audited_files"]

PACKAGES = ("auxtasks", "transfer", "recipes")

# Modules whose readers run what a file says. Of pickle, the names of its errors may be used.
UNSAFE_MODULES = frozenset(
    {"_pickle", "cloudpickle", "code", "codeop", "dill", "imp", "jsonpickle", "joblib", "marshal", "pickle", "runpy",
     "shelve"}
)  # fmt: skip
UNSAFE_BUILTINS = frozenset({"__import__", "breakpoint", "compile", "eval", "exec"})
# By the last two parts of a call's name.
UNSAFE_CALLS = frozenset(
    {
        "accelerator.load_state", "accelerator.save_state", "hub.load", "jit.load", "load_model.load_model", "os.popen",
        "os.system", "pd.read_pickle", "pandas.read_pickle", "package.PackageImporter", "pydoc.locate",
        "serialization.add_safe_globals", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.full_load",
        "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
    }
)  # fmt: skip
UNSAFE_LOADERS = frozenset({"yaml.CLoader", "yaml.FullLoader", "yaml.Loader", "yaml.UnsafeLoader"})
# Calls that are safe only with a word of their own: keyword and value.
NEEDED: Mapping[str, tuple[str, object]] = MappingProxyType(
    {
        "torch.load": ("weights_only", True),
        "np.load": ("allow_pickle", False),
        "numpy.load": ("allow_pickle", False),
        "AutoConfig.from_pretrained": ("trust_remote_code", False),
        "AutoTokenizer.from_pretrained": ("trust_remote_code", False),
    }
)
FORBIDDEN_VALUES = frozenset({("shell", True), ("trust_remote_code", True), ("weights_only", False),
                              ("allow_pickle", True)})  # fmt: skip

# Modules that are imported by a name in a variable, which is one of a closed table in the same file.
REVIEWED: Mapping[str, str] = MappingProxyType(
    {
        "auxtasks/backbones/zoo.py": "LATE_TYPES",
        "transfer/foreign/weights.py": "KINDS",
    }
)


def audited_files() -> list[Path]:
    """Return every source file of the three packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def audit(source: str, name: str) -> list[str]:
    """Return a line for everything in a source text that could turn a file into code.

    Args:
        source: the text.
        name: of its file, from the root on.

    Example:
        >>> audit("import torch\\ntorch.load(path)", "a.py")
        ['a.py:2: torch.load without weights_only=True']
        >>> audit("import torch\\ntorch.load(path, weights_only=True)", "a.py")
        []
    """
    tree = ast.parse(source)
    found = [*_imports(tree), *_names(tree), *_calls(tree, name), *_written_values(tree)]
    return [f"{name}:{line}: {words}" for line, words in sorted(found)]


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in UNSAFE_MODULES and (alias.name, alias.asname) != ("pickle", None):
                    yield node.lineno, f"import of {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in UNSAFE_MODULES:
                yield node.lineno, f"import from {module}"
            # A function under its bare name would escape the rules for calls.
            for alias in node.names:
                dotted = f"{module.split('.')[-1]}.{alias.name}"
                if dotted in UNSAFE_CALLS or dotted in {"torch.load", "numpy.load", "yaml.load"}:
                    yield node.lineno, f"import of {dotted} by its bare name"


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        name = _dotted(node) if isinstance(node, ast.Attribute) else ""
        if name.startswith("pickle.") and not name.endswith("Error"):
            yield node.lineno, f"use of {name}"
        if name in UNSAFE_LOADERS:
            yield node.lineno, f"use of {name}"


def _calls(tree: ast.AST, name: str) -> Iterator[tuple[int, str]]:
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader", *_subclasses_of_safe_loader(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ".".join(_dotted(node.func).split(".")[-2:])
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in UNSAFE_BUILTINS or called in UNSAFE_CALLS or called.startswith(("os.exec", "os.spawn")):
            yield node.lineno, f"call of {called}"
        if called in NEEDED:
            keyword, value = NEEDED[called]
            if not _is_constant(given.get(keyword), value):
                yield node.lineno, f"{called} without {keyword}={value}"
        if called == "yaml.load" and _dotted(given.get("Loader", node)) not in safe_loaders:
            yield node.lineno, "yaml.load with a loader that is not known to be safe"
        is_literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
        if called.endswith("import_module") and not is_literal and name not in REVIEWED:
            yield node.lineno, "import of a module whose name is computed"


def _written_values(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Find forbidden values of keywords, and of keys of dictionaries, which may be passed as keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant)]  # fmt: skip
        else:
            continue
        for word, value in pairs:
            for forbidden, wrong in FORBIDDEN_VALUES:
                if word == forbidden and not _is_constant(value, not wrong):
                    yield node.lineno, f"{word} is not plainly {not wrong}"


def _subclasses_of_safe_loader(tree: ast.AST) -> set[str]:
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and {_dotted(base) for base in node.bases} == {"yaml.SafeLoader"}
    }


def _is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _dotted(node: ast.AST) -> str:
    """Return a name such as ``torch.load``; nothing of what is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
