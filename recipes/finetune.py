"""Fine-tuning a run's backbone in stages on all labels of one target, in one process or several; tested once."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from auxtasks.backbones import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.checkpoint import write_text_atomically
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.errors import TransferError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.cache import FeatureCache
from auxtasks.features.extract import extract, feature_widths
from auxtasks.training.memory import own_peak_memory
from auxtasks.training.processes import join_processes
from auxtasks.training.together import all_or_none, first_process_first
from recipes import build
from recipes.cache import feature_cache
from recipes.folder import RunFolder
from recipes.launch import launch, leave_group
from recipes.result_files import FineTuned, read_result
from recipes.reused_run import at_length, named_target, reused_recipe
from recipes.run import read_pretraining
from recipes.schema import Recipe, Target
from recipes.targets import load_target
from transfer.arms import StartHead
from transfer.both_orders import scoring_weight
from transfer.choices import Candidate, cross_validated
from transfer.fewshot import FewShot
from transfer.finetune import Tuned, fine_tune
from transfer.freezing import Stage, trained_layers
from transfer.items import Items, gather_items
from transfer.kept_feed import kept_bytes
from transfer.model import TargetModel
from transfer.scorer import Scorer
from transfer.scores import check_metric, item_scores
from transfer.spaces import default_pools
from transfer.statistics import interval

__all__ = ["finetune_run"]

CHOOSE_ON = 5000  # labels that a layer is chosen on by cross-validation: more would choose no better


def finetune_run(
    run: Path,
    overrides: Sequence[str],
    target: str,
    out: Path,
    *,
    layer: str | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Fine-tune a run's backbone in stages on all labels of a target; save and test the target model.

    What is chosen is chosen on the target's validation set if it has one: the layer that the head reads, by a head on
    frozen features, and the learning rate, each trained once. Without one the layer is chosen by cross-validation
    inside the labels, and the first learning rate is taken. The test set, if there is one, is opened once, after that.
    A folder that holds the result already is read; one of a stopped run is gone on with.

    Args:
        run: a run folder with a backbone.
        overrides: ``key.sub=value`` of transfer or targets, such as ``transfer.tuning.stages={unfreeze: 3, ...}``.
        target: its name in the recipe.
        out: folder for the target model and all that led to it; not the run's own.
        layer: that the head reads; None chooses.
        processes: of this machine; under ``torchrun`` each process calls this with 1.

    Returns:
        What ``finetuned/TARGET.json`` in `out` holds.

    Raises:
        RecipeError: overrides that do not fit.
        TransferError: no such target, `out` is the run itself, or holds the result of another layer.
        AuxtasksError: data that does not fit, a leak, training that diverges.
    """
    recipe = reused_recipe(run, overrides)
    named_target(recipe, target, run, out)
    folder = RunFolder(out)
    join_processes(recipe.training.device)
    with folder.only_run(together=True):
        if processes > 1:
            folder.claim(recipe)
            if not _result(folder, target).is_file():
                _launch(run, overrides, target, out, layer, processes)
        else:
            _in_this_process(recipe, run, folder, target, layer)
    remedy = "Remove it and run the same again, which goes on from the checkpoint."
    found = read_result(_result(folder, target), FineTuned, remedy)
    if layer not in (None, found["layer"]):
        raise TransferError(
            f"{out} holds the result of a head on {found['layer']}, not on {layer}: choose another folder."
        )
    return found


def _result(folder: RunFolder, target: str) -> Path:
    return folder.place / "finetuned" / f"{target}.json"


def _launch(run: Path, overrides: Sequence[str], target: str, out: Path, layer: str | None, processes: int) -> None:
    """Do it in N processes of this machine."""
    chosen = () if layer is None else ("--layer", layer)
    launch(["finetune", str(run), *overrides, "--target", target, "--out", str(out), *chosen], processes, "fine-tuning")


def _in_this_process(recipe: Recipe, run: Path, folder: RunFolder, name: str, layer: str | None) -> None:
    """Do this process's part; the first one writes."""
    is_first = PartialState().is_main_process
    with all_or_none():
        if is_first:
            folder.claim(recipe)
    if not _result(folder, name).is_file():
        with first_process_first():  # which reads and decodes: the others find the result
            work = _Work.read(recipe, run, folder, name, layer)
        found = work.train()
        with all_or_none():
            if is_first:
                work.finish(found)
    leave_group()


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """One target with all that fine-tuning it takes.

    Attributes:
        recipe: with overrides.
        folder: of the result.
        name, target: of the recipe.
        backbone: to begin with.
        items: labelled items and, where there are such, those of test and validation.
        settings: of the recipe's transfer section.
        layer: that the head reads, settled in advance; None is chosen.
        notes: for the reader.
    """

    recipe: Recipe
    folder: RunFolder
    name: str
    target: Target
    backbone: Backbone
    items: Items
    settings: FewShot
    layer: str | None
    notes: list[str]

    @classmethod
    def read(cls, recipe: Recipe, run: Path, folder: RunFolder, name: str, layer: str | None) -> _Work:
        """Load backbone and target, and look for leaks."""
        target = recipe.targets[name]
        backbone = Backbone.from_pretrained(RunFolder(run).backbone())
        data = read_pretraining(recipe, backbone)
        backbone = at_length(recipe, backbone)
        if layer is not None:
            backbone.position(layer)  # refuses a wrong name before the data is read
        settings = build.make_few_shot(recipe, backbone, target)
        for stage in settings.tuning.stages:
            trained_layers(backbone, layer or backbone.layer_names[-1], stage)
        loaded = load_target(recipe, name, target, backbone).with_set_aside(target.validation_items, recipe.seed, name)
        check_metric(target.metric, len(loaded.table.class_names), fixed_test=loaded.test is not None)
        notes = [*loaded.notes, *data.leaks(name, target, loaded)]
        items = gather_items(loaded.table, loaded.test, loaded.validation)
        return cls(recipe, folder, name, target, backbone, items, settings, layer, notes)

    @functools.cached_property
    def table(self) -> Table:
        """All labelled items that are trained on."""
        return self.items.table.subset(np.arange(self.items.pool))

    @functools.cached_property
    def cache(self) -> FeatureCache:
        """Where features and what crosses cuts are kept."""
        return feature_cache()

    def train(self) -> _Found:
        """Choose, and train; every process comes to the same, by the choices of the first."""
        began = time.perf_counter()
        pools = dict(self.settings.layers or default_pools(self.backbone))
        if self.layer is not None:
            pools = {self.layer: pools.get(self.layer) or default_pools(self.backbone)[self.layer]}
        feature_widths(self.backbone, pools)  # refuses a wrong layer or pooling
        features = self.cache.features(self.backbone, self.items.table, pools, mirror=self.settings.mirror)
        layer: str = _of_the_first(self._choose_layer(features))
        start = self._head(features[layer]).fit(np.arange(self.items.pool), self.table.labels, self.n_classes)
        tried: dict[float, float | None] = {}
        best: tuple[float, Tuned] | None = None
        rates = self.settings.tuning_rates if self.items.validation is not None else self.settings.tuning_rates[:1]
        cache = self._kept(layer)
        for rate in rates:
            tuned = self._tune(layer, pools[layer], start, rate, cache)
            tried[rate] = _of_the_first(self._accuracy(tuned, layer, pools[layer], self.items.validation))
            # The first of equals stays, and there is never a third network in memory.
            if best is None or (tried[rate] or 0.0) > (tried[best[0]] or 0.0):
                best = rate, tuned
        assert best is not None  # a recipe has at least one learning rate
        return _Found(layer, pools[layer], best[0], tried, best[1], time.perf_counter() - began)

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.items.table.class_names)

    @property
    def of_pairs(self) -> bool:
        """Whether the items are pairs."""
        return isinstance(self.items.table, PairTable)

    def _head(self, features: NDArray[np.float32]) -> StartHead:
        return StartHead(features, both_orders=self.of_pairs)

    def _choose_layer(self, features: Mapping[str, NDArray[np.float32]]) -> str:
        """Choose which layer the head reads by heads on frozen features; among equals the highest."""
        layers = list(features)[::-1]
        rows, labels = self.items.validation, self.table.labels
        if len(layers) == 1:
            return layers[0]
        if rows is not None:
            scores = []
            for layer in layers:
                weight, bias = self._head(features[layer]).fit(np.arange(self.items.pool), labels, self.n_classes)
                outputs = features[layer][rows] @ weight.numpy().T + bias.numpy()
                scores.append(float(np.mean(outputs.argmax(axis=1) == self.items.table.labels[rows])))
            return layers[int(np.argmax(scores))]
        if np.bincount(labels, minlength=self.n_classes).min() < 2:
            return layers[0]  # nothing can be held out
        some = _some_of_each(labels, CHOOSE_ON, self.recipe.seed)
        candidates = [Candidate(layer, "logistic", {"C": 1.0, "scaling": "rms"}, self.of_pairs) for layer in layers]
        inside = {layer: features[layer][some] for layer in layers}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough to choose by
            return cross_validated(inside, labels[some], candidates, self.recipe.seed).layer

    def _kept(self, layer: str) -> FeatureCache | None:
        """Return where stages keep what the part below them gives; None if it is not asked for and cannot be kept."""
        views, augments = self.recipe.transfer.tuning.keep_views, self.settings.augment is not None
        if views is None and (augments or not self.backbone.can_be_cut):
            return None
        stages = self.settings.tuning.stages
        needed = kept_bytes(self.backbone, layer, self.table, stages, augments=augments, views=views or 1)
        if needed and PartialState().is_main_process:
            print(f"{self.name}: {needed / 1e6:,.1f} MB of what crosses a cut", file=sys.stderr)
        if views is None and not _of_the_first(self.cache.could_hold(needed)):
            self.notes.append(
                f"What the frozen part gives would take {needed / 1e6:,.0f} MB, more than the cache may or can hold: "
                "it was computed anew in every step. AUXTASKS_CACHE_GB raises the limit."
            )
            return None
        return self.cache

    def _tune(self, layer: str, pool: Pool, start: Any, rate: float, cache: FeatureCache | None) -> Tuned:
        settings, views = self.settings, self.recipe.transfer.tuning.keep_views
        place = self.folder.place / "finetuned" / self.name / f"rate-{rate:g}"
        loop = dataclasses.replace(
            settings.loop or build.make_loop(self.recipe),
            accumulation=self.recipe.training.accumulation,
            checkpoint_every=self.recipe.training.checkpoint_every,
            keep_checkpoints=1,
            show_progress=True,
        )
        return fine_tune(
            self.backbone,
            layer,
            pool,
            self.table,
            self.table.labels,
            n_classes=self.n_classes,
            tuning=dataclasses.replace(settings.tuning, learning_rate=rate),
            start=start,
            augment=settings.augment,
            seed=self.recipe.seed,
            loop=loop,
            folder=place,
            cache=cache,
            views=views,
        )

    def _accuracy(self, tuned: Tuned, layer: str, pool: Pool, rows: NDArray[np.int64] | None) -> float | None:
        if rows is None:
            return None
        return float(np.mean(self._predict(tuned, layer, pool, rows) == self.items.table.labels[rows]))

    def _predict(self, tuned: Tuned, layer: str, pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        table = self.items.table.subset(rows)
        features = extract(tuned.backbone, table, {layer: pool}, mirror=self.settings.mirror)[layer]
        return tuned.head.predict(features)

    def finish(self, found: _Found) -> None:
        """Save the target model, test it once, and write the result."""
        tuned, labels = found.tuned, len(self.table)
        self._save(found)
        result: dict[str, Any] = {
            "schema": 1,
            "target": self.name,
            "metric": self.target.metric,
            "items": item_noun(self.table),
            "classes": self.n_classes,
            "labels": labels,
            "layer": found.layer,
            "pool": found.pool,
            "learning_rate": found.rate,
            "stages": [dataclasses.asdict(stage) for stage in self.settings.tuning.on(labels).stages],
            "training_accuracy": tuned.training_accuracy,
            "validation": None,
            "test": None,
            "cost": {"seconds": round(found.seconds, 1), "peak_memory_bytes": own_peak_memory().largest},
            "notes": self.notes,
        }
        if self.items.validation is not None:
            tried = [{"learning_rate": rate, "accuracy": accuracy} for rate, accuracy in found.tried.items()]
            result["validation"] = {"items": len(self.items.validation), "tried": tried}
        if self.items.test is not None:
            chosen = {"layer": found.layer, "learning_rate": found.rate}
            self.folder.log_opening({"target": self.name, "claim": "finetuned on all labels", "chosen": chosen})
            predicted = self._predict(tuned, found.layer, found.pool, self.items.test)
            scores = item_scores(self.target.metric, predicted, self.items.table.labels[self.items.test])
            estimate = interval(scores[None], seed=self.recipe.seed)  # over test items
            result["test"] = {"items": len(scores), "mean": estimate.mean, "ci95": estimate.ci95}
        place = _result(self.folder, self.name)
        write_text_atomically(place, json.dumps(result, indent=2) + "\n")

    def _save(self, found: _Found) -> None:
        tuned, table = found.tuned, self.table
        facts = {
            "fitted on": f"all {len(table)} labelled {item_noun(table)}",
            "fine-tuned": "; ".join(_words(self.backbone, found.layer, stage) for stage in self.settings.tuning.stages),
            "head": "linear, trained with the network",
            "backbone": str(self.backbone.provenance.get("pretrained_on", "random weights")),
        }
        place = self.folder.model(self.name)
        if isinstance(table, PairTable):
            Scorer(tuned.backbone, found.layer, found.pool, scoring_weight(tuned.head), facts).save(place)
            return
        TargetModel(
            backbone=tuned.backbone,
            layer=found.layer,
            pool=found.pool,
            mirror=self.settings.mirror,
            head=tuned.head,
            class_names=table.class_names,
            decoded_size=(table.pixels.shape[1], table.pixels.shape[2]) if isinstance(table, ImageTable) else None,
            fit=self.target.fit,
            facts=facts,
        ).save(place)


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """What was chosen and trained: layer, pooling, learning rate, the validation accuracy of each rate, seconds."""

    layer: str
    pool: Pool
    rate: float
    tried: Mapping[float, float | None]
    tuned: Tuned
    seconds: float


def _of_the_first(value: Any) -> Any:
    """Return what the first process has: were a last digit another one elsewhere, processes would choose apart."""
    return broadcast_object_list([value])[0]


def _some_of_each(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Return at most so many rows, two of each class among them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    few = np.concatenate([order[labels[order] == label][:2] for label in np.unique(labels)])
    return np.unique(np.concatenate([few, order[: max(0, most - len(few))]]))


def _words(backbone: Backbone, layer: str, stage: Stage) -> str:
    trained = trained_layers(backbone, layer, stage)
    return f"{stage.steps} steps of the head" + (f" and {', '.join(trained)}" if trained else "")
