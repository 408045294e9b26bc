"""Depth search: at which layer to cut a pretrained network, and whether to freeze or to fine-tune what is kept.

Chosen on labels that no test knows: by repeated stratified cross-validation inside the labels, or on a named validation
set. The features of all layers come from one pass over the data, however many layers there are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.augment import Augment
from auxtasks.data.pair_table import PairTable
from auxtasks.errors import TransferError, did_you_mean
from auxtasks.features.batches import Table
from auxtasks.features.cache import FeatureCache
from auxtasks.training.settings import LoopSettings
from auxtasks.training.tracking import ProgressBar
from transfer.arms import StartHead, TunedArm
from transfer.choices import Candidate
from transfer.depth_curve import DepthPoint, Scored, best_cut, join_draws, one_standard_error, point_of
from transfer.depth_fits import Cut, Fits, Mode, Setting
from transfer.depth_protocol import DepthProtocol, plan_depth
from transfer.fewshot import HeadOptions
from transfer.finetune import Tuning
from transfer.items import gather_items
from transfer.scores import check_metric
from transfer.spaces import default_pools
from transfer.statistics import Estimate, interval

__all__ = ["DEPTH_HEADS", "DepthSearch", "DepthTest", "search_depth"]

# In closed form, so that all draws and folds of a layer are a few batches of linear algebra. A logistic regression may
# be named, and costs many times the pass over the data.
DEPTH_HEADS: tuple[tuple[str, HeadOptions], ...] = (
    ("prototype", {}),
    ("prototype", {"center": True}),
    ("ridge", {"alpha": 1.0, "scaling": "l2"}),
)


@dataclasses.dataclass(frozen=True)
class DepthTest:
    """What the test set says, after everything was chosen.

    Attributes:
        chosen: of the claim: every draw is tested with the cut and head that it chose for itself.
        curve: of all cuts, each with the head that was chosen on it. To look at, not to choose by: the best of them is
            the best of many on the test.
        metric: what was scored.
        items: how many test items a draw has.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> iris, network = encode_features(source), mlp(width=4, hidden=[8, 8])
        >>> found = search_depth(network, iris, shots=5, draws=2, modes=["frozen"], heads=[("ridge", {})])
        >>> tested: DepthTest = found.test()
        >>> tested.metric, tested.items, len(tested.chosen.values)
        ('accuracy', 135, 2)
    """

    chosen: Estimate
    curve: Mapping[Mode, Mapping[str, Estimate]]
    metric: str
    items: int


@dataclasses.dataclass(eq=False)
class DepthSearch:
    """A curve over layers, a choice, and what it takes to test it.

    Attributes:
        curve: mode to layer to its validation score, layers from the input up. With several heads it is that of the
            best of them, and so a little too high.
        chosen: the cut with the best mean; among equals the frozen and lower one, which costs less.
        choices: what each draw chose, by its own labels alone.
        chosen_by: how, in words, with the number of labels that were held out for it.
        remark: which other cuts are within one standard error of the best.
        pools: layer to its pooling.
        protocol: labels and tests.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> iris, network = encode_features(source), mlp(width=4, hidden=[8, 8])
        >>> found: DepthSearch = search_depth(network, iris, shots=5, draws=2, modes=["frozen"], heads=[("ridge", {})])
        >>> list(found.curve["frozen"]), len(found.choices), str(found.chosen)
        (['hidden1', 'hidden2'], 2, 'hidden1, frozen')
    """

    curve: Mapping[Mode, Mapping[str, DepthPoint]]
    chosen: Cut
    choices: tuple[Cut, ...]
    chosen_by: str
    remark: str
    pools: Mapping[str, Pool]
    protocol: DepthProtocol
    _make_test: Callable[[], DepthTest] = dataclasses.field(repr=False)
    _tested: DepthTest | None = dataclasses.field(default=None, init=False, repr=False)

    def test(self, open_test: Callable[[Mapping[str, object]], None] | None = None) -> DepthTest:
        """Open the test for what was chosen, and show all other cuts beside it; a second call opens nothing.

        Args:
            open_test: called before the first test label is read, with what was settled.

        Raises:
            TransferError: all labels were given to the search, and there is no test set.
        """
        if not self.protocol.test_items:
            raise TransferError(
                f"there is nothing to test on: the search has used all {self.protocol.labels} labels. Pass a test set, "
                "or take fewer labels a class (shots), so that each draw leaves items over."
            )
        if self._tested is None:
            if open_test:
                open_test({"chosen": dataclasses.asdict(self.chosen), "choices": [str(cut) for cut in self.choices]})
            self._tested = self._make_test()
        return self._tested


def search_depth(
    backbone: Backbone,
    table: Table,
    *,
    shots: int | None = None,
    draws: int = 1,
    modes: Sequence[Mode] = ("frozen", "finetuned"),
    layers: Mapping[str, Pool] | None = None,
    heads: Sequence[tuple[str, HeadOptions]] = DEPTH_HEADS,
    folds: int = 5,
    repeats: int = 1,
    validation: Table | None = None,
    test: Table | None = None,
    metric: str = "accuracy",
    mirror: bool = False,
    tuning: Tuning | None = None,
    augment: Augment | None = None,
    loop: LoopSettings | None = None,
    cache: FeatureCache | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> DepthSearch:
    """Score every layer that a network may be cut at, frozen and fine-tuned, and choose.

    Every draw chooses for itself, by its own labels; what `DepthSearch.test` then tests is that. Choices are made by
    accuracy, whatever the metric of the test.

    Args:
        backbone: pretrained; it stays as it is.
        table: labelled pictures, texts, vectors or pairs; labels are drawn from it and, without `test`, each draw is
            tested on what it leaves over.
        shots: labels a class of a draw; None takes all labels there are, once.
        draws: how many times labels are drawn.
        modes: which to try: ``"frozen"`` costs one pass over the data for all layers, ``"finetuned"`` a training for
            each layer, draw and fold.
        layers: layers with their pooling; None takes all, see `default_pools`.
        heads: names and options of the heads for frozen layers; each layer is scored with the best of them.
        folds, repeats: of the stratified cross-validation inside a draw's labels; no more folds than a class has
            labels. Not used with `validation`.
        validation: a named set with the same classes to choose on: its labels are spent on the choice alone.
        test: a fixed test set with the same classes. None of its labels is read before `DepthSearch.test`.
        metric: of the test, one of `transfer.scores.METRICS`; others than accuracy need `test`.
        mirror: average features with the mirror image's; for pictures.
        tuning, augment, loop: of the fine-tuned networks, see `fine_tune`; all begin with a logistic head on the frozen
            features.
        cache: keeps the features.
        seed: of draws, folds and training.
        show_progress: draw a bar where it takes long.

    Raises:
        TransferError: one label a class and no validation set, too few items of a class, an unknown mode or head, or
            sets that do not fit each other.
        LayerError: an unknown layer.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import decode_images, load_source
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"},
        ...                     options={"people": 3, "photos": 6, "size": 32})
        >>> found = search_depth(convnet(size=32), decode_images(faces, size=(32, 32), channels=1), shots=3, draws=2,
        ...                      modes=["frozen"], heads=[("prototype", {})])
        >>> sorted(found.curve["frozen"]) == sorted(convnet(size=32).layer_names), found.chosen.layer in found.pools
        (True, True)
        >>> found.test().items
        9
    """
    check_metric(metric, len(table.class_names), fixed_test=test is not None)
    pools = _checked_layers(backbone, layers)
    items = gather_items(table, test, validation)
    protocol = plan_depth(items, shots=shots, draws=draws, folds=folds, repeats=repeats, metric=metric, seed=seed)
    settings = _settings(pools, _checked_modes(modes), heads, both_orders=isinstance(table, PairTable))
    features = (cache or FeatureCache()).features(backbone, items.table, pools, mirror=mirror)

    @functools.cache
    def make_arm(layer: str) -> TunedArm:
        return TunedArm(
            backbone=backbone,
            layer=layer,
            pool=pools[layer],
            table=items.table,
            n_classes=len(table.class_names),
            rates=((tuning or Tuning()).learning_rate,),
            tuning=tuning or Tuning(),
            head=StartHead(features[layer], both_orders=isinstance(table, PairTable)),
            mirror=mirror,
            augment=augment,
            loop=loop,
            seed=seed,
        )

    fits = Fits(features, items.table.labels, len(table.class_names), make_arm)
    trainings = sum(setting.cut.mode == "finetuned" for setting in settings) * len(protocol.fits)
    with ProgressBar("depth search", trainings, shown=show_progress and trainings > 0) as bar:
        answers = {setting: fits.predict(setting, protocol.fits, done=bar.advance) for setting in settings}
    return _chosen(answers, protocol, pools, fits, seed=seed)


def _checked_layers(backbone: Backbone, layers: Mapping[str, Pool] | None) -> dict[str, Pool]:
    """Return layers from the input up, with their pooling."""
    if layers is None:
        return default_pools(backbone)
    if not layers:
        raise TransferError("no layers to choose from: name some, or None for all.")
    return {name: layers[name] for name in sorted(layers, key=backbone.position)}


def _checked_modes(modes: Sequence[Mode]) -> list[Mode]:
    """Return the modes, the one that costs less first."""
    known = get_args(Mode)
    for mode in modes:
        if mode not in known:
            raise TransferError(f'no such mode: "{mode}".{did_you_mean(mode, known)} There are {", ".join(known)}.')
    if not modes:
        raise TransferError(f"no mode is asked for. There are {', '.join(known)}.")
    return [mode for mode in known if mode in modes]


def _settings(
    pools: Mapping[str, Pool], modes: Sequence[Mode], heads: Sequence[tuple[str, HeadOptions]], *, both_orders: bool
) -> list[Setting]:
    """Return what is tried, the cheapest first: frozen before fine-tuned, lower layers before higher ones."""
    if "frozen" in modes and not heads:
        raise TransferError("no heads for the frozen layers: name at least one.")
    settings = []
    for mode in modes:
        for layer in pools:
            cut = Cut(layer, mode)
            if mode == "finetuned":
                settings.append(Setting(cut, "linear"))
                continue
            settings += [
                Setting(cut, _words(name, options), Candidate(layer, name, options, both_orders))
                for name, options in heads
            ]
    return settings


def _words(head: str, options: HeadOptions) -> str:
    """Return "ridge(alpha=1.0)".

    Example:
        >>> _words("ridge", {"alpha": 1.0}), _words("prototype", {})
        ('ridge(alpha=1.0)', 'prototype')
    """
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{head}({given})" if given else head


def _chosen(
    answers: Mapping[Setting, Sequence[NDArray[np.int64]]],
    protocol: DepthProtocol,
    pools: Mapping[str, Pool],
    fits: Fits,
    *,
    seed: int,
) -> DepthSearch:
    """Let each draw choose a head for every cut, and one of the cuts."""
    scored = {setting: protocol.held_out(found) for setting, found in answers.items()}
    of_cut: dict[Cut, list[Setting]] = {}
    for setting in answers:
        of_cut.setdefault(setting.cut, []).append(setting)
    draws = range(len(protocol.draws))
    best = {cut: [_best_head(settings, scored, draw) for draw in draws] for cut, settings in of_cut.items()}
    joined = {cut: join_draws([scored[setting] for setting in settings]) for cut, settings in best.items()}
    points = {
        cut: point_of(joined[cut], _commonest([setting.head for setting in best[cut]]), seed=seed) for cut in best
    }
    choices = tuple(best_cut({cut: float(joined[cut].values[draw]) for cut in best}) for draw in draws)
    curve: dict[Mode, dict[str, DepthPoint]] = {}
    for cut, point in points.items():
        curve.setdefault(cut.mode, {})[cut.layer] = point

    def make_test() -> DepthTest:
        return _test(protocol, fits, answers, best, choices, seed=seed)

    return DepthSearch(
        curve=curve,
        chosen=best_cut({cut: point.mean for cut, point in points.items()}),
        choices=choices,
        chosen_by=protocol.chosen_by,
        remark=one_standard_error(points),
        pools=pools,
        protocol=protocol,
        _make_test=make_test,
    )


def _best_head(settings: Sequence[Setting], scored: Mapping[Setting, Scored], draw: int) -> Setting:
    """Return what a draw's own labels say is best, among equals the first."""
    return max(settings, key=lambda setting: float(scored[setting].values[draw]))


def _test(
    protocol: DepthProtocol,
    fits: Fits,
    answers: Mapping[Setting, Sequence[NDArray[np.int64]]],
    best: Mapping[Cut, Sequence[Setting]],
    choices: Sequence[Cut],
    *,
    seed: int,
) -> DepthTest:
    """Make the last fits, on all labels of each draw, and only then read the test's labels."""

    def answer(setting: Setting, draw: int) -> NDArray[np.int64]:
        known = protocol.test_answers(answers[setting])
        return known[draw] if known is not None else fits.predict(setting, [protocol.test_fits[draw]])[0]

    found = {cut: [answer(setting, draw) for draw, setting in enumerate(settings)] for cut, settings in best.items()}
    low = 0.0 if protocol.metric == "accuracy" else -1.0

    def estimate(given: Sequence[NDArray[np.int64]]) -> Estimate:
        return interval(protocol.tested(given), seed=seed, limits=(low, 1.0))

    curve: dict[Mode, dict[str, Estimate]] = {}
    for cut, given in found.items():
        curve.setdefault(cut.mode, {})[cut.layer] = estimate(given)
    claimed = estimate([found[cut][draw] for draw, cut in enumerate(choices)])
    return DepthTest(claimed, curve, protocol.metric, protocol.test_items)


def _commonest(names: Sequence[str]) -> str:
    return max(dict.fromkeys(names), key=names.count)
