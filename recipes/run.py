"""A whole run: pretrain, verify, reuse, evaluate, report. Each step finds in the folder what earlier ones left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate import PartialState

from auxtasks.backbones import Backbone
from auxtasks.checkpoint import atomic_folder
from auxtasks.data.tokenizers import load_tokenizer, train_tokenizer
from auxtasks.errors import TransferError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.cache import feature_bytes
from auxtasks.features.extract import feature_widths
from auxtasks.tasks import CorruptedSentences, FacePairs, ShuffledSentences
from auxtasks.training.memory import own_peak_memory
from auxtasks.training.processes import join_processes
from auxtasks.training.settings import TrainingResult
from auxtasks.training.together import all_or_none, first_process_first
from recipes import build
from recipes.cache import feature_cache
from recipes.faces import FacePretraining
from recipes.folder import RunFolder, saved_backbone
from recipes.launch import launch, leave_group
from recipes.layerwise import LayerwisePretraining
from recipes.ranking import RankingPretraining, pair_texts
from recipes.ready_made import ReadyMadePretraining
from recipes.reused_run import at_length, reused_recipe
from recipes.schema import Layerwise, ReadyMade, Recipe, Target
from recipes.sentences import SentencePretraining, corpus_texts
from recipes.target_data import Pretraining
from recipes.target_models import save_target_model
from recipes.targets import load_target
from transfer.fewshot import FewShot, Outcome, evaluate_target
from transfer.heads import build_head
from transfer.items import gather_items
from transfer.protocol import plan_draws
from transfer.report import Report, build_report, read_report, write_report
from transfer.spaces import default_pools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["pretrain_recipe", "run_recipe", "transfer_recipe", "transfer_run"]


def read_pretraining(recipe: Recipe, backbone: Backbone) -> Pretraining:
    """Load the data of a run's pretraining, with what is trained on it."""
    if isinstance(recipe.task, ReadyMade):
        return ReadyMadePretraining(recipe, backbone)
    if isinstance(recipe.task, Layerwise):
        return LayerwisePretraining.read(recipe, backbone)
    task = build.make_task(recipe, backbone)
    if isinstance(task, FacePairs):
        return FacePretraining.read(recipe, task)
    if isinstance(task, ShuffledSentences):
        return SentencePretraining.read(recipe, task, task.source)
    if isinstance(task.queries, CorruptedSentences):
        return SentencePretraining.read(recipe, task, task.queries.source)
    return RankingPretraining.read(recipe, task)


def _tokenizer(recipe: Recipe, folder: RunFolder) -> PreTrainedTokenizerBase | None:
    """Load the recipe's tokenizer, or train it once and keep it in the run's folder."""
    wanted = recipe.tokenizer
    if wanted is None:
        return None
    if wanted.name is not None:
        return load_tokenizer(wanted.name)
    place = folder.place / "tokenizer"
    if not place.is_dir():
        texts = pair_texts(recipe) if recipe.data.holds == "pairs" else corpus_texts(recipe)
        trained = train_tokenizer(texts, kind=wanted.kind, size=wanted.size, lowercase=wanted.lowercase)
        with atomic_folder(place) as temporary:
            trained.save_pretrained(temporary)
    return load_tokenizer(place)


def run_recipe(recipe: Recipe, place: Path, processes: int = 1) -> Report | None:
    """Do all steps of a recipe that the folder does not have yet.

    Args:
        recipe: what to do.
        place: run folder.
        processes: on how many processes of this machine the backbone is pretrained.

    Returns:
        The report; None on all processes but the first, and where the recipe has no targets.

    Raises:
        AuxtasksError: see the steps.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.config import load_recipe
        >>> small = [
        ...     "data={path: builtin:drawn_faces, options: {people: 6, photos: 3, size: 16}, holdout: 0.4}",
        ...     "backbone.arguments={size: 16, widths: [8], blocks: [1], embedding: 8}",
        ...     "task.photos=2",
        ...     "training={steps: 2, batch_size: 8, workers: 0, log_every: 0, warmup_steps: 0}",
        ...     "transfer={shots: [1], draws: 1, arms: [raw, frozen], heads: [{name: prototype}], discriminants: null}",
        ...     "targets.strangers.options={people: 3, photos: 3, size: 16, first_person: 50}",
        ... ]
        >>> recipe = load_recipe("faces_demo", small)
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=f"{folder}/cache"):
        ...     place = Path(folder) / "run"
        ...     pretrain_recipe(recipe, place)
        ...     report = run_recipe(recipe, place)  # goes on with what is there
        ...     transfer_recipe(recipe, place) == report  # read, not computed again
        ...     transfer_run(place, ["transfer.draws=2"], Path(folder) / "again").name
        ...     sorted(path.name for path in place.glob("*.json*"))
        True
        'again'
        ['environment.json', 'metrics.jsonl', 'pretrain.json', 'test_openings.jsonl']
        >>> list(report.targets), "validation/accuracy" in report.pretrain
        (['strangers'], True)
    """
    folder = RunFolder(place)
    folder.claim(recipe)
    if processes > 1:
        _launch_pretraining(folder, processes)
    else:
        pretrain_recipe(recipe, place)
    if not PartialState().is_main_process:
        return None
    return transfer_recipe(recipe, place) if recipe.targets else None


def _launch_pretraining(folder: RunFolder, processes: int) -> None:
    """Pretrain in N processes of this machine."""
    if not folder.finished_pretraining():
        written = folder.place / "recipe.yaml"
        launch(["pretrain", str(written), "--out", str(folder.place)], processes, "pretraining")


def pretrain_recipe(recipe: Recipe, place: Path) -> None:
    """Pretrain the backbone, going on from the newest checkpoint, and verify it on pairs if the recipe names some.

    Raises:
        AuxtasksError: data that does not fit, training that diverges, a folder of another run.
    """
    folder = RunFolder(place)
    state = join_processes(recipe.training.device)
    with all_or_none():
        if state.is_main_process:
            folder.claim(recipe)
    if folder.finished_pretraining():
        leave_group()
        return
    with first_process_first():  # which reads and decodes: the others find the result
        backbone = build.make_backbone(recipe, _tokenizer(recipe, folder))
        for layers in (recipe.transfer.layers, *(target.layers for target in recipe.targets.values())):
            if layers is not None:
                feature_widths(backbone, layers)  # refuses a wrong name or pooling before the training
        _targets(recipe, backbone)  # and two targets of one name
        _refuse_unfit_reuse(recipe, backbone)
        data = read_pretraining(recipe, backbone)
        _refuse_unfit_targets(recipe, backbone, data)
    result = data.train(place)
    with all_or_none():
        if state.is_main_process:
            _finish(folder, data, result)
    leave_group()


def _finish(folder: RunFolder, data: Pretraining, result: TrainingResult) -> None:
    """Evaluate what was pretrained, and keep its metrics and its cost."""
    metrics = {
        name: value
        for name, value in result.metrics.items()
        if np.isfinite(value) and name not in ("samples_per_second", "data_wait_share")  # these are its cost
    }
    metrics |= data.evaluate(folder)
    cost = {
        "seconds": round(result.seconds, 1),
        "samples_per_second": round(result.samples_per_second, 1),
        **result.memory.at_most(own_peak_memory()).as_cost(),
    }
    if "data_wait_share" in result.metrics:  # not of layers: their data is in memory
        cost["data_wait_share"] = round(result.metrics["data_wait_share"], 4)
    folder.finish_pretraining({"metrics": metrics, "cost": cost, "notes": [*data.notes, *result.warnings]})


def _refuse_unfit_reuse(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse before the training what cannot be reused or compared with after it."""
    if recipe.transfer.length is not None:
        backbone.with_length(recipe.transfer.length)
    for head in recipe.transfer.heads:
        build_head(head.name, **head.options)
    for tuning in (recipe.transfer.tuning, recipe.transfer.scratch):
        for layer in (*tuning.rates, *(layer for stage in tuning.stages for layer in stage.layers or ())):
            backbone.position(layer)
    for path in recipe.transfer.beside.values():
        saved_backbone(Path(path))


def _refuse_unfit_targets(recipe: Recipe, backbone: Backbone, data: Pretraining) -> None:
    """Refuse before the training targets with too few items for what is asked of them, and what tests share with it.

    A backbone that has seen the test helps nobody.

    Raises:
        TransferError: labels cannot be drawn as the recipe says; names the class.
        LeakError: says what is shared, and of which target.
    """
    for name, target in _targets(recipe, backbone).items():
        loaded = load_target(recipe, name, target, backbone).with_set_aside(target.validation_items, recipe.seed, name)
        items = gather_items(loaded.table, loaded.test, loaded.validation)
        protocol = build.make_few_shot(recipe, backbone, target).protocol
        plan_draws(items.pool_labels, protocol, loaded.table.class_names, test=items.test)
        if recipe.transfer.on_leak == "raise":
            data.leaks(name, target, loaded)


def transfer_run(run: Path, overrides: Sequence[str], out: Path | None) -> Path:
    """Evaluate a run's backbone by its own recipe with overrides; return the folder of the report.

    Raises:
        RecipeError: overrides that do not fit.
        TransferError: overrides without a folder of their own, which would leave a report that its recipe denies, or of
            what the backbone was made with.
    """
    recipe = reused_recipe(run, overrides)
    if out is None and overrides:
        raise TransferError(f"with overrides the result needs a folder of its own: add --out, such as --out {run}-2.")
    place = out or run
    RunFolder(place).claim(recipe)
    transfer_recipe(recipe, place, pretrained=run)
    return place


def transfer_recipe(recipe: Recipe, place: Path, *, pretrained: Path | None = None) -> Report:
    """Reuse a run's backbone for all targets of a recipe, write the report and the target models.

    Args:
        recipe: what to do.
        place: run folder that the report goes to.
        pretrained: run folder that the backbone comes from; `place` if None.

    A report that is there already is read: the test sets are not opened a second time for the same recipe.

    Raises:
        AuxtasksError: nothing pretrained, a target that does not fit, a leak.
    """
    folder = RunFolder(place)
    if folder.report.is_file():
        return read_report(folder.report)
    if not recipe.targets:
        raise TransferError("the recipe names no target. Add one with targets.NAME.path=PATH.")
    origin = RunFolder(pretrained or place)
    backbone = Backbone.from_pretrained(origin.backbone())
    data = read_pretraining(recipe, backbone)
    backbone = at_length(recipe, backbone)
    cache = feature_cache()
    beside = {name: _backbone_beside(Path(path), recipe) for name, path in recipe.transfer.beside.items()}
    # Before any test is opened: a damaged file would be found too late.
    finished, figures = origin.finished_pretraining(), _figures_beside(recipe)
    outcomes: dict[str, Outcome] = {}
    notes: list[str] = []
    for name, target in _targets(recipe, backbone).items():
        settings = build.make_few_shot(recipe, backbone, target)
        loaded = load_target(recipe, name, target, backbone).with_set_aside(target.validation_items, recipe.seed, name)
        _announce(name, loaded.table, backbone, settings)
        notes += [*loaded.notes, *data.leaks(name, target, loaded)]
        outcomes[name] = evaluate_target(
            backbone,
            loaded.table,
            settings,
            seed=recipe.seed,
            name=name,
            test=loaded.test,
            validation=loaded.validation,
            metric=target.metric,
            cache=cache,
            # Identities of pretraining say nothing of which item of a pair is the better.
            pretrained=None if target.holds == "pairs" else data.reusable,
            beside=beside,
            open_test=folder.log_opening,
        )
        notes += outcomes[name].notes
        save_target_model(
            backbone, loaded.table, settings, outcomes[name], recipe.seed, fit=target.fit, place=folder.model(name)
        )
    own = own_peak_memory().largest
    if finished is None:
        finished = {"metrics": {}, "cost": {}, "notes": ["The backbone is of a pretraining that was not finished."]}
    report = build_report(
        recipe.name,
        recipe.seed,
        {name: outcome.results for name, outcome in outcomes.items()},
        pretrain={**finished["metrics"], **figures},
        cost={**finished["cost"], "peak_memory_bytes": max(finished["cost"].get("peak_memory_bytes", 0), own)},
        claim=f"{recipe.transfer.claim}, settled in the recipe",
        notes=[*finished["notes"], *notes],
        inputs={
            **({} if recipe.data.path is None else {"data": recipe.data.path}),
            **{name: target.path for name, target in recipe.targets.items()},
            **{f"beside {name}": path for name, path in recipe.transfer.beside.items()},
        },
        pictures=origin.copy_pictures(folder.report.parent),
    )
    write_report(report, folder.report.parent)
    return report


def _backbone_beside(path: Path, recipe: Recipe) -> Backbone:
    """Read another network to compare with, for texts of the same length."""
    return at_length(recipe, Backbone.from_pretrained(saved_backbone(path)))


def _figures_beside(recipe: Recipe) -> dict[str, float]:
    """Return what the runs beside this one measured of their pretraining, by run and metric."""
    found: dict[str, float] = {}
    for name, path in recipe.transfer.beside.items():
        finished = RunFolder(Path(path)).finished_pretraining() or {"metrics": {}}
        found |= {f"{name}/{metric}": value for metric, value in finished["metrics"].items()}
    return found


def _targets(recipe: Recipe, backbone: Backbone) -> dict[str, Target]:
    """Return targets by name; one at each depth makes several.

    Raises:
        TransferError: two would have one name.
    """
    targets: dict[str, Target] = {}
    for name, target in recipe.targets.items():
        found = {name: target}
        if target.at_each_depth:
            layers = target.layers or recipe.transfer.layers or default_pools(backbone)
            found = {
                f"{name}-{layer}": target.model_copy(update={"layers": {layer: layers[layer]}}) for layer in layers
            }
        for twice in found.keys() & targets.keys():
            raise TransferError(f"targets.{name}: there would be two targets called {twice}. Rename one of them.")
        targets |= found
    return targets


def _announce(name: str, table: Table, backbone: Backbone, settings: FewShot) -> None:
    """Say what is about to be computed, and how large it is."""
    layers = dict(settings.layers or default_pools(backbone))
    size = feature_bytes(backbone, table, layers)
    print(
        f"{name}: {len(table):,} {item_noun(table)}, {len(layers)} layers: {size / 1e6:,.1f} MB of features",
        file=sys.stderr,
    )
