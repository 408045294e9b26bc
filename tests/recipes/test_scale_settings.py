"""What a recipe says of networks that do not fit reaches the loop."""

import pytest

from auxtasks.training.settings import LoopSettings
from recipes.build import make_loop
from recipes.config import load_recipe


def loop(*overrides: str) -> LoopSettings:
    return make_loop(load_recipe("faces_demo", list(overrides)))


@pytest.mark.parametrize(("name", "value"), [("gradient_checkpointing", True), ("sharding", "full")])
def test_a_recipe_asks_for_less_memory(name, value):
    assert getattr(loop(f"training.{name}={str(value).lower()}"), name) == value
    assert getattr(loop(), name) == getattr(LoopSettings(), name) != value
