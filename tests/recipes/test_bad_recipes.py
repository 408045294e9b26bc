"""Every field of a recipe, given every kind of wrong value that its type has: exit code 2, a line that names the key.

The fields are read off the schema itself, so that a new one is tried as soon as it is there.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
from typing import Any

import pytest
import typer
import yaml

from recipes import cli
from recipes.config import dump_recipe, load_recipe
from recipes.recipe_yaml import printable
from recipes.schema import Recipe
from recipes.task_schema import TASK_NAMES

SCHEMA = Recipe.model_json_schema()
# What only those know who know how recipes are checked.
JARGON = re.compile(r"pydantic|after validation|validation error|Traceback|_type\b|Value error|match pattern|\[key\]")
EMPTY_WHEN_NULL = {"targets", "minimal_pairs", "targets.x", "minimal_pairs.x"}  # null takes a target out
HUGE = (1e308, 10**30)
NO_NUMBERS = (math.nan, math.inf, -math.inf)
NO_NAMES = ("", " ", "../x", "a/b", "/x", "..", "a b", "a\n", "-x", "é", "x" * 101)


# --- the fields -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Field:
    """A place in a recipe: ``[]`` stands for any item of a list, ``x`` for any key of a mapping."""

    place: tuple[str, ...]
    said: dict[str, Any]
    is_nullable: bool
    task: str | None

    @property
    def name(self):
        return ".".join(self.place)

    @property
    def kind(self):
        if "members" in self.said:
            return "scalar"
        if "enum" in self.said or "const" in self.said:
            return "choice"
        if self.said.get("type") == "object":
            return "group" if "properties" in self.said else "mapping"
        return self.said.get("type", "any")


def resolved(node):
    return SCHEMA["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def members(node):
    """Return what a field may be beside null, a text or number or truth value as one."""
    found = resolved(node)
    inner = found.get("anyOf") or found.get("oneOf")
    if not inner:
        return [found]
    if [member.get("type") for member in inner] == ["string", "integer", "number", "boolean"]:
        return [{"members": inner}]
    return [resolved(member) for member in inner if member != {"type": "null"}]


def inside(said):
    """Return what a group, a mapping or a list holds: (step, node)."""
    if said.get("type") == "array":
        return [("[]", said["items"])]
    if "properties" in said:
        return list(said["properties"].items())
    if said.get("type") != "object":
        return []
    key = said.get("propertyNames", {}).get("enum", ["x"])[0]
    return [(key, said.get("additionalProperties") or next(iter(said["patternProperties"].values())))]


def fields(node=SCHEMA, place=(), task=None):
    """Yield every field of a recipe, those of each task among them."""
    for said in members(node):
        named = said["properties"]["name"]["const"] if place == ("task",) else task
        if place:
            yield Field(place, said, {"type": "null"} in resolved(node).get("anyOf", []), named)
        for step, below in inside(said):
            yield from fields(below, (*place, step), named)


FIELDS = list(fields())


def test_the_walk_finds_every_field_of_every_task():
    assert set(Recipe.model_fields) == {field.place[0] for field in FIELDS}
    assert {field.task for field in FIELDS if field.name == "task"} == set(TASK_NAMES)
    groups = {title: node for title, node in SCHEMA["$defs"].items() if "properties" in node}
    found = {(field.said["title"], *sorted(field.said["properties"])) for field in FIELDS if field.kind == "group"}
    assert found == {(title, *sorted(node["properties"])) for title, node in groups.items()}
    assert len({field.name for field in FIELDS}) > 200
    assert {field.kind for field in FIELDS} == {
        "string", "integer", "number", "boolean", "choice", "scalar", "group", "mapping", "array", "any",
    }  # fmt: skip


# --- wrong values -----------------------------------------------------------------------------------------------------


def beyond(said):
    """Return numbers just outside each bound."""
    step = 1 if said.get("type") == "integer" else 1e-9
    low, high = said.get("minimum"), said.get("maximum")
    found = [said[bound] for bound in ("exclusiveMinimum", "exclusiveMaximum") if bound in said]
    found += [] if low is None else [low - step]
    return found + ([] if high is None else [high + max(step, abs(high) * 1e-9 if step < 1 else step)])


def texts_of(said):
    """Return texts that a text field refuses."""
    pattern = said.get("pattern", "")
    found = ["x" * (said["maxLength"] + 1)]
    if pattern.startswith("^[A-Za"):
        return [*found, *NO_NAMES[:-1]]
    return [*found, "", " ", "\t", "\n", "a\nb"] if pattern else found


def wrong_values(field):
    """Return (wrong value, where the message must begin below the field, what it must also say)."""
    said, kind = field.said, field.kind
    plain = {
        "string": [3, 1.5, True, [], ["a"], {"a": 1}],
        "integer": ["many", "3", "", True, 1.5, 1e3, [], [1], {"a": 1}, *NO_NUMBERS, *HUGE, -1 - 10**30],
        "number": ["many", "0.5", "", True, [], [0.5], {"a": 1}, *NO_NUMBERS, *HUGE, -1e308],
        "boolean": [1, 0, 1.0, "true", "yes", "", [], {"a": 1}],
        "choice": [3, 1.5, True, [], {"a": 1}, "", "zzz"],
        "scalar": [[], ["a"], {"a": 1}, {}, *NO_NUMBERS, 10**30, -(10**30)],
        "group": [3, True, "fast", [], ["a"]],
        "mapping": [3, True, "fast", ["a"]],
        "array": [3, True, "fast"],
        "any": [*NO_NUMBERS],
    }[kind]
    found = [(value, "", "found") for value in plain]
    if kind in ("integer", "number"):
        found += [(value, "", f"found {value}") for value in beyond(said)]
    if kind == "string":
        found += [(value, "", "found") for value in texts_of(said)]
    if not field.is_nullable and field.name not in EMPTY_WHEN_NULL and kind != "any":
        found.append((None, "", "found None"))
    return [*found, *wrong_insides(field)]


def wrong_insides(field):
    """Return what is wrong of keys, near misses and empty lists."""
    said, kind = field.said, field.kind
    if kind == "choice":
        choices = said.get("enum", [said.get("const")])
        longest = max(choices, key=len)
        yield f"{longest}x", "", f'Did you mean "{longest}"?'
    if kind == "group":
        longest, needed = max(said["properties"], key=len), {"name": field.task} if field.name == "task" else {}
        allowed = f"unknown key. Allowed here: {', '.join(sorted(said['properties']))}."
        yield {**needed, f"{longest}x": 1}, f".{longest}x", f"{allowed} Did you mean"
        yield {**needed, "zzz": 1}, ".zzz", allowed
    if kind == "mapping":
        yield from wrong_keys(field)
    if said.get("minItems") or said.get("minProperties"):
        yield ([] if kind == "array" else {}), "", "must hold at least 1, found"


def wrong_keys(field):
    names = field.said["propertyNames"]
    if "enum" in names:
        yield {f"{names['enum'][-1]}x": 1}, f".{names['enum'][-1]}x", f'Did you mean "{names["enum"][-1]}"?'
    else:
        for text in texts_of(names):
            yield {text: {}}, f".{printable(text)}", "found"
    yield {1: {}}, ".1", "found 1"


def written(place, value):
    """Return an override that puts a value at a place; what is inside a list is written out as one."""
    steps = list(place)
    while "[]" in steps:
        step = steps.pop()
        value = [value] if step == "[]" else {step: value}
    return f"{'.'.join(steps)}={yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)}"


@pytest.fixture(scope="module", autouse=True)
def commands_built_once():
    """Keep typer from building all commands anew in each of thousands of calls, which takes most of their time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "app", typer.main.get_command(cli.app))
        yield


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A small valid recipe for each task."""
    folder = tmp_path_factory.mktemp("bases")
    for task in TASK_NAMES:
        recipe = {"name": "x", "data": {"path": "builtin:drawn_faces"}, "task": {"name": task}}
        (folder / f"{task}.yaml").write_text(json.dumps(recipe))
    return folder


def complaint(called, key):
    """Return the line about a key of a call that must have refused a recipe, and check the others."""
    assert called.code == 2, f"accepted: exit code {called.code}"
    assert called.out == ""
    lines = called.err.splitlines()
    assert all(re.match(r"error: \S[^:]*: ", line) for line in lines), called.err
    assert not JARGON.search(called.err), called.err
    about = [line for line in lines if line.startswith(f"error: {key}: ")]
    assert about, f"nothing about {key}: {called.err[:500]}"
    return about[0]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.task or 'any'}-{field.name}")
def test_a_wrong_value_is_refused_by_its_key(field, bases, command_line, record_property, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key, tried = field.name.replace("[]", "0"), wrong_values(field)
    assert len(tried) >= 3
    for value, below, says in tried:
        override = written(field.place, value)
        called = command_line("validate", bases / f"{field.task or TASK_NAMES[0]}.yaml", override)
        assert says in complaint(called, f"{key}{below[:201]}"), override
    record_property("inputs", len(tried))
    assert list(tmp_path.iterdir()) == []


# --- wrong files ------------------------------------------------------------------------------------------------------

VALID = "name: x\ndata: {path: builtin:drawn_faces}\n"
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
FILES = {
    "empty": ("", "a recipe is a mapping of keys, found NoneType"),
    "only comments": ("# one\n# two\n", "a recipe is a mapping of keys, found NoneType"),
    "a list": ("- a\n", "a recipe is a mapping of keys, found list"),
    "tabs": (VALID + "training:\n\tsteps: 3\n", "found character '\\t' that cannot start any token"),
    "UTF-16": (VALID.encode("utf-16"), "not UTF-8 text: 'utf-8' codec can't decode byte 0xff in position 0"),
    "UTF-16 without a mark": (VALID.encode("utf-16-le"), "not valid YAML: unacceptable character #x0000"),
    "Latin-1": (VALID.encode() + "description: caf\xe9\n".encode("latin-1"), "not UTF-8 text"),
    "binary": (bytes(range(256)), "not UTF-8 text"),
    "a NUL": (VALID + "description: a\0b\n", "not valid YAML: unacceptable character #x0000"),
    "an escaped NUL": (VALID + 'description: "a\\0b"\n', r"a text with the character '\x00'"),
    "half a character": (VALID + 'description: "\\ud800"\n', r"a text with the character '\ud800'"),
    "no character": (VALID + 'description: "\\U00110000"\n', "not valid YAML: chr() arg not in range"),
    "a key twice": (VALID + "name: y\n", 'the key "name" is given twice'),
    "a key twice, deeper": ("name: x\ndata: {path: a, path: b}\n", 'the key "path" is given twice'),
    "two documents": (VALID + "---\n" + VALID, "expected a single document"),
    "a closing bracket missing": (VALID + "transfer: {shots: [1\n", "not valid YAML: while parsing a flow"),
    "deep nesting": (VALID + "backbone: {arguments: {a: " + "[" * 10_000 + "]" * 10_000 + "}}", "50 levels of nesting"),
    "deep nesting, in blocks": (VALID + "".join(f"{' ' * n}a:\n" for n in range(300)), "50 levels of nesting"),
    "deep nesting, by aliases": (
        VALID + "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)), "50 levels of nesting",
    ),
    "a cyclic list": (VALID + "transfer: {shots: &a [*a]}\n", "an alias that stands for what it is part of"),
    "a cyclic mapping": (VALID + "backbone: {arguments: &a {b: *a}}\n", "an alias that stands for what it is part of"),
    "an alias of nothing": (VALID + "description: *a\n", "found undefined alias 'a'"),
    "a billion laughs": (LAUGHS, "more than 100,000 values, with those of its aliases"),
    "merged keys": (VALID + "training: {<<: {steps: 3}}\n", "training.<<: unknown key. Allowed here: accumulation"),
    "a very long line": (VALID + f"description: {'x' * 1_000_000}\n", "a recipe has at most 1,000,000 bytes"),
    "a number of 5,000 digits": (VALID + f"seed: {'9' * 5000}\n", "a number of 5,000 digits"),
    "a key that is a list": (VALID + "? [a, b]\n: c\n", "found unhashable key"),
    "a key that is null": (VALID + "~: c\n", "keys should be strings, found None"),
    "a shell command": (VALID + "description: !!python/object/apply:os.system [touch broken-into]\n", "not valid YAML:"
                        " could not determine a constructor for the tag"),
    "a class": (VALID + "description: !!python/name:subprocess.Popen\n", "could not determine a constructor"),
    "a date by its tag": (VALID + "description: !!timestamp foo\n", "could not determine a constructor"),
    "a number that is none": (VALID + "seed: !!int foo\n", "'foo' is no int"),
    "a truth that is none": (VALID + "seed: !!bool foo\n", "'foo' is no bool"),
    "an impossible date": (VALID + "seed: 2020-13-45\n", "input should be a valid integer, found '2020-13-45'"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_wrong_file_is_refused_in_one_line_a_problem(what, command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, expected = FILES[what]
    (tmp_path / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in ("validate", "pretrain"):
        called = command_line(command, "recipe.yaml")
        assert called.code == 2
        assert called.out == ""
        assert expected in called.err
        assert all(line.startswith("error: ") for line in called.err.splitlines())
        assert not JARGON.search(called.err)
        assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", '"": no recipe and no file of that name. Recipes: faces_demo'),
        ("faces_dem", 'Did you mean "faces_demo"?'),
        ("../faces_demo", "../faces_demo: no recipe and no file of that name"),
        ("x" * 5000, ": cannot be read: File name too long"),
        (".", ".: a folder, expected a YAML file, such as the recipe.yaml of a run"),
        ("/proc/self/mem", "/proc/self/mem: cannot be read: Input/output error"),
        ("/dev/null", "/dev/null: no recipe and no file of that name"),
        ("a\nb", r"a\nb: no recipe and no file of that name"),
    ],
)
def test_what_is_no_file_is_told(name, expected, command_line):
    for command in ("validate", "show", "run", "pretrain"):
        called = command_line(command, name)
        assert called.code == 2
        assert called.out == ""
        assert expected in called.err
        assert called.err.count("\n") == 1


def test_a_file_without_permission_is_told(command_line, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID)
    path.chmod(0)
    with as_nobody(tmp_path):
        called = command_line("validate", path)
    assert called.code == 2
    assert called.err == f"error: {path}: cannot be read: Permission denied\n"


@contextlib.contextmanager
def as_nobody(folder):
    """Be a user without rights for a while, where the tests are run as the one who may do all."""
    if os.geteuid() != 0:
        yield
        return
    for above in (folder, *folder.parents):
        if above.stat().st_uid == 0 and above.name.startswith("pytest"):
            above.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "steps",
        "=3",
        "=",
        ".=3",
        " a=3",
        "a =3",
        "a\nb=3",
        "a. b=3",
        "a..b=3",
        "data.=3",
        ".data=3",
        " =3",
        "data. .x=3",
        "\udcff=3",
        "a\0b=3",
        "a\x1bb=3",
    ],
)
def test_an_override_that_is_none_is_told(override, command_line, bases):
    called = command_line("validate", bases / "face_pairs.yaml", override)
    assert called.code == 2
    assert called.err.endswith(": an override is key.sub=value\n")
    assert called.err.isascii()


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + VALID.encode())
    assert load_recipe(str(tmp_path / "recipe.yaml")).name == "x"


def test_an_override_changes_nothing_that_an_alias_stands_for(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID + "targets: {a: &a {path: x, where: {n: 1}}, b: *a}\n")
    recipe = load_recipe(str(path), ["targets.b.path=y", "targets.b.where.n=2"])
    assert [(target.path, target.where) for target in recipe.targets.values()] == [("x", {"n": 1}), ("y", {"n": 2})]


@pytest.mark.parametrize(
    "text",
    ["1e-3", "1E5", ".5e1", "010", "0x1F", "1_000", "1:30", "2020-01-01", "no", "null", "~", "true", "=", "<<", "",
     "\u2028", " x", "x\n", "#", "é", "\U0001f600"],
)  # fmt: skip
def test_a_text_that_looks_like_another_value_comes_back_as_it_was(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(VALID + f"description: {json.dumps(text)}\n")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    assert recipe.description == text
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe
