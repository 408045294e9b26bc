"""What a recipe may say: strict, in the words of the field. Imports no torch, so that the command line starts fast.

Configuration stops here. The packages below take plain arguments; `recipes.build` turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, model_validator

from recipes.data_schema import (
    Data,
    MinimalPairs,
    NotNegative,
    Part,
    PoolName,
    Positive,
    Source,
    Strict,
    Target,
    TargetName,
)
from recipes.task_schema import (
    Augment,
    FacePairs,
    LayerAutoencoder,
    LayerRBM,
    Layerwise,
    ShuffledSentences,
    Task,
)

__all__ = [
    "Augment",
    "FacePairs",
    "LayerAutoencoder",
    "LayerRBM",
    "Layerwise",
    "MinimalPairs",
    "Part",
    "Recipe",
    "ShuffledSentences",
    "Source",
    "Target",
    "Tokenizer",
    "Tuning",
]

ArmName = Literal["scratch", "untrained", "raw", "frozen", "finetuned"]


class Backbone(Strict):
    """What is pretrained."""

    name: str = "convnet"
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict, description="of its builder in auxtasks.backbones, such as size"
    )


class Tokenizer(Strict):
    """An existing one by name, or one trained on the corpus."""

    name: str | None = Field(default=None, description="a folder or a Hub name; null trains one")
    kind: Literal["wordpiece", "bpe"] = "wordpiece"
    size: Positive = 8192
    lowercase: bool = True


class Training(Strict):
    """How the backbone is pretrained. Steps, not minutes: minutes are reported."""

    steps: Positive = Field(default=1000, description="of each layer, where layers are trained in turn")
    batch_size: Positive = Field(default=128, description="of the global batch, over all processes")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_steps: NotNegative = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0
    accumulation: Positive = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu"] = "auto"
    workers: NotNegative = 1
    log_every: NotNegative = 50
    validate_every: NotNegative = 0
    checkpoint_every: NotNegative = 500
    keep_checkpoints: Positive = 2
    trackers: list[str] = Field(default_factory=list, description="names that Accelerate knows, such as tensorboard")


class Verification(Strict):
    """Pairs of people that were never trained on, scored after pretraining."""

    pairs: str = Field(description="a file of pairs; a relative path is looked up beside data.path")
    protocol: str | None = None
    key: str = Field(default="file", description="the column of data that the pairs refer to")
    mirror: bool = True


class Stage(Strict):
    """A stretch of fine-tuning: how many layers below the head train, null for all."""

    steps: Positive
    top_layers: NotNegative | None = None


class Tuning(Strict):
    """How a network is trained on the few labels."""

    stages: list[Stage] = Field(default_factory=lambda: [Stage(steps=40, top_layers=1), Stage(steps=60)], min_length=1)
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [5e-4], min_length=1, description="the first is the default, more are searched"
    )
    depth_decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    batch_size: Positive = 64
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    most_epochs: Positive | None = Field(
        default=None, description="passes over the few labels that end training early; null trains all steps"
    )

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


class Head(Strict):
    """A classifier on frozen features."""

    name: Literal["prototype", "ridge", "logistic", "neighbors"]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Discriminants(Strict):
    """Directions that tell pretraining identities apart, as further spaces for the heads."""

    components: Positive = 256
    shrinkage: Annotated[float, Field(gt=0)] = 1.0


def _default_heads() -> list[Head]:
    return [
        Head(name="prototype"),
        Head(name="prototype", options={"center": True}),
        Head(name="ridge", options={"alpha": 1.0, "scaling": "l2"}),
        Head(name="logistic", options={"C": 10.0, "scaling": "rms"}),
    ]


class Transfer(Strict):
    """How the backbone is reused and evaluated; the same for all targets."""

    shots: list[Positive] = Field(default_factory=lambda: [1, 5], min_length=1)
    draws: Positive = 10
    test_per_class: Positive | None = None
    arms: list[ArmName] = Field(default_factory=lambda: list(get_args(ArmName)), min_length=1)
    claim: ArmName = "frozen"
    layers: dict[str, PoolName] | None = Field(default=None, description="layers to choose from; null takes all")
    heads: list[Head] = Field(default_factory=_default_heads, min_length=1)
    discriminants: Discriminants | None = Discriminants()
    mirror: bool = False
    tuning: Tuning = Field(default_factory=Tuning)
    scratch: Tuning = Field(default_factory=lambda: Tuning(stages=[Stage(steps=100)], learning_rates=[2e-3]))
    augment: Augment | None = Field(
        default_factory=Augment, description="of pictures that networks are trained on; null takes them as they are"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    on_leak: Literal["raise", "report"] = "raise"

    @model_validator(mode="after")
    def _check(self) -> Transfer:
        if self.claim not in self.arms:
            raise ValueError(f'claim: the claimed arm "{self.claim}" is not among arms: {", ".join(self.arms)}')
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


class Recipe(Strict):
    """A whole run: pretrain, verify, reuse, evaluate, report."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    seed: NotNegative = 0
    data: Data
    backbone: Backbone = Backbone()
    tokenizer: Tokenizer | None = None
    task: Task = FacePairs()
    training: Training = Training()
    verification: Verification | None = None
    minimal_pairs: dict[TargetName, MinimalPairs] = Field(default_factory=dict)
    transfer: Transfer = Field(default_factory=Transfer)
    targets: dict[TargetName, Target] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        problems = [*self._misplaced(), *self._unparted()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _misplaced(self) -> Iterator[str]:
        """Say what belongs to another task than the recipe's."""
        texts = isinstance(self.task, ShuffledSentences)
        only_pictures = {"data.align": self.data.align, "verification": self.verification}
        only_texts = {"tokenizer": self.tokenizer, "minimal_pairs": self.minimal_pairs or None,
                      "data.validation": self.data.validation,
                      "data.streaming": self.data.streaming or None}  # fmt: skip
        only_faces = {"data.align": self.data.align, "verification": self.verification,
                      "data.allow_unlabelled": self.data.allow_unlabelled or None}  # fmt: skip
        misplaced = only_pictures if texts else only_texts
        for key, value in {**misplaced, **(only_faces if isinstance(self.task, Layerwise) else {})}.items():
            if value is not None:
                yield f"{key}: not for the task {self.task.name}; leave it out"
        yield from self._unfit_for_texts() if texts else self._unfit_for_pictures()
        if texts and self.tokenizer is None and "name" not in self.backbone.arguments:
            yield "tokenizer: required for a network from a config, such as {kind: wordpiece, size: 8192}"
        for name, target in self.targets.items():
            if target.validation_items and target.validation:
                yield f"targets.{name}.validation_items: there is a validation part already; leave one of them out"
            if target.metric == "matthews" and target.test is None:
                yield f"targets.{name}.metric: matthews needs a test set of its own (test)"

    def _unparted(self) -> Iterator[str]:
        """Say where what is validated or tested on would be what is trained on, or one be the other."""
        parts: dict[str, tuple[Source, Part | None]] = {"data.validation": (self.data, self.data.validation)}
        for name, target in self.targets.items():
            parts |= {f"targets.{name}.{key}": (target, getattr(target, key)) for key in ("test", "validation")}
            test, validation = target.test, target.validation
            if test and validation and test.changes(target) == validation.changes(target) != {}:
                yield f"targets.{name}.validation: the same data as the test; say what is different of it"
        for key, (source, part) in parts.items():
            if part is not None and not part.lacks_path and not part.changes(source):
                keys = ", ".join(Part.model_fields)
                yield f"{key}: the same data again; say what is different of it ({keys}), or leave it out"

    def _unfit_for_pictures(self) -> Iterator[str]:
        if self.data.validation_items is not None:
            yield "data.validation_items: for texts; the share of people, or of pictures, held out is data.holdout"

    def _unfit_for_texts(self) -> Iterator[str]:
        data = self.data
        if self.transfer.mirror:
            yield "transfer.mirror: texts have no mirror image; leave it out"
        if self.backbone.name != "transformers":
            yield f"backbone.name: {self.task.name} needs a backbone of transformers, found {self.backbone.name}"
        if not data.streaming:
            return
        if data.validation is None:
            yield "data.validation: required with data.streaming, since no share can be held out of a stream"
        if data.where is not None or data.options is not None:
            yield "data.where, data.options: a stream is read as it is; leave them out"
        if data.kind in ("folder", "csv", "builtin"):
            yield f"data.kind: {data.kind} does not stream; parquet, JSON lines, text and Hub data sets do"
        if self.training.workers > 1:
            yield f"training.workers: a stream has one reader, so at most 1, found {self.training.workers}"
