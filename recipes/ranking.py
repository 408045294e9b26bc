"""Runs that rank: labelled queries with a test beside a linear RankSVM, or items above corruptions of themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from auxtasks.checkpoint import write_json
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.preferences import preference_texts
from auxtasks.data.rankings import RankingTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import DataError
from auxtasks.ranking_metrics import per_query, summarise
from auxtasks.seeding import generator
from auxtasks.tasks import MaxMarginRanking
from auxtasks.tasks.ranking_corruptions import CorruptibleItems
from auxtasks.training.settings import TrainingResult
from recipes.build import load_columns, part_of, ranking_columns, told_of
from recipes.cache_place import cache_folder
from recipes.folder import RunFolder
from recipes.pictures import picture_leaks
from recipes.schema import Part, Recipe, Target
from recipes.target_data import TargetData
from recipes.targets import item_leaks
from recipes.training import train_task
from transfer.rank_svm import choose_rank_svm
from transfer.scorer import Scorer
from transfer.spaces import Pretrained
from transfer.statistics import Estimate, interval, paired_difference

__all__ = ["RankingPretraining", "pair_texts"]

Ranked: TypeAlias = RankingTable | CorruptibleItems
Scores: TypeAlias = NDArray[np.float64]
ByQuery: TypeAlias = Mapping[str, Mapping[str, Scores]]


@dataclasses.dataclass(frozen=True)
class RankingPretraining:
    """The queries of a run, or the items that queries are made of.

    Attributes:
        recipe: of the run.
        task: with the backbone.
        trained, held_out: what is trained on, and what is validated on.
        test: labelled queries that are scored once, after training; None if the recipe names none.

    Example:
        >>> from recipes.build import make_backbone, make_task
        >>> from recipes.config import load_recipe
        >>> recipe = load_recipe("ranking_demo")
        >>> data = RankingPretraining.read(recipe, make_task(recipe, make_backbone(recipe)))
        >>> data.described, len(data.held_out), len(data.test)
        ('24 queries of builtin:severity', 8, 8)
    """

    recipe: Recipe
    task: MaxMarginRanking
    trained: Ranked
    held_out: Ranked
    test: Ranked | None

    @classmethod
    def read(cls, recipe: Recipe, task: MaxMarginRanking) -> RankingPretraining:
        """Load what is ranked; what is validated on is a part of its own, or a share of all.

        Raises:
            DataError: nothing is left to train on.
        """
        data = recipe.data
        trained = _read(recipe, task, None)
        test = None if data.test is None else _held_out(recipe, task, data.test)
        if data.validation is not None:
            return cls(recipe, task, trained, _limited(recipe, _held_out(recipe, task, data.validation)), test)
        order = generator(recipe.seed, "holdout").permutation(len(trained))
        aside = round(len(trained) * data.holdout)
        if aside == len(trained):
            raise DataError(
                f"data.holdout is {data.holdout:g}, which leaves none of {aside} {_noun(recipe)} to train on."
            )
        kept, held_out = np.sort(order[aside:]), np.sort(order[:aside])
        return cls(recipe, task, trained.subset(kept), _limited(recipe, trained.subset(held_out)), test)

    @property
    def described(self) -> str:
        """What was trained on, in a few words."""
        return f"{len(self.trained):,} {_noun(self.recipe)} of {self.recipe.data.path}"

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know of the data."""
        noun, notes = _noun(self.recipe), []
        if not isinstance(self.trained, RankingTable):
            return []
        silent = len(self.trained) - len(self.trained.speaking)
        if silent:
            notes.append(f"{silent} of {len(self.trained)} {noun} say nothing (one item, or one grade) and teach none.")
        for reason, count in self.trained.left_out.items():
            if count:
                notes.append(f"{count} {noun} were left out: {reason}.")
        if len(self.held_out) and self.recipe.data.validation is None and self.recipe.data.holds == "pairs":
            notes.append("pairs that are validated on were drawn at random, and share items with those trained on.")
        return notes

    @property
    def reusable(self) -> Pretrained | None:
        """Nothing: items of queries belong to no classes that choices could be made on."""
        return None

    def train(self, place: Path) -> TrainingResult:
        """Train the backbone as the recipe says."""
        return train_task(self.recipe, self.task, self.trained, self.held_out, self.described, place)

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Score the test queries once, beside a linear RankSVM on the same queries and the longer text."""
        if not isinstance(self.test, RankingTable):
            return {}
        test = self.test
        rankers = {"ranker": _scores(self.task, test), **self._baselines(test)}
        folder.log_opening({"target": "test queries", "queries": len(test), "rankers": sorted(rankers)})
        by_query = {name: _by_query(test, scores) for name, scores in rankers.items()}
        found = {
            "queries": len(test),
            "noun": _noun(self.recipe),
            **_intervals(by_query, _metrics(test), self.recipe.seed),
        }
        write_json(folder.ranking, found)
        return {
            f"test/{name}/{metric}": value
            for name, found in by_query.items()
            for metric, value in summarise(found).items()
            if metric in _metrics(test) and np.isfinite(value)
        }

    def _baselines(self, test: RankingTable) -> dict[str, Scores]:
        """Return scores of each place of the test, without any network."""
        if isinstance(test.items, TextTable):
            lengths = np.array([len(text) for text in test.items.texts], dtype=np.float64)
            return {"longer": lengths[test.places], "rank_svm": self._rank_svm(test)}
        return {"rank_svm": self._rank_svm(test)} if isinstance(test.items, FeatureTable) else {}

    def _rank_svm(self, test: RankingTable) -> Scores:
        assert isinstance(self.trained, RankingTable)  # what is tested is labelled, and so is what was trained on
        assert isinstance(self.held_out, RankingTable)
        found = choose_rank_svm(self.trained, self.held_out if len(self.held_out) else None, seed=self.recipe.seed)
        return found.score(test.items)[test.places]

    def leaks(self, name: str, target: Target, data: TargetData) -> list[str]:
        """Look for items that pretraining, or the labels, share with the test."""
        items = self.trained.items if isinstance(self.trained, RankingTable) else self.trained.table
        if isinstance(items, ImageTable):
            return picture_leaks(self.recipe, name, target, data, items)
        return item_leaks(self.recipe, name, data, items.texts if isinstance(items, TextTable) else items.values)


def pair_texts(recipe: Recipe) -> list[str]:
    """Return the texts of a recipe's pairs, each once, with what they answer: what a tokenizer is trained on.

    Example:
        >>> import json
        >>> import tempfile
        >>> pairs = [{"chosen": "A cat.", "rejected": "Cat a."}, {"chosen": "A cat.", "rejected": "A a cat."}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "pairs.json"
        ...     _ = file.write_text(json.dumps(pairs))
        ...     asked = {"data": {"path": str(file), "holds": "pairs"}, "task": {"name": "max_margin_ranking"}}
        ...     pair_texts(Recipe.model_validate({"name": "answers", **asked}))
        ['A cat.', 'Cat a.', 'A a cat.']
    """
    found = preference_texts(load_columns(recipe.data, ranking_columns(recipe.data, "text")))
    prompts = [prompt for prompt in found.prompts if prompt is not None]
    return list(dict.fromkeys([*prompts, *found.chosen, *found.rejected]))


def _read(recipe: Recipe, task: MaxMarginRanking, part: Part | None) -> Ranked:
    source = recipe.data if part is None else part_of(recipe.data, part)
    rows = load_columns(source, ranking_columns(source, task.backbone.input.kind))
    with told_of(source):
        table = task.prepare(rows, cache=cache_folder() / "pictures")
    assert isinstance(table, RankingTable | CorruptibleItems)  # what such tasks make
    return table


def _held_out(recipe: Recipe, task: MaxMarginRanking, part: Part) -> Ranked:
    """Read queries that metrics are computed of: what has none is refused before the training."""
    found = _read(recipe, task, part)
    with told_of(part_of(recipe.data, part)):
        task.check_held_out(found)
    return found


def _limited(recipe: Recipe, held_out: Ranked) -> Ranked:
    most = recipe.data.validation_items
    if most is None or len(held_out) <= most:
        return held_out
    return held_out.subset(sorted({int(row) for row in np.linspace(0, len(held_out) - 1, most)}))


def _noun(recipe: Recipe) -> str:
    return {"pairs": "pairs", "lists": "queries", "items": "items"}[recipe.data.holds]


def _scores(task: MaxMarginRanking, table: RankingTable) -> Scores:
    """Return the score of each place of a table, (M,): not by the task's evaluator, which waits for all processes."""
    weights = task.scorer.weight.detach().double().cpu().numpy().reshape(-1)
    return Scorer(task.backbone, task.layer, task.pool, weights).score_table(table.items)[table.places]


def _by_query(table: RankingTable, scores: Scores) -> dict[str, Scores]:
    return per_query(scores, table.grades, table.offsets, tops=(5, 10))


def _metrics(table: RankingTable) -> Sequence[str]:
    """Return what is worth reporting: of pairs, every other metric says the same in other words."""
    graded = ("ndcg@5", "ndcg@10", "map", "mrr", "kendall_tau", "pair_accuracy")
    return graded if int(table.lengths.max()) > 2 else ("pair_accuracy",)


def _intervals(by_query: ByQuery, metrics: Sequence[str], seed: int) -> dict[str, object]:
    """Return means with 95 % intervals over queries, and the paired differences of the ranker to the others.

    A metric that no query says anything about is left out.
    """
    ranker = by_query["ranker"]
    means = {
        name: {
            metric: _entry(interval(found[metric][None], seed=seed, limits=_limits(metric)))
            for metric in metrics
            if np.isfinite(found[metric]).any()
        }
        for name, found in by_query.items()
    }
    paired = {
        f"ranker-{name}": {
            metric: _entry(paired_difference(ranker[metric][None], found[metric][None], seed=seed))
            for metric in metrics
            if np.isfinite(ranker[metric] - found[metric]).any()
        }
        for name, found in by_query.items()
        if name != "ranker"
    }
    return {"resampled": "queries, with replacement", "rankers": means, "paired": paired}


def _limits(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest value of a metric."""
    return (-1.0, 1.0) if metric == "kendall_tau" else (0.0, 1.0)


def _entry(estimate: Estimate) -> dict[str, object]:
    return {"mean": estimate.mean, "ci95": estimate.ci95}
