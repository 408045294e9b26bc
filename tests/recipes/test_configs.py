"""Every recipe that is shipped: valid, documented, and buildable as far as that needs no data."""

import pytest

from auxtasks.data import train_tokenizer
from auxtasks.errors import RecipeError
from auxtasks.tasks import FacePairs, LayerAutoencoder, LayerRBM, MaxMarginRanking, ShuffledSentences
from recipes import build
from recipes.config import load_recipe, recipe_names, recipe_summary
from recipes.schema import Layerwise, ReadyMade
from transfer.spaces import default_pools

TARGETS = ("bigram_shift_ewt", "cola", "trec6", "subj", "sst2")
CORPUS = [
    "data.path=corpus",
    "minimal_pairs.blimp.path=blimp.parquet",
    *(f"targets.{name}.path={name}.parquet" for name in TARGETS),
]
DIGITS = ["data.path=train.parquet", "targets.digits.path=train.parquet", "targets.digits.test.path=test.parquet"]

# What a recipe needs to be told, since its data cannot be shipped.
TOLD = {
    "faces_demo": [],
    "faces_lfw": ["data.path=lfw.parquet", "targets.att.path=att.parquet", "targets.gt.path=gt.parquet"],
    "layerwise_demo": [],
    "layerwise_mnist_autoencoder": DIGITS,
    "layerwise_mnist_rbm": DIGITS,
    "ranking_corruptions": CORPUS,
    "ranking_demo": [],
    "ranking_features": ["data.path=lists"],
    "ranking_text": ["data.path=pairs"],
    "ready_made": ["targets.mine.path=photos", "backbone={name: convnet}"],
    "sentences_corpus": CORPUS,
    "sentences_corpus_base": CORPUS,
    "sentences_demo": [],
}
LARGE = {"sentences_corpus_base"}  # 149 million parameters take seconds to draw
LABELLED = {"ranking_demo", "ranking_features", "ranking_text"}  # tested on queries of their own, without targets


def built(recipe):
    """Build a recipe's backbone, with a tokenizer where it needs one."""
    tokenizer = None if recipe.tokenizer is None else train_tokenizer(["A cat sleeps here.", "A dog barks."], size=60)
    return build.make_backbone(recipe, tokenizer)


def test_these_recipes_are_shipped():
    assert recipe_names() == sorted(TOLD)


@pytest.mark.parametrize("name", TOLD)
class TestEveryRecipe:
    def test_is_valid_and_named_as_its_file(self, name):
        recipe = load_recipe(name, TOLD[name])
        assert recipe.name == name
        assert len(recipe_summary(name)) > 40
        assert "\n" not in recipe_summary(name)
        assert bool(recipe.targets) != (name in LABELLED)
        assert (recipe.data.test is not None) == (name in LABELLED)

    def test_holds_an_evaluation_that_is_fair(self, name):
        recipe = load_recipe(name, TOLD[name])
        assert {"scratch", "untrained", "raw", recipe.transfer.claim} <= set(recipe.transfer.arms)
        assert recipe.transfer.tuning.steps == recipe.transfer.scratch.steps

    def test_translates_its_training(self, name):
        recipe = load_recipe(name, TOLD[name])
        assert build.make_optimizer(recipe).learning_rate == recipe.training.learning_rate
        assert build.make_loop(recipe).checkpoint_every == recipe.training.checkpoint_every


# The width of a network on vectors is that of its data.
@pytest.mark.parametrize("name", sorted(set(TOLD) - LARGE - {"ranking_features"}))
def test_a_recipe_builds_its_parts(name):
    recipe = load_recipe(name, TOLD[name])
    backbone = built(recipe)
    if isinstance(recipe.task, ReadyMade):
        tasks, kind = [], None
    elif isinstance(recipe.task, Layerwise):
        tasks = [build.make_layer_task(recipe, backbone, layer) for layer in backbone.layer_names]
        kind = LayerRBM if recipe.task.name == "layer_rbm" else LayerAutoencoder
    else:
        tasks = [build.make_task(recipe, backbone)]
        kinds = {"sentences": ShuffledSentences, "ranking": MaxMarginRanking, "faces": FacePairs}
        kind = kinds[name.partition("_")[0]]
    assert all(isinstance(task, kind) and task.backbone is backbone for task in tasks)
    for target in recipe.targets.values():
        settings = build.make_few_shot(recipe, backbone, target)
        assert settings.protocol.shots == tuple(target.shots or recipe.transfer.shots)
        assert set(settings.layers or default_pools(backbone)) <= set(backbone.layer_names)
        for head, options in settings.heads:
            assert head in {"prototype", "ridge", "logistic", "neighbors"}
            assert all(isinstance(option, str) for option in options)


@pytest.mark.parametrize("name", ["faces_demo", "faces_lfw"])
def test_a_batch_of_faces_holds_whole_people(name):
    recipe = load_recipe(name, TOLD[name])
    assert recipe.training.batch_size % recipe.task.photos == 0


@pytest.mark.parametrize("name", [name for name in TOLD if name.startswith("sentences") or TOLD[name] is CORPUS])
def test_the_layers_that_sentences_are_read_at_are_those_of_the_network(name):
    recipe = load_recipe(name, TOLD[name])
    blocks = recipe.backbone.arguments["config"]["num_hidden_layers"]
    allowed = {"embeddings", *(f"block{number}" for number in range(1, blocks + 1))}
    assert set(recipe.transfer.layers or {}) <= allowed


@pytest.mark.parametrize(
    ("name", "first", "second"), [("faces_lfw", "att", "gt"), ("sentences_corpus", "cola", "trec6")]
)
def test_a_recipe_for_data_of_one_s_own_says_which_paths_it_needs(name, first, second):
    with pytest.raises(RecipeError, match=rf"(?s)data\.path: not given.*targets\.{first}\.path.*{second}\.path"):
        load_recipe(name)
    without = [
        f"targets.{target}=null" for target in ("att", "gt", "bigram_shift_ewt", "cola", "trec6", "subj", "sst2")
    ]
    recipe = load_recipe(name, ["data.path=x", "minimal_pairs.blimp=null", *without])
    assert (recipe.targets, recipe.minimal_pairs) == ({}, {})
