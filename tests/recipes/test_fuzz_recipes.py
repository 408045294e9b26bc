"""Whatever a recipe or an override is made of, it is read, or refused with lines that begin with a key or the file.

``AUXTASKS_FUZZ_EXAMPLES`` says how many examples each test draws.
"""

import copy
import os
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auxtasks.errors import RecipeError
from recipes.config import dump_recipe, load_recipe, recipe_names, recipe_text
from recipes.recipe_yaml import parse_yaml
from recipes.schema import Recipe

EXAMPLES = int(os.environ.get("AUXTASKS_FUZZ_EXAMPLES", "100"))
fuzzed = settings(
    derandomize=True, deadline=None, max_examples=EXAMPLES, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


# --- what must hold ---------------------------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path, record_property):
    """Load a recipe: what comes back is whole, or refused in lines; count what was tried, and what was taken."""
    found = {"taken": 0, "refused": 0}

    def check(name, overrides=()):
        recipe, problems = None, []
        try:
            recipe = load_recipe(name, overrides)
        except RecipeError as error:
            problems = error.problems
        found["taken" if recipe else "refused"] += 1
        if recipe is None:
            assert problems
            assert all(re.match(r"\S.*?: \S", line) and "\n" not in line for line in problems), problems
        else:
            again = tmp_path / "again.yaml"
            again.write_text(dump_recipe(recipe), encoding="utf-8")
            assert load_recipe(str(again)) == recipe

    check.found = found
    yield check
    record_property("inputs", sum(found.values()))


@pytest.fixture
def load_text(load, tmp_path):
    def check(text):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        load(str(path))

    check.found = load.found
    return check


# --- values and keys --------------------------------------------------------------------------------------------------


def names_in(node):
    """Return all keys and words that recipes have."""
    if isinstance(node, dict):
        return {*map(str, node), *(name for entry in node.values() for name in names_in(entry))}
    if isinstance(node, list):
        return {name for entry in node for name in names_in(entry)}
    return {node} if isinstance(node, str) else set()


SHIPPED = {name: parse_yaml(recipe_text(name), name) for name in recipe_names()}
WORDS = sorted({name for value in SHIPPED.values() for name in names_in(value)} | names_in(Recipe.model_json_schema()))
YAML_BITS = [
    "!!", "&a ", "*a", "<<: ", "? ", ": ", "- ", "{", "}", "[", "]", "|", ">", "%", "#", "'", '"', "\\", "\n", "\t",
    "---", "...", "!!python/name:os.system", "!!int ", "1e-3", ".nan", "0x1F", "\x85", "\ufeff",
]  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 300), st.floats(), st.floats(0, 1),
    st.text(max_size=20), st.sampled_from(WORDS), st.sampled_from(YAML_BITS),
)  # fmt: skip
keys = st.one_of(st.sampled_from(WORDS), st.text(max_size=8), st.integers(), st.none(), st.booleans())
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
texts = st.lists(st.sampled_from([*YAML_BITS, *WORDS]) | st.text(max_size=5), max_size=8).map("".join)


def places(node, place=()):
    """Return the places of all values below a node."""
    if isinstance(node, dict | list):
        inner = node.items() if isinstance(node, dict) else enumerate(node)
        return [found for step, entry in inner for found in [(*place, step), *places(entry, (*place, step))]]
    return []


PLACES = {name: places(value) for name, value in SHIPPED.items()}


# --- overrides --------------------------------------------------------------------------------------------------------


def dumped(value):
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)


dotted = st.one_of(
    st.lists(st.sampled_from(WORDS) | st.text(max_size=5), min_size=1, max_size=4).map(".".join),
    st.sampled_from([".".join(map(str, place)) for found in PLACES.values() for place in found]),
)
overrides = st.lists(
    st.tuples(dotted, values.map(dumped) | texts).map("=".join) | st.text(max_size=20), min_size=1, max_size=4
)


@fuzzed
@given(name=st.sampled_from(sorted(SHIPPED)), given_overrides=overrides)
def test_any_overrides_are_taken_or_refused_in_lines(load, name, given_overrides):
    load(name, given_overrides)


# --- shipped recipes, changed -----------------------------------------------------------------------------------------


@st.composite
def mutated(draw):
    """Draw a shipped recipe with some of its values dropped, doubled, moved or replaced."""
    name = draw(st.sampled_from(sorted(SHIPPED)))
    value = copy.deepcopy(SHIPPED[name])
    value.setdefault("data", {})["path"] = "somewhere"
    for _ in range(draw(st.integers(1, 3))):
        found = places(value)
        if found:
            _mutate(value, draw(st.sampled_from(found)), draw)
    return value


def _mutate(value, place, draw):
    above = value
    for step in place[:-1]:
        above = above[step]
    step, other = place[-1], draw(values)
    kind = draw(st.sampled_from(["drop", "replace", "wrap", "retype", "rename"]))
    if kind == "drop":
        del above[step]
    elif kind == "rename" and isinstance(above, dict):
        above[draw(keys)] = above.pop(step)
    else:
        above[step] = {"wrap": [above[step]], "retype": str(above[step])}.get(kind, other)


@fuzzed
@given(value=mutated())
def test_a_shipped_recipe_with_anything_changed_is_taken_or_refused_in_lines(load_text, value):
    load_text(yaml.safe_dump(value, allow_unicode=True))


@fuzzed
@given(name=st.sampled_from(sorted(SHIPPED)), data=st.data())
def test_a_shipped_recipe_with_text_cut_doubled_or_put_in_is_taken_or_refused_in_lines(load_text, name, data):
    text = recipe_text(name)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 200)))
        text = text[:start] + data.draw(texts | st.just(text[start:end] * 2) | st.just("")) + text[end:]
    load_text(text)


@fuzzed
@given(text=st.binary(max_size=200) | texts.map(str.encode) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_taken_or_refused_in_lines(load_text, text):
    load_text(text)


# --- these tests are not empty ----------------------------------------------------------------------------------------


def test_what_is_drawn_is_taken_as_well_as_refused(load):
    load("faces_demo", ["seed=3"])
    load("faces_demo", ["seed=three"])
    assert load.found == {"taken": 1, "refused": 1}
