"""Recipes: strict, all problems at once, each with its key, what was found, what is allowed, and a guess."""

import math

import pytest
import yaml

from auxtasks.backbones import build
from auxtasks.errors import BackboneError, RecipeError
from recipes.build import part_of
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
        ("targets.strangers.lable=x", "targets.strangers.lable", "fit, holds, image, kind, label", "label"),
        ("targets.fit.lable=x", "targets.fit.lable", "fit, holds, image, kind, label", "label"),  # named like a key
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
        ("transfer.layers.stage1=grit", "transfer.layers.stage1: input should be 'auto', 'mean', 'max', "
                                        "'mean_max', 'grid', 'flatten' or 'token', found 'grit'. "
                                        "Did you mean \"grid\"?"),
        ("name=a/b", "name: must be letters, digits, dots, _ and -, the first a letter or a digit, found 'a/b'."),
        ("transfer.claim=nothing", "transfer.claim: input should be 'scratch', 'untrained', 'raw', 'longer', "
                                   "'frozen' or 'finetuned', found 'nothing'."),
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


# --- tasks of either kind ---------------------------------------------------------------------------------------------


def test_the_losses_and_corruptions_of_sentences_are_names_with_weights():
    task = load_recipe("sentences_demo", ["task.losses={token: 1}", "task.corruptions={swap: 2, drop: 0}"]).task
    assert (task.losses, task.corruptions) == ({"token": 1.0}, {"swap": 2.0, "drop": 0.0})
    assert load_recipe("sentences_demo", ["task.corruptions=null"]).task.corruptions is None


@pytest.mark.parametrize("name", ["faces_demo", "sentences_demo", "layerwise_demo"])
def test_a_recipe_of_either_kind_written_out_reads_back_the_same(tmp_path, name):
    recipe = load_recipe(name)
    assert load_recipe(written(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("name", "override", "allowed", "guess"),
    [
        ("faces_demo", "task.margn=1", "augment, favour, hardness, loss, margin", "margin"),
        ("faces_demo", "task.losses={token: 1}", "augment, favour, hardness, loss, margin", "loss"),
        ("sentences_demo", "task.corruption={swap: 1}", "batch_tokens, corruptions, curriculum_steps", "corruptions"),
        ("sentences_demo", "task.loss=token", "batch_tokens, corruptions, curriculum_steps", "losses"),
        ("sentences_demo", "tokenizer.sise=9", "kind, lowercase, name, size", "size"),
    ],
)
def test_an_unknown_key_of_a_task_is_told_with_the_keys_of_that_task(name, override, allowed, guess):
    (problem,) = problems(override, name=name)
    assert problem.startswith(f"{override.partition('=')[0]}: unknown key. Allowed here: {allowed}")
    assert problem.endswith(f'Did you mean "{guess}"?')


NAMES = (
    "task.name: must be one of face_pairs, shuffled_sentences, max_margin_ranking, layer_autoencoder, layer_rbm, "
    "ready_made, "
)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.name=shuffled_sentence", NAMES + "found "
                                        "'shuffled_sentence'. Did you mean \"shuffled_sentences\"?"),
        ("task.name=3", NAMES + "found '3'."),
        ("task.name=null", "task.name: must be a name, found None."),
        ("task=shuffled_sentences", "task: must be a group of keys, found 'shuffled_sentences'."),
        ("task.corruptions.swp=1", "task.corruptions.swp: input should be 'shuffle', 'window', 'blocks', 'swap', "
                                   "'drop', 'duplicate' or 'replace', found 'swp'. Did you mean \"swap\"?"),
        ("task.easy={swp: 1}", "task.easy.swp: input should be 'shuffle', 'window', 'blocks', 'swap', 'drop', "
                               "'duplicate' or 'replace', found 'swp'. Did you mean \"swap\"?"),
        ("task.corruptions.swap=-1", "task.corruptions.swap: input should be greater than or equal to 0, found -1."),
        ("task.losses.orders=1", "task.losses.orders: input should be 'sentence', 'pair', 'token' or 'order', found "
                                 "'orders'. Did you mean \"order\"?"),
        ("task.losses.token=0", "task.losses.token: input should be greater than 0, found 0."),
        ("tokenizer.kind=wordpeace", "tokenizer.kind: input should be 'wordpiece' or 'bpe', found 'wordpeace'. "
                                     'Did you mean "wordpiece"?'),
        ("tokenizer=null", "tokenizer: required for a network from a config, such as {kind: wordpiece, size: 8192}."),
        ("task.easy={swap: 1}", "task.curriculum_steps: a curriculum has weights to begin with (easy) and steps to "
                                "reach the others (curriculum_steps), found easy={'swap': 1.0} and "
                                "curriculum_steps=0."),
        ("task.curriculum_steps=9", "task.curriculum_steps: a curriculum has weights to begin with (easy) and steps to "
                                    "reach the others (curriculum_steps), found easy=None and curriculum_steps=9."),
        ("targets.order={path: x, metric: matthews}", "targets.order.metric: matthews needs a test set of its own "
                                                      "(test)."),
        ("targets.order.metric=mathews", "targets.order.metric: input should be 'accuracy' or 'matthews', found "
                                         "'mathews'. Did you mean \"matthews\"?"),
        ("targets.order.shots=[]", "targets.order.shots: must hold at least 1, found []."),
        ("targets.order.test={}", "targets.order.test.split: a part differs from its source in path, split, where or "
                                  "options, found none."),
        ("targets.order={path: x, split: a, test: {path: x, split: a}}", "targets.order.test: the same data again; say "
         "what is different of it (path, split, where, options), or leave it out."),
        ("data.validation={}", "data.validation.split: a part differs from its source in path, split, where or "
                               "options, found none."),
        ("data.validation.path=builtin:sentences", "data.validation: the same data again; say what is different of it "
                                                   "(path, split, where, options), or leave it out."),
        ("transfer.mirror=true", "transfer.mirror: texts have no mirror image; leave it out."),
        ("backbone={name: convnet}", "backbone.name: shuffled_sentences needs a backbone of transformers, found "
                                     "convnet."),
        ("data.align.size=9", "data.align: not for the task shuffled_sentences; leave it out."),
        ("verification.pairs=x", "verification: not for the task shuffled_sentences; leave it out."),
        ("minimal_pairs.blimp.limit=3", "minimal_pairs.blimp.path: not given. Name a data set with "
                                        "minimal_pairs.blimp.path=PATH, or leave it out with minimal_pairs.blimp=null"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_recipe_for_sentences_is_one_line(override, expected):
    assert problems(override, name="sentences_demo") == [expected]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.validation=null", "data.validation: required with data.streaming, since no share can be held out of a "
                                 "stream."),
        ("data.kind=csv", "data.kind: csv does not stream; parquet, JSON lines, text and Hub data sets do."),
        ("data.where.part=train", "data.where, data.options: a stream is read as it is; leave them out."),
        ("training.workers=2", "training.workers: a stream has one reader, so at most 1, found 2."),
    ],
)  # fmt: skip
def test_what_no_stream_can_do_is_one_line(override, expected):
    stream = ["data.path=corpus", "data.options=null", "data.streaming=true", "data.validation.path=held_out.txt"]
    assert load_recipe("sentences_demo", stream).data.streaming
    assert problems(*stream, override, name="sentences_demo") == [expected]


def test_what_belongs_to_texts_is_refused_beside_faces_all_at_once():
    found = problems(
        "tokenizer.size=9", "minimal_pairs.blimp.path=x", "data.validation.split=test", "data.streaming=true"
    )
    keys = ["tokenizer", "minimal_pairs", "data.validation", "data.streaming"]
    assert found == [f"{key}: not for the task face_pairs; leave it out." for key in keys]


def test_a_part_says_what_is_different_and_is_written_out_as_it_was_said(tmp_path):
    source = "targets.mine={path: x, where: {part: a, language: en}, options: {n: 1}, test: "
    for said, changed in [
        ("{where: {part: b}}", {"where": {"part": "b", "language": "en"}}),
        ("{where: null, split: test}", {"where": None, "split": "test"}),
        ("{path: y, options: {n: 1}}", {"path": "y"}),
        ("{path: null, split: test}", {"split": "test"}),
    ]:
        recipe = load_recipe("sentences_demo", [f"{source}{said}}}"])
        again = load_recipe(written(tmp_path, dump_recipe(recipe)))
        assert again == recipe
        for mine in (recipe.targets["mine"], again.targets["mine"]):
            assert part_of(mine, mine.test) == mine.model_copy(update=changed)


def test_a_network_with_a_name_brings_its_own_tokenizer():
    overrides = ["tokenizer=null", "backbone.arguments={name: org/network}"]
    assert load_recipe("sentences_demo", overrides).tokenizer is None


def test_a_target_may_have_shots_of_its_own_and_a_null_pair_is_left_out():
    overrides = ["targets.order.shots=[2]", "minimal_pairs={blimp: {path: x}, other: null}"]
    recipe = load_recipe("sentences_demo", overrides)
    assert (recipe.targets["order"].shots, recipe.targets["topics"].shots) == ([2], None)
    assert list(recipe.minimal_pairs) == ["blimp"]


# --- layer by layer ---------------------------------------------------------------------------------------------------


AUTOENCODER = "task={name: layer_autoencoder}"


def test_layers_are_trained_by_machines_or_autoencoders():
    machine, autoencoder = load_recipe("layerwise_demo").task, load_recipe("layerwise_demo", [AUTOENCODER]).task
    assert (machine.name, machine.layers, machine.visible, machine.unrolled_steps) == (
        "layer_rbm", None, "bernoulli", 0,
    )  # fmt: skip
    assert (autoencoder.noise.kind, autoencoder.noise.amount, autoencoder.tied) == ("masking", 0.25, True)
    assert load_recipe("layerwise_demo", ["task={name: layer_autoencoder, noise: null}"]).task.noise is None
    loud = load_recipe("layerwise_demo", ["task={name: layer_autoencoder, noise: {kind: gaussian, amount: 1.5}}"])
    assert loud.task.noise.amount == 1.5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.name=layer_rmb", NAMES + "found 'layer_rmb'. Did you mean \"layer_rbm\"?"),
        ("task.layers=[]", "task.layers: must hold at least 1, found []."),
        ("task.visible=binary", "task.visible: input should be 'bernoulli' or 'gaussian', found 'binary'."),
        ("task.gibbs_steps=0", "task.gibbs_steps: input should be greater than or equal to 1, found 0."),
        ("task.sparsity_target=1.0", "task.sparsity_target: input should be less than 1, found 1.0."),
        ("task.unrolled_steps=-1", "task.unrolled_steps: input should be greater than or equal to 0, found -1."),
        ("task={name: layer_autoencoder, noise: {amount: 1.0}}", "task.noise.amount: masking noise is a share of the "
                                                                 "input, below 1, found 1.0."),
        ("task={name: layer_autoencoder, noise: {kind: salt_and_pepper, amount: 2}}",
         "task.noise.amount: salt_and_pepper noise is a share of the input, below 1, found 2.0."),
        ("task={name: layer_autoencoder, noise: {kind: salt}}", "task.noise.kind: input should be 'masking', "
         "'salt_and_pepper' or 'gaussian', found 'salt'."),
        ("task={name: layer_autoencoder, loss: squared}", "task.loss: input should be 'cross_entropy' or "
         "'squared_error', found 'squared'. Did you mean \"squared_error\"?"),
        ("targets.digits.at_each_depth=1", "targets.digits.at_each_depth: input should be a valid boolean, found 1."),
        ("targets.digits.validation_items=0", "targets.digits.validation_items: input should be greater than or equal "
                                              "to 1, found 0."),
        ("targets.digits={path: x, validation_items: 3, validation: {split: a}}", "targets.digits.validation_items: "
         "there is a validation part already; leave one of them out."),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_recipe_for_layers_is_one_line(override, expected):
    assert problems(override, name="layerwise_demo") == [expected]


def test_a_key_of_another_task_is_told_with_the_keys_of_this_one():
    (problem,) = problems("task.tied=false", name="layerwise_demo")
    assert problem.startswith(
        "task.tied: unknown key. Allowed here: chains, gibbs_steps, initial_scale, layers, name, "
    )
    (problem,) = problems(AUTOENCODER, "task.contractoin=1", name="layerwise_demo")
    assert problem.endswith('Did you mean "contraction"?')


def test_what_belongs_to_faces_or_texts_is_refused_beside_layers_all_at_once():
    found = problems(
        "tokenizer.size=9", "minimal_pairs.blimp.path=x", "data.validation.split=test", "data.streaming=true",
        "data.align.size=9", "verification.pairs=x", "data.allow_unlabelled=true", "data.validation_items=9",
        name="layerwise_demo",
    )  # fmt: skip
    keys = ["tokenizer", "minimal_pairs", "data.validation", "data.streaming", "data.align", "verification",
            "data.allow_unlabelled"]  # fmt: skip
    assert found[:-1] == [f"{key}: not for the task layer_rbm; leave it out." for key in keys]
    assert found[-1].startswith("data.validation_items: for texts; the share")


# --- rankings ---------------------------------------------------------------------------------------------------------


RANKED = "task={name: max_margin_ranking, items: {}}"
SAID = (
    "data.holds: labelled rankings are pairs (chosen, rejected) or lists (qid, label), found items; or say "
    "task.sentences or task.items, to rank sentences, vectors or pictures above corruptions of them."
)
THERE = (
    "backbone.pretrained: a network that is there has its arguments, its scale and its tokenizer; leave arguments, "
    "standardize and tokenizer out."
)


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("ranking_demo", ["data.holds=items"], SAID),
        ("ranking_demo", ["task.list_size=1"], "task.list_size: input should be greater than or equal to 2, found 1."),
        ("ranking_demo", ["task.sentences={}", "data.holds=items", "data.test=null"],
         "task.sentences: needs a backbone of transformers, found mlp."),
        ("ranking_demo", ["task.items={}", "data.test=null"], "data.holds: what is corrupted are items, found lists."),
        ("ranking_demo", ["task.items={}", "data.holds=items"],
         "data.test: for labelled rankings; what is learnt from corruptions is tested on targets."),
        ("ranking_demo", ["task.items={}", "data.holds=items", "data.test=null", "task.list_size=2"],
         "task.list_size: for labelled rankings; leave it out."),
        ("ranking_demo", ["data.on_error=skip"],
         "data.on_error: not for the task max_margin_ranking; leave it out."),
        ("ranking_demo", ["data.fit=crop"], "data.fit: not for the task max_margin_ranking; leave it out."),
        ("ranking_demo", ["tokenizer.size=9"], "tokenizer: not for the task max_margin_ranking; leave it out."),
        ("ranking_demo", ["transfer.length=9"], "transfer.length: for texts, in tokens; leave it out."),
        ("ranking_demo", ["backbone.arguments={size: 8}"],
         "backbone.standardize: for vectors, whose backbone is an mlp without a size; leave it out."),
        ("ranking_demo", ["backbone.name=convnet"],
         "backbone.standardize: for vectors, whose backbone is an mlp without a size; leave it out."),
        ("ranking_demo", ["backbone.pretrained=run", "backbone.arguments={}"], THERE),
        ("ranking_demo", ["backbone.pretrained=run", "backbone.standardize=false"], THERE),
        ("ranking_text", ["data.path=x", "backbone.pretrained=run", "backbone.arguments={}"], THERE),
        ("ranking_text", ["data.path=x", "tokenizer=null"],
         "tokenizer: required for a network from a config, such as {kind: wordpiece, size: 8192}."),
        ("ranking_text", ["data.path=x", "data.streaming=true"],
         "data.streaming: labelled rankings are read as a whole; leave it out."),
        ("ranking_text", ["data.path=x", "minimal_pairs.blimp.path=y"],
         "minimal_pairs: with task.sentences; labelled rankings are tested on a part of theirs, data.test."),
        ("ranking_text", ["data.path=x", "task.items={}", "data.holds=items", "data.test=null"],
         "task.items: vectors or pictures, and this backbone takes texts: say task.sentences."),
        ("ranking_text", ["data.path=x", "transfer.mirror=true"],
         "transfer.mirror: texts have no mirror image; leave it out."),
        ("faces_demo", ["data.holds=pairs"],
         "data.holds: pairs are for the task max_margin_ranking, found face_pairs."),
        ("sentences_demo", ["data.holds=lists"],
         "data.holds: lists are for the task max_margin_ranking, found shuffled_sentences."),
        ("sentences_demo", ["targets.mine={path: x, holds: lists}"],
         "targets.mine.holds: a target is items or pairs, found lists."),
        ("sentences_demo", ["targets.mine={path: x, holds: pairs}"],
         "targets.mine.test: required for pairs, since those left over share their items with the labelled."),
        ("sentences_demo", ["transfer.beside.frozen=run"],
         "transfer.beside: frozen is an arm already; call it otherwise."),
        ("sentences_demo", ["transfer.beside.longer=run"],
         "transfer.beside: longer is an arm already; call it otherwise."),
        ("ranking_demo", ["training.patience=0"],
         "training.patience: input should be greater than or equal to 1, found 0."),
        ("ranking_demo", ["training.best_is=higest"],
         "training.best_is: input should be 'highest' or 'lowest', found 'higest'. Did you mean \"highest\"?"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_recipe_that_ranks_is_one_line(name, overrides, expected):
    assert problems(*overrides, name=name) == [expected]


def test_two_kinds_of_corruption_are_one_too_many():
    overrides = ["data.path=x", "task.sentences={}", "task.items={}", "data.holds=items", "data.test=null"]
    assert problems(*overrides, name="ranking_text") == [
        "task.items: there are task.sentences already; leave one of them out.",
        "task.items: vectors or pictures, and this backbone takes texts: say task.sentences.",
    ]


def test_a_network_that_is_there_needs_no_arguments_and_no_tokenizer():
    overrides = ["data.path=x", "tokenizer=null", "backbone.arguments={}", "backbone.pretrained=run"]
    assert load_recipe("ranking_text", overrides).backbone.pretrained == "run"


def test_what_is_trained_on_pictures_may_rank_them():
    recipe = load_recipe("faces_demo", [RANKED])
    assert recipe.task.items.strengths == [0.25, 0.5, 1.0]


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
    assert problems(name=written(tmp_path, "{}")) == ["name: required, not given"]
    assert problems(name=written(tmp_path, "name: a")) == ["data.path: not given. Name a data set with data.path=PATH"]
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
