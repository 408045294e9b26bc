"""The few-shot evaluation: all arms on the same labels, tested once, compared in pairs.

Everything that is chosen is chosen, and everything that is trained is trained, before the first test label is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.augment import Augment
from auxtasks.errors import TransferError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.cache import FeatureCache
from auxtasks.training.settings import LoopSettings
from auxtasks.training.tracking import ProgressBar
from transfer.arms import Arm, FeatureArm, Prediction, StartHead, TunedArm
from transfer.choices import Candidate, ranked_in_advance
from transfer.discriminants import base_layer
from transfer.finetune import Tuning
from transfer.items import Items, gather_items
from transfer.protocol import Draw, Protocol, class_accuracies, plan_draws
from transfer.raw_arms import raw_arm
from transfer.report import TargetResults
from transfer.scores import check_metric, item_scores
from transfer.spaces import Metric, Pretrained, Spaces, default_pools, feature_spaces

__all__ = ["DEFAULT_HEADS", "FewShot", "Outcome", "evaluate_target"]

Matrix = NDArray[np.float64]

FEWEST_SAMPLED_CLASSES = 10  # people are a sample of people; positive and negative are a sample of nothing

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
        arms: which to run.
        claim: the arm that the report speaks for, settled here, before any test.
        layers: layers that may be reused, with their pooling; None takes all, see `default_pools`.
        heads: names and options of the heads that may be put on them.
        metric: how discriminants are fitted on the pretraining data, as further spaces to choose from, or None.
        mirror: average features with the mirror image's; for pictures.
        tuning: of the arm ``finetuned``.
        scratch: of the arm ``scratch``; as many steps and learning rates as `tuning`.
        tuning_rates, scratch_rates: learning rates to choose from.
        augment: of the arms that train the network; for pictures.
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was measured on one target, and what it takes to make the target model.

    Attributes:
        results: tables of scores for the report.
        spaces: features of the pretrained backbone that the heads were put on, of the items that labels are drawn from.
        ranked: shots to candidates in the order that held before any label was seen.
        notes: for the reader of the report.
    """

    results: TargetResults
    spaces: Spaces
    ranked: Mapping[int, Sequence[Candidate]]
    notes: tuple[str, ...]


def evaluate_target(
    backbone: Backbone,
    table: Table,
    settings: FewShot,
    *,
    seed: int,
    name: str = "target",
    test: Table | None = None,
    metric: str = "accuracy",
    cache: FeatureCache | None = None,
    pretrained: Pretrained | None = None,
    open_test: Callable[[Mapping[str, object]], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Evaluate all arms on one target.

    Args:
        backbone: pretrained.
        table: all labelled pictures or texts of the target; labels are drawn from it and, without `test`, each draw is
            tested on what it leaves over, class by class.
        settings: see `FewShot`.
        seed: of the untrained and scratch networks, folds and training.
        name: of the target, for the progress bar.
        test: a fixed test set with the same class names, on which every draw is tested, item by item.
        metric: one of `transfer.scores.METRICS`; others than accuracy need a fixed test set.
        cache: keeps frozen features.
        pretrained: items of the pretraining data, for discriminants and for the choices with one shot; None where they
            have no identities or classes, as texts of a corpus.
        open_test: called once, after all choices and before the first test label is read, with what was settled.
        show_progress: False never draws a bar.

    Raises:
        TransferError: a class with too few items, a test set with other classes, and other settings that do not fit
            the data.
        InputMismatchError: items that do not fit the backbone.
    """
    n_classes = len(table.class_names)
    check_metric(metric, n_classes, fixed_test=test is not None)
    items = gather_items(table, test)
    draws = plan_draws(items.pool_labels, settings.protocol, table.class_names, test=items.test)
    table = items.table
    unit = _unit(items, settings.protocol, n_classes)
    layers = dict(settings.layers or default_pools(backbone))
    kept = cache or FeatureCache()

    def frozen_arm(of: Backbone) -> tuple[Spaces, FeatureArm, str]:
        spaces = feature_spaces(
            of, table, layers, kept, mirror=settings.mirror, pretrained=pretrained, metric=settings.metric
        )
        ranked, how = _rank(spaces, settings, n_classes, seed)
        return spaces, FeatureArm(spaces.target, ranked, n_classes, seed), how

    spaces, frozen, how = frozen_arm(backbone)
    untrained = backbone.untrained(seed + 1)
    # The trained networks read the layer that ranks first at the most shots: settled in advance, like the rest.
    space = frozen.ranked[max(frozen.ranked)][0].layer
    layer = base_layer(space)

    def tuned_arm(start: Backbone, tuning: Tuning, rates: tuple[float, ...], head: StartHead | None) -> TunedArm:
        return TunedArm(
            start, layer, layers[layer], table, n_classes, rates, tuning, head, settings.mirror, settings.augment,
            settings.loop, seed,
        )  # fmt: skip

    builders: dict[str, Callable[[], Arm]] = {
        "frozen": lambda: frozen,
        "untrained": lambda: frozen_arm(untrained)[1],
        "raw": lambda: raw_arm(table, n_classes, seed),
        "finetuned": lambda: tuned_arm(
            backbone,
            settings.tuning,
            settings.tuning_rates,
            StartHead(spaces.target[space], spaces.discriminants.get(layer) if space != layer else None),
        ),
        "scratch": lambda: tuned_arm(untrained, settings.scratch, settings.scratch_rates, None),
    }
    unknown = sorted(set(settings.arms) - set(builders))
    if unknown:
        raise TransferError(f"no such arm: {', '.join(unknown)}. There are {', '.join(builders)}.")
    arms = {arm: builders[arm]() for arm in settings.arms}
    depth_arms = {
        place: FeatureArm(
            {place: values}, {shot: [_best_of(frozen.ranked[shot], place)] for shot in frozen.ranked}, n_classes, seed
        )
        for place, values in spaces.target.items()
    }
    total = len(draws) * len(settings.protocol.shots) * len(arms)
    with ProgressBar(f"few-shot {name}", total, shown=show_progress) as bar:
        predictions = {
            arm: _predict_all(built, draws, settings.protocol.shots, table.labels, bar) for arm, built in arms.items()
        }
    depth = {
        place: _predict_all(built, draws, settings.protocol.shots, table.labels, None)
        for place, built in depth_arms.items()
    }
    chosen = {
        shot: {"arm": settings.claim, "layer": _commonest(predictions[settings.claim][shot])}
        for shot in settings.protocol.shots
    }
    if open_test:
        open_test({"target": name, "claim": settings.claim, "chosen": chosen, "arms": sorted(arms)})

    def scores(of: Mapping[int, Sequence[Prediction]]) -> dict[int, Matrix]:
        return {shot: _score(found, draws, items, metric, n_classes, unit) for shot, found in of.items()}

    results = TargetResults(
        arms={arm: scores(predictions[arm]) for arm in settings.arms if arm in predictions},
        protocol={
            "shots": list(settings.protocol.shots),
            "draws": settings.protocol.draws,
            "classes": n_classes,
            "train_pool": len(table) - len(draws[0].test),
            "validation_labels": 0,
            "test_items": len(draws[0].test),
            "resampling": _describe_resampling(items, metric, n_classes, unit),
            "choices": _describe_choices(settings.protocol.shots, how, metric),
        },
        chosen=chosen,
        depth={shot: {place: scores(depth[place])[shot] for place in depth} for shot in settings.protocol.shots},
        metric=metric,
        unit=unit,
    )
    pool = dataclasses.replace(spaces, target={place: of[: items.pool] for place, of in spaces.target.items()})
    notes = (*spaces.notes, *_training_notes(name, predictions, item_noun(table)))
    return Outcome(results, pool, frozen.ranked, notes)


def _rank(spaces: Spaces, settings: FewShot, n_classes: int, seed: int) -> tuple[dict[int, list[Candidate]], str]:
    """Order layers and heads for each number of shots before any label of the target is seen; say how."""
    candidates = [
        Candidate(place, head, options) for place in reversed(list(spaces.target)) for head, options in settings.heads
    ]
    ranked, how = {}, {}
    for shot in settings.protocol.shots:
        ranked[shot], how[shot] = ranked_in_advance(spaces.proxy, candidates, shots=shot, classes=n_classes, seed=seed)
    return ranked, how[min(how)]


def _predict_all(
    arm: Arm, draws: Sequence[Draw], shots: Sequence[int], labels: NDArray[np.int64], bar: ProgressBar | None
) -> dict[int, list[Prediction]]:
    found: dict[int, list[Prediction]] = {shot: [] for shot in shots}
    for draw in draws:
        for shot in shots:
            support = draw.support[shot]
            found[shot].append(arm.predict(support, labels[support], draw.test, shot=shot, draw=draw.number))
            if bar:
                bar.advance()
    return found


def _score(
    predictions: Sequence[Prediction], draws: Sequence[Draw], items: Items, metric: str, n_classes: int, unit: str
) -> Matrix:
    """Return scores by draw and unit: (draws, C) classes, (draws, M) items of a fixed test set, or (draws, N) items.

    Of the last, NaN are those that a draw does not test on: they are its labels, or not drawn at all.
    """
    labels = items.table.labels
    pairs = [(found.classes, labels[draw.test]) for found, draw in zip(predictions, draws, strict=True)]
    if unit == "class":
        return np.stack([class_accuracies(*pair, n_classes) for pair in pairs])
    scores = [item_scores(metric, *pair) for pair in pairs]
    if items.test is not None:
        return np.stack(scores)
    table = np.full((len(draws), len(labels)), np.nan)
    for row, draw, found in zip(table, draws, scores, strict=True):
        row[draw.test] = found
    return table


def _unit(items: Items, protocol: Protocol, n_classes: int) -> str:
    """Return what is resampled beside the draws; see `Protocol.unit`."""
    if items.test is not None:
        return "item"
    if protocol.unit == "auto":
        return "class" if n_classes >= FEWEST_SAMPLED_CLASSES else "item"
    return protocol.unit


def _describe_resampling(items: Items, metric: str, n_classes: int, unit: str) -> str:
    if unit == "class":
        return (
            "label draws (each with the items it leaves over as its test) and classes, both with replacement "
            "(pigeonhole bootstrap, Owen 2007)"
        )
    if items.test is None:
        return (
            "label draws and items (each draw tests on those that it leaves over), both with replacement (pigeonhole "
            f"bootstrap, Owen 2007); the {n_classes} classes are taken as they are"
        )
    linear = "" if metric == "accuracy" else "; the metric linearised in the items' weights (infinitesimal jackknife)"
    return f"label draws and test items, both with replacement (pigeonhole bootstrap, Owen 2007{linear})"


def _describe_choices(shots: Sequence[int], how: str, metric: str) -> str:
    # A support has the same number of each class, so its accuracy is no worse a guide than a correlation.
    by = "" if metric == "accuracy" else ", by accuracy: the support is balanced"
    inside = f"cross-validation in the support{by}"
    return f"at 1 a class: {how}; from 2 on: {inside}" if shots[0] == 1 else f"{inside}; ties by {how}"


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
