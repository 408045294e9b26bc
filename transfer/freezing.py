"""Which layers train when, and how fast: stages of fine-tuning as data, and what they say of a backbone.

The head trains in every stage. What is frozen is in eval mode, so that its BatchNorm statistics and its dropout stand
still; that is `Backbone.freeze`. Here is said which layers that are, at which rates the others learn, and below which
layer nothing learns, so that it can be computed once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from auxtasks.backbones.base import Backbone
from auxtasks.errors import LayerError, TransferError

__all__ = ["Stage", "Tuning", "gradual", "head_then_all", "highest_still", "layer_rates", "trained_layers"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of fine-tuning.

    Attributes:
        steps: optimizer steps.
        top_layers: how many layers below the head train; 0 trains the head alone, None all that the head reads.
        layers: names of the layers that train, in place of `top_layers`; they need not be the highest.
        rate: share of the learning rate in this stage; its schedule is its own in any case.

    Raises:
        TransferError: both ways of saying what trains, a negative number, or a rate that is not above 0.

    Example:
        >>> Stage(100, layers=("block11", "block12"), rate=0.5).layers
        ('block11', 'block12')
    """

    steps: int
    top_layers: int | None = None
    layers: tuple[str, ...] | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.top_layers is not None and self.layers is not None:
            raise TransferError(
                f"a stage trains the highest {self.top_layers} layers or those of the names {', '.join(self.layers)}: "
                "say one of top_layers and layers."
            )
        if self.steps < 0 or (self.top_layers is not None and self.top_layers < 0):
            raise TransferError(
                f"a stage has a number of steps and of top_layers, found {self.steps} and {self.top_layers}."
            )
        if not (0 < self.rate < math.inf):
            raise TransferError(f"a stage's rate is a share of the learning rate, above 0, found {self.rate}.")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        stages: in order, see `head_then_all` and `gradual` for two that are common.
        learning_rate: of the head and the highest layer.
        depth_decay: each layer further down has this share of the rate above it (Howard and Ruder, "Universal language
            model fine-tuning for text classification", ACL 2018, unfreeze and scale by depth in the same way).
        batch_size: items a step; with fewer labels a step sees each several times, pictures augmented anew.
        weight_decay: see `OptimizerSettings`.
        most_epochs: a support of few labels ends training after so many passes over it; None trains all steps.
        rates: shares of the learning rate by layer, in place of what `depth_decay` gives these.

    Example:
        >>> tuning = Tuning(stages=(Stage(100, top_layers=1), Stage(300)), batch_size=10, most_epochs=20)
        >>> [stage.steps for stage in tuning.on(items=50).stages], [stage.steps for stage in tuning.on(500).stages]
        ([25, 75], [100, 300])
    """

    stages: tuple[Stage, ...] = (Stage(60, top_layers=1), Stage(60))
    learning_rate: float = 5e-4
    depth_decay: float = 0.7
    batch_size: int = 64
    weight_decay: float = 0.05
    most_epochs: int | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of all stages, for a support of any size."""
        return sum(stage.steps for stage in self.stages)

    def on(self, items: int) -> Tuning:
        """Return the settings for a support of so many items, with `most_epochs` counted in steps.

        All stages are shortened in proportion, and each keeps a step.
        """
        if self.most_epochs is None:
            return self
        most = max(len(self.stages), math.ceil(self.most_epochs * items / self.batch_size))
        if most >= self.steps:
            return dataclasses.replace(self, most_epochs=None)
        stages: list[Stage] = []
        before, done = 0, 0  # steps up to the end of a stage, in full and as shortened
        for place, stage in enumerate(self.stages, start=1):
            before += stage.steps
            kept_free = len(self.stages) - place  # one step for each later stage
            steps = min(max(1, round(before * most / self.steps) - done), most - done - kept_free)
            done += steps
            stages.append(dataclasses.replace(stage, steps=steps))
        return dataclasses.replace(self, stages=tuple(stages), most_epochs=None)


def head_then_all(head_steps: int, all_steps: int) -> tuple[Stage, ...]:
    """Return two stages: the head alone, then everything that it reads.

    A head that fits sends no random gradients into pretrained layers.

    Example:
        >>> [(stage.steps, stage.top_layers) for stage in head_then_all(20, 80)]
        [(20, 0), (80, None)]

    Reference:
        Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR 2022.
    """
    return Stage(head_steps, top_layers=0), Stage(all_steps)


def gradual(layers: int, steps_each: int | Sequence[int]) -> tuple[Stage, ...]:
    """Return stages that unfreeze from the top: the head alone, then one layer more in each stage.

    Args:
        layers: how many layers are unfrozen in the end; there is one stage more than that.
        steps_each: steps of each stage, or of each by itself, beginning with that of the head.

    Raises:
        TransferError: another number of steps than of stages.

    Example:
        >>> [(stage.steps, stage.top_layers) for stage in gradual(2, 30)]
        [(30, 0), (30, 1), (30, 2)]

    Reference:
        Howard and Ruder, "Universal language model fine-tuning for text classification", ACL 2018.
    """
    if layers < 0:
        raise TransferError(f"layers is how many are unfrozen in the end, found {layers}.")
    steps = [steps_each] * (layers + 1) if isinstance(steps_each, int) else [*steps_each]
    if len(steps) != layers + 1:
        raise TransferError(
            f"to unfreeze {layers} layers takes {layers + 1} stages, the first for the head alone; found steps for "
            f"{len(steps)}."
        )
    return tuple(Stage(count, top_layers=place) for place, count in enumerate(steps))


def trained_layers(backbone: Backbone, layer: str, stage: Stage) -> tuple[str, ...]:
    """Return the layers that train in a stage below a head on `layer`, from the input up.

    Raises:
        LayerError: a name that does not exist, or that lies above what the head reads.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[3, 3, 3])
        >>> trained_layers(backbone, "hidden2", Stage(1, top_layers=1)), trained_layers(backbone, "hidden2", Stage(1))
        (('hidden2',), ('hidden1', 'hidden2'))
    """
    read = _read(backbone, layer)
    if stage.layers is None:
        lowest = 0 if stage.top_layers is None else max(0, len(read) - stage.top_layers)
        return read[lowest:]
    for name in stage.layers:
        if backbone.position(name) >= len(read):
            raise LayerError(
                f'the layer "{name}" lies above "{layer}", which the head reads, so that nothing would train it. '
                f"Below the head are: {', '.join(read)}."
            )
    return tuple(name for name in read if name in stage.layers)


def highest_still(backbone: Backbone, layer: str, trained: Sequence[str]) -> str | None:
    """Return the layer up to which nothing trains: what it gives stays the same and can be computed once.

    None: the lowest layer trains.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[3, 3, 3])
        >>> [highest_still(backbone, "hidden3", trained) for trained in (["hidden3"], ["hidden1", "hidden3"], [])]
        ['hidden2', None, 'hidden3']
    """
    lowest = min((backbone.position(name) for name in trained), default=backbone.position(layer) + 1)
    return None if lowest == 0 else backbone.layer_names[lowest - 1]


def layer_rates(backbone: Backbone, layer: str, tuning: Tuning) -> dict[str, float]:
    """Return each layer's share of the learning rate, from the input up: 1 for the highest, less further down.

    Raises:
        LayerError: a layer of `tuning.rates` that does not exist or that the head does not read.
        TransferError: a share that is not above 0; freeze the layer instead.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[3, 3, 3])
        >>> layer_rates(backbone, "hidden3", Tuning(depth_decay=0.5, rates={"hidden2": 0.1}))
        {'hidden1': 0.25, 'hidden2': 0.1, 'hidden3': 1.0}
    """
    read = _read(backbone, layer)
    trained_layers(backbone, layer, Stage(0, layers=tuple(tuning.rates)))  # refuses names that do not fit
    for name, rate in tuning.rates.items():
        if not (0 < rate < math.inf):
            raise TransferError(f'the rate of "{name}" is a share of the learning rate, above 0, found {rate}.')
    shares = {name: tuning.depth_decay**depth for depth, name in enumerate(reversed(read))}
    return {name: tuning.rates.get(name, shares[name]) for name in read}


def _read(backbone: Backbone, layer: str) -> tuple[str, ...]:
    """Return the layers that a head on a layer reads, from the input up."""
    return backbone.layer_names[: backbone.position(layer) + 1]
