"""What a recipe may say of its task: one class a task, told apart by its name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from recipes.data_schema import Line, NotNegative, PoolName, Positive, Share, Strength, Strict, Weight

__all__ = [
    "TASK_NAMES",
    "Augment",
    "CorruptedSentences",
    "Corruptions",
    "FacePairs",
    "LayerAutoencoder",
    "LayerRBM",
    "Layerwise",
    "MaxMarginRanking",
    "ReadyMade",
    "ShuffledSentences",
    "Task",
]  # fmt: skip


AtLeastTwo = Annotated[Positive, Field(ge=2)]


class Augment(Strict):
    """See `auxtasks.data.augment.Augment`.

    Example:
        >>> Augment().rotate
        11.0
        >>> FacePairs(augment=Augment(flip=0.0, blur=0.0)).augment.flip
        0.0
    """

    shift: Share = 0.1
    scale: Share = 0.18
    stretch: Share = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 11.0
    flip: Share = 0.5
    gamma: Share = 0.3
    gradient: Share = 0.3
    blur: Share = 0.3
    erase: Share = 0.3


class FacePairs(Strict):
    """See `auxtasks.tasks.FacePairs`.

    Example:
        >>> task = FacePairs(loss="triplet", margin=0.2)
        >>> task.name, task.photos, task.margin
        ('face_pairs', 4, 0.2)
    """

    name: Literal["face_pairs"] = "face_pairs"
    loss: Literal["logistic", "contrastive", "triplet"] = "logistic"
    photos: AtLeastTwo = 4
    hardness: Weight = 0.0
    margin: Strength | None = None
    scale: Strength = 10.0
    single_share: Share = 0.0
    favour: Share = 0.0
    augment: Augment = Augment()


Weights = dict[Literal["shuffle", "window", "blocks", "swap", "drop", "duplicate", "replace"], Weight]


LossName = Literal["sentence", "pair", "token", "order"]


def _default_losses() -> dict[LossName, float]:
    return {"sentence": 0.5, "pair": 0.5, "token": 1.0}


class Corruptions(Strict):
    """How sentences are corrupted: see `auxtasks.tasks.sentence_source.SentenceSource`.

    Example:
        >>> from pydantic import ValidationError
        >>> Corruptions(corruptions={"swap": 1.0}, easy={"shuffle": 1.0}, curriculum_steps=500).most_left_out
        0.05
        >>> try:
        ...     Corruptions(corruptions={"swap": 0.0})
        ... except ValidationError as error:
        ...     print(error.errors()[0]["msg"])
        Value error, corruptions: one weight at least must be above zero
    """

    corruptions: Weights | None = Field(
        default=None, description="kind to weight; null takes all, the subtle ones most"
    )
    easy: Weights | None = Field(default=None, description="weights at the first step of a curriculum")
    curriculum_steps: NotNegative = 0
    keep_initial: bool | None = Field(default=None, description="keep the first word; null where capitals would tell")
    most_left_out: Share = 0.05
    window: Positive = Field(default=64, description="batches that are sorted by length together")
    batch_tokens: Positive | None = Field(default=None, description="count batches in tokens, not in sentences")

    @model_validator(mode="after")
    def _check_corruptions(self) -> Corruptions:
        if self.corruptions is not None and not any(self.corruptions.values()):
            raise ValueError("corruptions: one weight at least must be above zero")
        if (self.easy is None) != (self.curriculum_steps == 0):
            raise ValueError(
                "curriculum_steps: a curriculum has weights to begin with (easy) and steps to reach the others "
                f"(curriculum_steps), found easy={self.easy} and curriculum_steps={self.curriculum_steps}"
            )
        return self


class ShuffledSentences(Corruptions):
    """See `auxtasks.tasks.ShuffledSentences`.

    Example:
        >>> task = ShuffledSentences(name="shuffled_sentences", corruptions={"swap": 2.0, "drop": 1.0})
        >>> task.losses
        {'sentence': 0.5, 'pair': 0.5, 'token': 1.0}
    """

    name: Literal["shuffled_sentences"]
    losses: dict[LossName, Strength] = Field(default_factory=_default_losses, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> ShuffledSentences:
        if set(self.losses) == {"order"}:
            raise ValueError("losses: order cannot score a sentence; add sentence, pair or token")
        return self


class Noise(Strict):
    """See `auxtasks.noise.Noise`."""

    kind: Literal["masking", "salt_and_pepper", "gaussian"] = "masking"
    amount: Weight = 0.25

    @model_validator(mode="after")
    def _check(self) -> Noise:
        if self.kind != "gaussian" and self.amount >= 1:
            raise ValueError(f"amount: {self.kind} noise is a share of the input, below 1, found {self.amount}")
        return self


class Layerwise(Strict):
    """What all layer-wise tasks have: see `auxtasks.layerwise.pretrain_layerwise`.

    Example:
        >>> Layerwise(layers=["conv1", "conv2"]).unrolled_steps
        0
        >>> issubclass(LayerAutoencoder, Layerwise), issubclass(LayerRBM, Layerwise)
        (True, True)
    """

    layers: Annotated[list[Line], Field(min_length=1)] | None = Field(
        default=None, description="the lowest layers, which are trained in turn; null trains all"
    )
    unrolled_steps: NotNegative = Field(default=0, description="of a last stage that trains all layers together")


class LayerAutoencoder(Layerwise):
    """See `auxtasks.tasks.LayerAutoencoder`.

    Example:
        >>> task = LayerAutoencoder(name="layer_autoencoder", noise=Noise(amount=0.4))
        >>> task.noise.kind, task.tied, task.layers is None
        ('masking', True, True)
    """

    name: Literal["layer_autoencoder"]
    noise: Noise | None = Noise()
    contraction: Weight = 0.0
    tied: bool = True
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"


class LayerRBM(Layerwise):
    """See `auxtasks.tasks.LayerRBM`.

    Example:
        >>> task = LayerRBM(name="layer_rbm", visible="gaussian", persistent=True)
        >>> task.gibbs_steps, task.chains
        (1, 100)
    """

    name: Literal["layer_rbm"]
    visible: Literal["bernoulli", "gaussian"] = Field(
        default="bernoulli", description="of the lowest layer; those above see sigmoids, and are binary"
    )
    gibbs_steps: Positive = 1
    persistent: bool = False
    chains: Positive = 100
    sample_visible: bool = True
    sparsity_target: Annotated[float, Field(gt=0, lt=1)] = 0.1
    sparsity_cost: Weight = 0.0
    initial_scale: Strength | None = Field(
        default=0.01, description="standard deviation of the first weights; null keeps those of the backbone"
    )


class CorruptedSentences(Corruptions):
    """See `auxtasks.tasks.CorruptedSentences`."""

    count: Positive = Field(default=1, description="corruptions beside each sentence in training")


class CorruptedItems(Strict):
    """See `auxtasks.tasks.CorruptedItems`."""

    strengths: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[0.25, 0.5, 1.0], min_length=1)
    noise: Literal["gaussian", "masking", "swap"] = Field(default="swap", description="of vectors")
    amount: Strength = Field(default=0.6, description="of vectors, at strength 1")
    distortions: list[Literal["blocks", "blur", "contrast", "erase", "noise"]] = Field(
        default=["blocks", "blur", "contrast", "erase", "noise"], min_length=1, description="of pictures"
    )


class MaxMarginRanking(Strict):
    """See `auxtasks.tasks.MaxMarginRanking`.

    Example:
        >>> MaxMarginRanking(name="max_margin_ranking", margin_per_grade=True).loss
        'hinge'
        >>> unlabelled = MaxMarginRanking(name="max_margin_ranking", sentences=CorruptedSentences(count=3))
        >>> unlabelled.sentences.count, unlabelled.items is None
        (3, True)
    """

    name: Literal["max_margin_ranking"]
    loss: Literal["hinge", "squared_hinge", "logistic"] = "hinge"
    margin: Weight = 1.0
    margin_per_grade: bool = Field(default=False, description="margin times the difference of the grades")
    weighting: Literal["equal", "ndcg"] = "equal"
    top: Positive | None = Field(default=None, description="of the NDCG that weighs pairs; null takes whole lists")
    average: Literal["query", "pair"] = "query"
    pool: PoolName | None = Field(default=None, description="of the last layer; null suits the input")
    l2: Weight = Field(default=0.0, description="half of it times the scorer's squared weights")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="of the last layer")
    initial_scale: Weight = Field(default=1.0, description="of the scorer's first weights; 0 begins with equal scores")
    list_size: AtLeastTwo | None = Field(
        default=None, description="most items of a query in a training step, drawn anew; null takes all"
    )
    sentences: CorruptedSentences | None = Field(
        default=None, description="rank sentences above corruptions of them, without any label"
    )
    items: CorruptedItems | None = Field(
        default=None, description="rank vectors or pictures above corruptions of them, without any label"
    )


class ReadyMade(Strict):
    """Nothing is trained: the backbone comes with its weights, from a model zoo or a folder.

    Example:
        >>> from pydantic import TypeAdapter
        >>> isinstance(TypeAdapter(Task).validate_python({"name": "ready_made"}), ReadyMade)
        True
    """

    name: Literal["ready_made"]


TASK_NAMES = (
    "face_pairs", "shuffled_sentences", "max_margin_ranking", "layer_autoencoder", "layer_rbm", "ready_made",
)  # fmt: skip


def _task_name(value: object) -> object:
    """Return which task is meant; the first there was, where nothing is said."""
    return value.get("name", "face_pairs") if isinstance(value, dict) else getattr(value, "name", None)


Task = Annotated[
    Annotated[FacePairs, Tag("face_pairs")]
    | Annotated[ShuffledSentences, Tag("shuffled_sentences")]
    | Annotated[MaxMarginRanking, Tag("max_margin_ranking")]
    | Annotated[LayerAutoencoder, Tag("layer_autoencoder")]
    | Annotated[LayerRBM, Tag("layer_rbm")]
    | Annotated[ReadyMade, Tag("ready_made")],
    Discriminator(_task_name),
]
