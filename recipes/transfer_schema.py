"""What a recipe may say of how the network is reused and evaluated. Imports no torch, as `recipes.schema`."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from recipes.data_schema import (
    Line,
    NotNegative,
    PoolName,
    Positive,
    Rate,
    Scalar,
    Strength,
    Strict,
    TargetName,
    Weight,
)
from recipes.task_schema import Augment

__all__ = ["ArmName", "Discriminants", "Head", "Stage", "Transfer", "Tuning"]

ArmName = Literal["scratch", "untrained", "raw", "longer", "frozen", "finetuned"]
_MOST_LAYERS = 1000  # each is a stage of its own
DEFAULT_ARMS: list[ArmName] = ["scratch", "untrained", "raw", "frozen", "finetuned"]


class Stage(Strict):
    """A stretch of fine-tuning: how many layers below the head train, null for all, or which.

    Example:
        >>> head_alone = Stage(steps=20, top_layers=0)
        >>> everything = Stage(steps=60)
        >>> Tuning(stages=[head_alone, everything]).steps
        80
    """

    steps: Positive
    top_layers: NotNegative | None = None
    layers: list[Line] | None = Field(default=None, description="names of those that train, in place of top_layers")
    rate: Strength = Field(default=1.0, description="share of the learning rate in this stage")

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if self.top_layers is not None and self.layers is not None:
            raise ValueError("layers: there is a top_layers already; leave one of them out")
        return self


class Tuning(Strict):
    """How a network is trained on the few labels.

    Example:
        >>> unfrozen = Tuning.model_validate({"stages": {"unfreeze": 2, "steps_each": 20}})
        >>> [(stage.steps, stage.top_layers) for stage in unfrozen.stages]
        [(20, 0), (20, 1), (20, 2)]
    """

    stages: list[Stage] = Field(
        default_factory=lambda: [Stage(steps=40, top_layers=1), Stage(steps=60)],
        min_length=1,
        description="or {unfreeze: 3, steps_each: 20}: the head alone, then one layer more in each stage",
    )
    learning_rates: list[Rate] = Field(
        default_factory=lambda: [5e-4], min_length=1, description="the first is the default, more are searched"
    )
    depth_decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    rates: dict[Line, Strength] = Field(
        default_factory=dict, description="shares of the learning rate by layer, in place of what depth_decay gives"
    )
    batch_size: Positive = 64
    weight_decay: Weight = 0.05
    most_epochs: Positive | None = Field(
        default=None, description="passes over the few labels that end training early; null trains all steps"
    )
    keep_views: Positive | None = Field(
        default=None,
        description="in auxtasks finetune: train each stage on kept outputs of the part that stands still, of so many "
        "augmented views of each picture (1 where nothing is augmented); null computes the whole network in every step",
    )

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, given: object) -> object:
        """Write ``stages: {unfreeze: 3, steps_each: 20}`` out: the head, then one layer more from the top in each."""
        stages = given.get("stages") if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(stages, dict):
            return given
        layers, steps = stages.get("unfreeze"), stages.get("steps_each")
        if (
            set(stages) != {"unfreeze", "steps_each"}
            or type(layers) is not int
            or type(steps) is not int
            or not 0 <= layers <= _MOST_LAYERS
        ):
            raise ValueError(
                "stages: must be a list of stages, or such as {unfreeze: 3, steps_each: 20}, which trains the head and "
                f"then one layer more from the top in each stage, found {stages!r}"
            )
        return {**given, "stages": [{"steps": steps, "top_layers": place} for place in range(layers + 1)]}

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


class Head(Strict):
    """A classifier on frozen features.

    Example:
        >>> [head.name for head in Transfer().heads]
        ['prototype', 'prototype', 'ridge', 'logistic']
        >>> Head(name="ridge", options={"alpha": 0.1}).options
        {'alpha': 0.1}
    """

    name: Literal["prototype", "ridge", "logistic", "neighbors"]
    options: dict[Line, Scalar] = Field(default_factory=dict)


class Discriminants(Strict):
    """Directions that tell pretraining identities apart, as further spaces for the heads.

    Example:
        >>> Transfer(discriminants=Discriminants(components=64)).discriminants.shrinkage
        1.0
    """

    components: Positive = 256
    shrinkage: Strength = 1.0


def _default_heads() -> list[Head]:
    return [
        Head(name="prototype"),
        Head(name="prototype", options={"center": True}),
        Head(name="ridge", options={"alpha": 1.0, "scaling": "l2"}),
        Head(name="logistic", options={"C": 10.0, "scaling": "rms"}),
    ]


class Transfer(Strict):
    """How the backbone is reused and evaluated; the same for all targets.

    Example:
        >>> from pydantic import ValidationError
        >>> Transfer(shots=[1, 5, 20]).arms
        ['scratch', 'untrained', 'raw', 'frozen', 'finetuned']
        >>> try:
        ...     Transfer(arms=["scratch", "raw"])
        ... except ValidationError as error:
        ...     print(error.errors()[0]["msg"])
        Value error, claim: the claimed arm "frozen" is not among arms: scratch, raw
    """

    shots: list[Positive] = Field(default_factory=lambda: [1, 5], min_length=1)
    draws: Positive = 10
    test_per_class: Positive | None = None
    arms: list[ArmName] = Field(default_factory=lambda: list(DEFAULT_ARMS), min_length=1)
    claim: ArmName = "frozen"
    beside: dict[TargetName, Line] = Field(
        default_factory=dict, description="further arms: frozen networks of these runs or saved backbones, by name"
    )
    layers: dict[Line, PoolName] | None = Field(default=None, description="layers to choose from; null takes all")
    heads: list[Head] = Field(default_factory=_default_heads, min_length=1)
    discriminants: Discriminants | None = Discriminants()
    mirror: bool = False
    length: Positive | None = Field(
        default=None, description="read texts of so many tokens; null takes the length of pretraining"
    )
    tuning: Tuning = Field(default_factory=Tuning)
    scratch: Tuning = Field(default_factory=lambda: Tuning(stages=[Stage(steps=100)], learning_rates=[2e-3]))
    augment: Augment | None = Field(
        default_factory=Augment, description="of pictures that networks are trained on; null takes them as they are"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    on_leak: Literal["raise", "report"] = "raise"
    near_duplicates: bool = Field(
        default=False, description="also look for edited copies of test pictures and texts, which takes longer"
    )

    @model_validator(mode="after")
    def _check(self) -> Transfer:
        if self.claim not in self.arms:
            raise ValueError(f'claim: the claimed arm "{self.claim}" is not among arms: {", ".join(self.arms)}')
        for name in self.beside.keys() & set(get_args(ArmName)):
            raise ValueError(f"beside: {name} is an arm already; call it otherwise")
        if sorted(set(self.shots)) != self.shots:
            raise ValueError(f"shots: different numbers in rising order, found {self.shots}")
        if self.tuning.steps != self.scratch.steps or len(self.tuning.learning_rates) != len(
            self.scratch.learning_rates
        ):
            raise ValueError(
                f"scratch: needs the same budget as tuning: {self.tuning.steps} steps and "
                f"{len(self.tuning.learning_rates)} learning rates, found {self.scratch.steps} and "
                f"{len(self.scratch.learning_rates)}"
            )
        if self.tuning.most_epochs != self.scratch.most_epochs:
            raise ValueError(
                f"scratch: needs the same most_epochs as tuning: {self.tuning.most_epochs}, found "
                f"{self.scratch.most_epochs}"
            )
        return self
