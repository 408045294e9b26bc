"""Every recipe that is shipped: valid, documented, and buildable as far as that needs no data."""

import pytest

from auxtasks.errors import RecipeError
from recipes import build
from recipes.config import load_recipe, recipe_names, recipe_summary
from transfer.spaces import default_pools

# What a recipe needs to be told, since its data cannot be shipped.
TOLD = {
    "faces_demo": [],
    "sentences_demo": [],
    "faces_lfw": ["data.path=lfw.parquet", "targets.att.path=att.parquet", "targets.gt.path=gt.parquet"],
}


def test_these_recipes_are_shipped():
    assert recipe_names() == sorted(TOLD)


@pytest.mark.parametrize("name", TOLD)
class TestEveryRecipe:
    def test_is_valid_and_named_as_its_file(self, name):
        recipe = load_recipe(name, TOLD[name])
        assert recipe.name == name
        assert len(recipe_summary(name)) > 40
        assert "\n" not in recipe_summary(name)
        assert recipe.targets

    def test_builds_its_parts(self, name):
        recipe = load_recipe(name, TOLD[name])
        backbone = build.make_backbone(recipe)
        task = build.make_task(recipe, backbone)
        assert task.backbone is backbone
        assert recipe.training.batch_size % task.photos == 0
        settings = build.make_few_shot(recipe, backbone)
        assert {"scratch", "untrained", "raw", settings.claim} <= set(settings.arms)
        assert settings.tuning.steps == settings.scratch.steps
        assert set(settings.layers or default_pools(backbone)) <= set(backbone.layer_names)
        for head, options in settings.heads:
            assert head in {"prototype", "ridge", "logistic", "neighbors"}
            assert all(isinstance(option, str) for option in options)
        assert build.make_optimizer(recipe).learning_rate == recipe.training.learning_rate
        assert build.make_loop(recipe).checkpoint_every == recipe.training.checkpoint_every


def test_the_lfw_recipe_says_which_paths_it_needs():
    with pytest.raises(RecipeError, match=r"(?s)data\.path: not given.*targets\.att\.path.*targets\.gt\.path"):
        load_recipe("faces_lfw")
    recipe = load_recipe("faces_lfw", ["data.path=x", "targets.att=null", "targets.gt=null"])
    assert recipe.targets == {}
