"""Recipes: strict, all problems at once, each with its key, what was found, what is allowed, and a guess."""

import math

import pytest
import yaml

from auxtasks.backbones import build
from auxtasks.errors import BackboneError, RecipeError
from recipes.config import Recipe, dump_recipe, load_recipe, recipe_text


def problems(*overrides, name="faces_demo"):
    """Return what is wrong with a recipe."""
    with pytest.raises(RecipeError, match=r"\S") as caught:
        load_recipe(name, overrides)
    assert all("\n" not in problem for problem in caught.value.problems)
    return list(caught.value.problems)


def written(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# --- all at once ------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once():
    found = problems(
        "training.stepz=3", "training.steps=many", "task.loss=logistik", "targets.strangers.fitt=crop",
        "data.holdout=2", "nonsense", "transfer.shots=[1,",
    )  # fmt: skip
    keys = [problem.split(":")[0] for problem in found]
    assert sorted(keys) == sorted([
        "nonsense", "transfer.shots", "training.stepz", "training.steps", "task.loss", "targets.strangers.fitt",
        "data.holdout",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("override", "key", "allowed", "guess"),
    [
        ("traning={}", "traning", "backbone, data", "training"),
        ("training.lerning_rate=1", "training.lerning_rate", "learning_rate", "learning_rate"),
        ("task.augment.flp=0.5", "task.augment.flp", "blur, erase, flip", "flip"),
        ("targets.strangers.lable=x", "targets.strangers.lable", "fit, image, kind, label", "label"),
        ("targets.fit.lable=x", "targets.fit.lable", "fit, image, kind, label", "label"),  # a target named like a key
        ("transfer.heads=[{name: ridge}, {name: ridge, option: {}}]", "transfer.heads.1.option", "name, options",
         "options"),
        ("transfer.tuning.stages=[{steps: 160, top_layer: 1}]", "transfer.tuning.stages.0.top_layer",
         "steps, top_layers", "top_layers"),
        ("data.align.sise=3", "data.align.sise", "margin, on_missing, size", "size"),
        ("verification.pair=x", "verification.pair", "key, mirror, pairs, protocol", "pairs"),
        ("transfer.discriminants.component=3", "transfer.discriminants.component", "components, shrinkage",
         "components"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_what_is_allowed_and_a_guess(override, key, allowed, guess):
    (problem,) = [problem for problem in problems(override) if "unknown key" in problem]
    assert problem.startswith(f"{key}: unknown key. Allowed here: ")
    assert allowed in problem
    assert problem.endswith(f'Did you mean "{guess}"?')


def test_a_key_like_nothing_gets_no_guess():
    (problem,) = problems("zzz=1")
    assert problem.endswith("verification.")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps=0", "training.steps: input should be greater than or equal to 1, found 0."),
        ("training.steps=1e3", "training.steps: input should be a valid integer, found 1000.0."),
        ("training.steps='3'", "training.steps: input should be a valid integer, found '3'."),
        ("training.learning_rate=.inf", "training.learning_rate: input should be a finite number, found inf."),
        ("training.learning_rate=.nan", "training.learning_rate: input should be a finite number, found nan."),
        ("transfer.mirror=1", "transfer.mirror: input should be a valid boolean, found 1."),
        ("data.where.x=[1]", "data.where.x: must be a text, a number or true or false, found [1]."),
        ("data.options.people={}", "data.options.people: must be a text, a number or true or false, found {}."),
        ("data.where=3", "data.where: must be a group of keys, found 3."),
        ("training=fast", "training: must be a group of keys, found 'fast'."),
        ("targets=[att]", "targets: must be a group of keys, found ['att']."),
        ("task.loss=triplett", "task.loss: input should be 'logistic', 'contrastive' or 'triplet', found 'triplett'. "
                               'Did you mean "triplet"?'),
        ("transfer.layers.stage1=grit", "transfer.layers.stage1: input should be 'auto', 'mean', 'max', 'grid', "
                                        "'flatten' or 'token', found 'grit'. Did you mean \"grid\"?"),
        ("name=a/b", "name: string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$', found 'a/b'."),
        ("transfer.claim=nothing", "transfer.claim: input should be 'scratch', 'untrained', 'raw', 'frozen' or "
                                   "'finetuned', found 'nothing'."),
        ("transfer.arms=[raw]", 'transfer.claim: the claimed arm "frozen" is not among arms: raw.'),
        ("transfer.shots=[5,1]", "transfer.shots: different numbers in rising order, found [5, 1]."),
        ("verification.protocol=x", "verification.pairs: required, not given"),
        ("data.path=null", "data.path: not given. Name a data set with data.path=PATH"),
        ("targets.att.label=x", "targets.att.path: not given. Name a data set with targets.att.path=PATH, or leave it "
                                "out with targets.att=null"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(override, expected):
    assert problems(override) == [expected]


def test_scratch_and_finetuned_get_the_same_budget():
    expected = "transfer.scratch: needs the same budget as tuning: 7 steps and 1 learning rates, found"
    stages = "transfer.tuning.stages=[{steps: 3}, {steps: 4}]"
    assert problems(stages, "transfer.scratch.stages=[{steps: 5}]") == [f"{expected} 5 and 1."]
    rates = "transfer.scratch.learning_rates=[1e-3, 1e-2]"
    assert problems(stages, "transfer.scratch.stages=[{steps: 7}]", rates) == [f"{expected} 7 and 2."]


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("2E2", 200.0), ("-1e-05", -1e-5), ("1.5e+3", 1500.0), (".5", 0.5), ("3", 3), ("true", True),
     ("null", None), ("", None), ("1e", "1e"), ("e3", "e3"), ("'1e-3'", "1e-3")],
)  # fmt: skip
def test_values_are_read_as_the_numbers_and_words_that_they_are(text, value):
    found = load_recipe("faces_demo", [f"backbone.arguments.x={text}"]).backbone.arguments["x"]
    assert found == value
    assert type(found) is type(value)


def test_overrides_reach_lists_mappings_and_groups_that_are_not_there_yet():
    recipe = load_recipe(
        "faces_demo",
        ["transfer.shots=[2, 3]", "transfer.layers={stage1: grid}", "data.align.size=99", "data.where.split=train",
         "targets.mine.path=folder=with=signs", "targets.strangers=null", "training.clip_norm=null"],
    )  # fmt: skip
    assert recipe.transfer.shots == [2, 3]
    assert recipe.transfer.layers == {"stage1": "grid"}
    assert recipe.data.align.size == 99
    assert recipe.data.where == {"split": "train"}
    assert list(recipe.targets) == ["mine"]
    assert recipe.targets["mine"].path == "folder=with=signs"
    assert recipe.training.clip_norm is None


def test_a_later_override_wins():
    assert load_recipe("faces_demo", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps", "steps: an override is key.sub=value"),
        ("=3", "=3: an override is key.sub=value"),
        ("seed.sub=3", "seed.sub: seed is a value, not a group of keys"),
        ("transfer.heads.0.name=ridge", "transfer.heads.0.name: transfer.heads is a value, not a group of keys"),
    ],
)
def test_an_override_that_is_none_is_told(override, expected):
    assert problems(override) == [expected]


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_no_recipe_is_refused(tmp_path):
    (problem,) = problems(name=written(tmp_path, "a: [1"))
    assert "not valid YAML: while parsing" in problem
    (problem,) = problems(name=written(tmp_path, b"\xff\xfe\x00"))
    assert "not UTF-8 text" in problem
    (problem,) = problems(name=written(tmp_path, "- a\n- b\n"))
    assert problem.endswith("a recipe is a mapping of keys, found list")
    (problem,) = problems(name=written(tmp_path, ""))
    assert problem.endswith("a recipe is a mapping of keys, found NoneType")
    assert problems(name=written(tmp_path, "{}")) == ["name: required, not given", "data: required, not given"]
    (problem,) = problems(name=written(tmp_path, "name: x\ndata: {path: y}\n1: 2\n"))
    assert problem == "1: keys should be strings, found 1."


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['echo broken into']", "!!python/name:os.system", "!!python/object:os.X {}"],
)
def test_yaml_that_would_be_code_is_refused(tmp_path, value):
    (problem,) = problems(name=written(tmp_path, f"name: {value}\ndata: {{path: x}}\n"))
    assert "not valid YAML: could not determine a constructor for the tag" in problem
    (problem,) = problems(f"name={value}")
    assert "could not determine a constructor" in problem


def test_a_name_with_dots_is_no_import():
    recipe = load_recipe("faces_demo", ["backbone.name=os.system", "backbone.arguments={}"])
    with pytest.raises(BackboneError, match=r'there is no backbone "os\.system"\. Allowed: convnet'):
        build(recipe.backbone.name, **recipe.backbone.arguments)


def test_an_unknown_name_is_told_with_the_closest():
    (problem,) = problems(name="faces_dem")
    assert "no recipe and no file of that name" in problem
    assert problem.endswith('Did you mean "faces_demo"?')


def test_a_recipe_written_out_reads_back_the_same(tmp_path):
    recipe = load_recipe("faces_demo", ["training.learning_rate=1e-05", "data.where.x=true"])
    text = dump_recipe(recipe)
    assert load_recipe(written(tmp_path, text)) == recipe
    assert yaml.safe_load(text)["training"]["warmup_steps"] == 100  # a default, written out


def test_a_checked_recipe_cannot_be_changed():
    recipe = load_recipe("faces_demo")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_defaults_are_themselves_allowed():
    recipe = Recipe.model_validate({"name": "x", "data": {"path": "y"}})
    assert Recipe.model_validate(yaml.safe_load(dump_recipe(recipe))) == recipe
    assert math.isclose(recipe.transfer.tuning.steps, recipe.transfer.scratch.steps)


def test_the_text_of_a_recipe_keeps_its_comments(tmp_path):
    assert recipe_text(written(tmp_path, "# why\nname: x\n")) == "# why\nname: x\n"
