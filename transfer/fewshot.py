"""The few-shot evaluation: all arms on the same labels, tested once, compared in pairs.

Everything that is chosen is chosen, and everything that is trained is trained, before the first test label is read.
There are two protocols: choices are made inside the few labels, or on a larger validation set that the report names.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.augment import Augment
from auxtasks.data.pair_table import PairTable
from auxtasks.errors import TransferError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.cache import FeatureCache
from auxtasks.training.settings import LoopSettings
from auxtasks.training.tracking import ProgressBar
from transfer.arms import Arm, FeatureArm, Prediction, StartHead, TunedArm
from transfer.choices import Candidate, Validation, ranked_in_advance
from transfer.discriminants import base_layer
from transfer.finetune import Tuning
from transfer.items import Items, for_backbone, gather_items
from transfer.pair_arms import longer_arm
from transfer.pair_targets import check_pair_settings, pair_notes
from transfer.protocol import Draw, Protocol, plan_draws
from transfer.raw_arms import raw_arm
from transfer.report import TargetResults
from transfer.scores import check_metric
from transfer.spaces import Metric, Pretrained, Spaces, default_pools, feature_spaces
from transfer.tested import Tested, describe_protocol, resampled_unit

__all__ = ["DEFAULT_HEADS", "FewShot", "Outcome", "evaluate_target"]

HeadOptions = Mapping[str, str | int | float | bool]

DEFAULT_HEADS: tuple[tuple[str, HeadOptions], ...] = (
    ("prototype", {}),
    ("prototype", {"center": True}),
    ("ridge", {"alpha": 1.0, "scaling": "l2"}),
    ("logistic", {"C": 10.0, "scaling": "rms"}),
)


@dataclasses.dataclass(frozen=True)
class FewShot:
    """How targets are evaluated.

    Attributes:
        protocol: labels and tests.
        arms: which to run, of ``scratch``, ``untrained``, ``raw``, ``frozen``, ``finetuned`` and, for pairs of texts,
            ``longer``, which prefers the text with more characters.
        claim: the arm that the report speaks for, settled here, before any test.
        layers: layers that may be reused, with their pooling; None takes all, see `default_pools`.
        heads: names and options of the heads that may be put on them.
        metric: how discriminants are fitted on the pretraining data, as further spaces to choose from, or None.
        mirror: average features with the mirror image's; for pictures.
        tuning: of the arm ``finetuned``.
        scratch: of the arm ``scratch``; as many steps and learning rates as `tuning`.
        tuning_rates, scratch_rates: learning rates to choose from.
        augment: of the arms that train the network; for pictures, which None leaves as they are.
        loop: of the arms that train the network.
    """

    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    arms: tuple[str, ...] = ("scratch", "untrained", "raw", "frozen", "finetuned")
    claim: str = "frozen"
    layers: Mapping[str, Pool] | None = None
    heads: Sequence[tuple[str, HeadOptions]] = DEFAULT_HEADS
    metric: Metric | None = dataclasses.field(default_factory=Metric)
    mirror: bool = False
    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    scratch: Tuning = dataclasses.field(default_factory=Tuning)
    tuning_rates: tuple[float, ...] = (5e-4,)
    scratch_rates: tuple[float, ...] = (2e-3,)
    augment: Augment | None = None
    loop: LoopSettings | None = None

    def __post_init__(self) -> None:
        if self.claim not in self.arms:
            raise TransferError(f'the claimed arm "{self.claim}" is not among the arms {", ".join(self.arms)}.')
        if len(self.tuning_rates) != len(self.scratch_rates):
            raise TransferError(
                f"finetuned chooses among {len(self.tuning_rates)} learning rates and scratch among "
                f"{len(self.scratch_rates)}: give both the same search."
            )
        if self.tuning.steps != self.scratch.steps:
            raise TransferError(
                f"finetuned trains for {self.tuning.steps} steps, scratch for {self.scratch.steps}: give both the same."
            )
        if self.tuning.most_epochs != self.scratch.most_epochs:
            raise TransferError(
                f"finetuned has most_epochs={self.tuning.most_epochs}, scratch {self.scratch.most_epochs}: give both "
                "the same."
            )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was measured on one target, and what it takes to make the target model.

    Attributes:
        results: tables of scores for the report.
        spaces: features of the pretrained backbone that the heads were put on, of the items that labels are drawn from.
        ranked: shots to candidates in the order that held before any label was seen.
        pools: how each layer that may be reused becomes a vector.
        notes: for the reader of the report.
    """

    results: TargetResults
    spaces: Spaces
    ranked: Mapping[int, Sequence[Candidate]]
    pools: Mapping[str, Pool]
    notes: tuple[str, ...]


def evaluate_target(
    backbone: Backbone,
    table: Table,
    settings: FewShot,
    *,
    seed: int,
    name: str = "target",
    test: Table | None = None,
    validation: Table | None = None,
    metric: str = "accuracy",
    cache: FeatureCache | None = None,
    pretrained: Pretrained | None = None,
    beside: Mapping[str, Backbone] | None = None,
    open_test: Callable[[Mapping[str, object]], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Evaluate all arms on one target.

    Args:
        backbone: pretrained.
        table: all labelled pictures, texts, vectors or pairs of the target; labels are drawn from it and, without
            `test`, each draw is tested on what it leaves over, class by class.
        settings: see `FewShot`.
        seed: of the untrained and scratch networks, folds and training.
        name: of the target, for the progress bar.
        test: a fixed test set with the same class names, on which every draw is tested, item by item.
        validation: labelled items with the same class names, on which every arm's layer, head and learning rate are
            chosen: each candidate is fitted on the whole support, and the one with the best accuracy predicts the test.
            None chooses inside the support, which is another protocol: the report says which, and how many items.
        metric: one of `transfer.scores.METRICS`; others than accuracy need a fixed test set.
        cache: keeps frozen features.
        pretrained: items of the pretraining data, for discriminants and for the choices with one shot; None where they
            have no identities or classes, as texts of a corpus.
        beside: other pretrained backbones by name: each is one more arm, of heads on its frozen layers, chosen as those
            of ``frozen`` are, on the same labels.
        open_test: called once, after all choices and before the first test label is read, with what was settled.
        show_progress: False never draws a bar.

    Raises:
        TransferError: a class with too few items, a test or validation set with other classes, and other settings that
            do not fit the data.
        InputMismatchError: items that do not fit the backbone.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> settings = FewShot(Protocol(shots=(2,), draws=2), arms=("raw", "frozen"), metric=None)
        >>> network, table = mlp(width=4, hidden=[8]), encode_features(source)
        >>> found: Outcome = evaluate_target(network, table, settings, seed=0, show_progress=False)
        >>> sorted(found.results.arms), found.results.arms["raw"][2].shape
        (['frozen', 'raw'], (2, 150))
    """
    check_metric(metric, len(table.class_names), fixed_test=test is not None)
    if isinstance(table, PairTable):
        check_pair_settings(metric=metric, has_pretrained=pretrained is not None, augments=settings.augment is not None)
    items = gather_items(table, test, validation)
    shots = settings.protocol.shots
    draws = plan_draws(items.pool_labels, settings.protocol, table.class_names, test=items.test)
    builder = _ArmBuilder(backbone, items, settings, seed, cache or FeatureCache(), pretrained, beside or {})
    frozen = builder.heads_on(backbone)
    arms = builder.arms(frozen)
    with ProgressBar(f"few-shot {name}", len(draws) * len(shots) * len(arms), shown=show_progress) as bar:
        predictions = {arm: _predict_all(built, draws, shots, items, bar) for arm, built in arms.items()}
    depth = {
        place: _predict_all(built, draws, shots, items, None) for place, built in builder.depth_arms(frozen).items()
    }
    chosen = {shot: {"arm": settings.claim, "layer": _commonest(predictions[settings.claim][shot])} for shot in shots}
    if open_test:
        open_test({"target": name, "claim": settings.claim, "chosen": chosen, "arms": sorted(arms)})
    tested = Tested(draws, items, metric, resampled_unit(items, settings.protocol))
    results = TargetResults(
        arms={arm: tested.scores(found) for arm, found in predictions.items()},
        protocol=describe_protocol(settings.protocol, tested, frozen.ranked_by),
        chosen=chosen,
        depth={shot: {place: tested.scores(found)[shot] for place, found in depth.items()} for shot in shots},
        metric=metric,
        unit=tested.unit,
    )
    spaces = frozen.spaces
    pool = dataclasses.replace(spaces, target={place: of[: items.pool] for place, of in spaces.target.items()})
    of_pairs = pair_notes(name, fixed_test=test is not None) if isinstance(table, PairTable) else []
    notes = (*spaces.notes, *_training_notes(name, predictions, item_noun(table)), *of_pairs)
    return Outcome(results, pool, frozen.arm.ranked, builder.layers, notes)


@dataclasses.dataclass(frozen=True)
class _Heads:
    """Heads on a frozen backbone: its features, the arm that puts heads on them, and how these were ranked."""

    spaces: Spaces
    arm: FeatureArm
    ranked_by: str


@dataclasses.dataclass(frozen=True, eq=False)
class _ArmBuilder:
    """Makes the arms of one target, all with the same items, layers and settings."""

    backbone: Backbone
    items: Items
    settings: FewShot
    seed: int
    cache: FeatureCache
    pretrained: Pretrained | None
    beside: Mapping[str, Backbone]

    @functools.cached_property
    def layers(self) -> dict[str, Pool]:
        """Layers that may be reused, with their pooling."""
        return dict(self.settings.layers or default_pools(self.backbone))

    @functools.cached_property
    def untrained(self) -> Backbone:
        """The same network with random weights."""
        return self.backbone.untrained(self.seed + 1)

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.items.table.class_names)

    @property
    def of_pairs(self) -> bool:
        """Whether features are differences, on both orders of which heads are fitted."""
        return isinstance(self.items.table, PairTable)

    @property
    def validation(self) -> Validation | None:
        """What choices are made on, if not inside the support."""
        rows = self.items.validation
        return None if rows is None else Validation(rows, self.items.table.labels[rows])

    def heads_on(self, backbone: Backbone) -> _Heads:
        """Compute a backbone's features, and rank the heads on them before any label of the target is seen."""
        settings = self.settings
        spaces = feature_spaces(
            backbone,
            self.items.table,
            self.layers,
            self.cache,
            mirror=settings.mirror,
            pretrained=self.pretrained,
            metric=settings.metric,
        )
        ranked, how = _rank(spaces, settings, self.n_classes, self.seed, both_orders=self.of_pairs)
        return _Heads(spaces, FeatureArm(spaces.target, ranked, self.n_classes, self.seed, self.validation), how)

    def arms(self, frozen: _Heads) -> dict[str, Arm]:
        """Return the arms that are asked for.

        Raises:
            TransferError: there is no such arm.
        """
        settings = self.settings
        builders: dict[str, Callable[[], Arm]] = {
            "frozen": lambda: frozen.arm,
            "untrained": lambda: self.heads_on(self.untrained).arm,
            "raw": lambda: raw_arm(self.items.table, self.n_classes, self.seed, self.validation),
            "finetuned": lambda: self._tuned(frozen, self.backbone, settings.tuning, settings.tuning_rates),
            "scratch": lambda: self._tuned(frozen, self.untrained, settings.scratch, settings.scratch_rates),
            "longer": lambda: longer_arm(self.items.table),
        }
        if twice := sorted(self.beside.keys() & builders.keys()):
            raise TransferError(f"{', '.join(twice)}: the name of an arm; call the backbone beside otherwise.")
        unknown = sorted(set(settings.arms) - set(builders))
        if unknown:
            raise TransferError(f"no such arm: {', '.join(unknown)}. There are {', '.join(builders)}.")
        arms = {arm: builders[arm]() for arm in settings.arms}
        return arms | {name: self._heads_beside(other).arm for name, other in self.beside.items()}

    def _heads_beside(self, other: Backbone) -> _Heads:
        """Return heads on another backbone; where that has other layers, they are on all of them."""
        items = dataclasses.replace(self.items, table=for_backbone(other, self.items.table))
        pools = default_pools(other)
        layers = self.layers if self.layers.keys() <= pools.keys() else pools
        # Discriminants would be of this backbone's pretraining data: it has none of the other's.
        settings = dataclasses.replace(self.settings, layers=layers, metric=None)
        builder = _ArmBuilder(other, items, settings, self.seed, self.cache, None, {})
        return builder.heads_on(other)

    def _tuned(self, frozen: _Heads, start: Backbone, tuning: Tuning, rates: tuple[float, ...]) -> TunedArm:
        """Return an arm that trains a network; the pretrained one begins with a head that fits its features."""
        settings, ranked, spaces = self.settings, frozen.arm.ranked, frozen.spaces
        # It reads the layer that ranks first at the most shots: settled in advance, like the rest.
        space = ranked[max(ranked)][0].layer
        layer = base_layer(space)
        discriminants = spaces.discriminants.get(layer) if space != layer else None
        return TunedArm(
            backbone=start,
            layer=layer,
            pool=self.layers[layer],
            table=self.items.table,
            n_classes=self.n_classes,
            rates=rates,
            tuning=tuning,
            head=StartHead(spaces.target[space], discriminants, self.of_pairs) if start is self.backbone else None,
            mirror=settings.mirror,
            augment=settings.augment,
            loop=settings.loop,
            seed=self.seed,
            validation=self.validation,
        )

    def depth_arms(self, frozen: _Heads) -> dict[str, FeatureArm]:
        """Return an arm for each space: the head that ranks first on it, with nothing left to choose."""
        ranked = frozen.arm.ranked
        return {
            place: FeatureArm(
                {place: values}, {shot: [_best_of(ranked[shot], place)] for shot in ranked}, self.n_classes, self.seed
            )
            for place, values in frozen.spaces.target.items()
        }


def _rank(
    spaces: Spaces, settings: FewShot, n_classes: int, seed: int, *, both_orders: bool
) -> tuple[dict[int, list[Candidate]], str]:
    """Order layers and heads for each number of shots before any label of the target is seen; say how."""
    candidates = [
        Candidate(place, head, options, both_orders)
        for place in reversed(list(spaces.target))
        for head, options in settings.heads
    ]
    ranked, how = {}, {}
    for shot in settings.protocol.shots:
        ranked[shot], how[shot] = ranked_in_advance(spaces.proxy, candidates, shots=shot, classes=n_classes, seed=seed)
    return ranked, how[min(how)]


def _predict_all(
    arm: Arm, draws: Sequence[Draw], shots: Sequence[int], items: Items, bar: ProgressBar | None
) -> dict[int, list[Prediction]]:
    labels = items.table.labels
    found: dict[int, list[Prediction]] = {shot: [] for shot in shots}
    for draw in draws:
        for shot in shots:
            support = draw.support[shot]
            found[shot].append(arm.predict(support, labels[support], draw.test, shot=shot, draw=draw.number))
            if bar:
                bar.advance()
    return found


def _best_of(ranked: Sequence[Candidate], layer: str) -> Candidate:
    return next(candidate for candidate in ranked if candidate.layer == layer)


def _commonest(predictions: Sequence[Prediction]) -> str | None:
    layers = [found.layer for found in predictions]
    return max(dict.fromkeys(layers), key=layers.count)


def _training_notes(name: str, predictions: Mapping[str, Mapping[int, Sequence[Prediction]]], noun: str) -> list[str]:
    """Say how well the trained arms fit their own labels: a baseline that does not is no baseline."""
    notes = []
    for arm, by_shot in predictions.items():
        for shot, found in by_shot.items():
            fits = [one.training_accuracy for one in found if one.training_accuracy is not None]
            if fits:
                doubt = "" if np.mean(fits) >= 0.9 else ": train it longer before trusting it as a baseline"
                notes.append(f"{name}: {arm} fits {np.mean(fits):.0%} of its training {noun} at {shot} a class{doubt}.")
    return notes
