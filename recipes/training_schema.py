"""What a recipe may say of the network and of its pretraining. Imports no torch, as `recipes.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from recipes.data_schema import Line, NotNegative, Positive, Rate, Strength, Strict, Weight

__all__ = ["Backbone", "Tokenizer", "Training", "Verification"]


class Backbone(Strict):
    """What is pretrained.

    Example:
        >>> Backbone(name="convnet", arguments={"size": 64}).family
        'convnet'
        >>> Backbone(name="hf/answerdotai/ModernBERT-base").family
        'transformers'
        >>> Backbone(pretrained="runs/faces").arguments
        {}
    """

    name: Line = "convnet"
    arguments: dict[Line, JsonValue] = Field(
        default_factory=dict, description="of its builder in auxtasks.backbones, such as size"
    )
    standardize: bool = Field(
        default=False,
        description="of vectors: take the width, and each feature's mean and deviation, from the training data",
    )
    pretrained: Line | None = Field(
        default=None, description="begin with the network of this run, or of this saved backbone; instead of arguments"
    )

    @property
    def family(self) -> str:
        """The family that the name stands for: ``hf/NAME`` is one of transformers, ``timm/NAME`` one of timm."""
        zoo = self.name.partition("/")[0]
        return "transformers" if zoo == "hf" else zoo


class Tokenizer(Strict):
    """An existing one by name, or one trained on the corpus.

    Example:
        >>> trained = Tokenizer(kind="bpe", size=4096)
        >>> trained.name is None, trained.lowercase
        (True, True)
    """

    name: Line | None = Field(default=None, description="a folder or a Hub name; null trains one")
    kind: Literal["wordpiece", "bpe"] = "wordpiece"
    size: Annotated[int, Field(ge=1, le=10**7)] = 8192
    lowercase: bool = True


class Training(Strict):
    """How the backbone is pretrained. Steps, not minutes: minutes are reported.

    Example:
        >>> training = Training(steps=500, keep_best="ndcg@10", validate_every=50)
        >>> training.optimizer, training.best_is, training.batch_size
        ('adamw', 'highest', 128)
    """

    steps: Positive = Field(default=1000, description="of each layer, where layers are trained in turn")
    batch_size: Positive = Field(default=128, description="of the global batch, over all processes")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Rate = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Weight = 0.05
    warmup_steps: NotNegative = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: Strength | None = 5.0
    accumulation: Positive = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] = 1
    log_every: NotNegative = 50
    validate_every: NotNegative = 0
    keep_best: Line | None = Field(
        default=None, description="end with the weights of the best validation by this metric, such as ndcg@10"
    )
    best_is: Literal["highest", "lowest"] = "highest"
    patience: Positive | None = Field(default=None, description="validations without a new best that end training")
    gradient_checkpointing: bool = Field(
        default=False,
        description="keep the inputs of the network's stages alone and compute the rest again: less memory",
    )
    sharding: Literal["none", "full"] = Field(
        default="none", description="full deals weights, gradients and optimizer state out to the processes"
    )
    checkpoint_every: NotNegative = 500
    keep_checkpoints: Positive = 2
    trackers: list[Line] = Field(default_factory=list, description="names that Accelerate knows, such as tensorboard")


class Verification(Strict):
    """Pairs of people that were never trained on, scored after pretraining.

    Example:
        >>> Verification(pairs="pairs.txt").key
        'file'
    """

    pairs: Line = Field(description="a file of pairs; a relative path is looked up beside data.path")
    protocol: Line | None = None
    key: Line = Field(default="file", description="the column of data that the pairs refer to")
    mirror: bool = True
