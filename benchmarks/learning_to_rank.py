"""Max-margin ranking against LightGBM's LGBMRanker: the same queries, early stopping on the same validation queries.

Needs the extra ``peers``. DATA is a folder of parquet files (train, validation, test) with the columns qid, label and
features. The test labels are read once, after all training, and only with ``--open-test``; intervals resample queries
and, where there are several, seeds.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones import Backbone, mlp
from auxtasks.data import FeatureTable, RankingTable, encode_features, load_source, read_lists
from auxtasks.pretrain import pretrain
from auxtasks.ranking_metrics import per_query
from auxtasks.tasks import MaxMarginRanking
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from transfer.rank_svm import choose_rank_svm
from transfer.scorer import Scorer
from transfer.statistics import interval, paired_difference

COLUMNS = {"qid": "qid", "grade": "label", "features": "features"}
METRIC = "ndcg@10"
Scores = NDArray[np.float64]

# Settled by cross-validation over training and validation queries: see benchmarks/README.md.
STEPS, STEPS_OF_AN_EPOCH = 120, 10
OPTIMIZER = OptimizerSettings(
    learning_rate=1e-3, weight_decay=0.01, momentum=0.9, second_momentum=0.999, warmup_steps=0, schedule="constant",
    clip_norm=None,
)  # fmt: skip
LIGHTGBM = {
    "objective": "rank_xendcg", "num_leaves": 15, "min_child_samples": 50, "min_child_weight": 1.0,
    "learning_rate": 0.03, "colsample_bytree": 0.2, "reg_lambda": 10.0, "n_estimators": 1000,
}  # fmt: skip


def read(folder: Path, part: str) -> RankingTable:
    rows = load_source(folder / f"{part}.parquet", columns=COLUMNS)
    return read_lists(rows, items=encode_features, keep_silent=True)


def network(table: RankingTable, seed: int) -> Backbone:
    """Return a network that standardises each feature where it is present: most are 0, and that says "not there"."""
    assert isinstance(table.items, FeatureTable)
    values = table.items.values.astype(np.float64)
    present = np.ma.masked_equal(values, 0.0)
    spread = present.std(axis=0).filled(0.0)
    return mlp(
        values.shape[1], hidden=[64], mean=present.mean(axis=0).filled(0.0).tolist(),
        std=np.where(spread > 0, spread, 1.0).tolist(), absent=0.0, seed=seed,
    )  # fmt: skip


def ours(train: RankingTable, validation: RankingTable, seed: int, loss: str, weighting: str) -> Scorer:
    task = MaxMarginRanking(
        network(train, seed), loss=loss, margin_per_grade=True, weighting=weighting, dropout=0.3,  # type: ignore[arg-type]
        initial_scale=0.0, seed=seed,
    )  # fmt: skip
    loop = LoopSettings(validate_every=STEPS_OF_AN_EPOCH, keep_best=METRIC, log_every=0, show_progress=False)
    pretrain(task, train, steps=STEPS, batch_size=16, validation=validation, seed=seed, optimizer=OPTIMIZER, loop=loop)
    return Scorer(task.backbone, task.layer, task.pool, task.scorer.weight.detach().double().numpy()[0])


def peer(train: RankingTable, validation: RankingTable, seed: int) -> lightgbm.LGBMRanker:
    ranker = lightgbm.LGBMRanker(**LIGHTGBM, random_state=seed, verbose=-1, n_jobs=1)
    ranker.fit(
        rows(train), train.grades, group=train.lengths,
        eval_X=(rows(validation),), eval_y=(validation.grades,), eval_group=[validation.lengths], eval_at=[10],
        callbacks=[lightgbm.early_stopping(LIGHTGBM["n_estimators"], verbose=False)],  # keeps the best round
    )  # fmt: skip
    return ranker


def rows(table: RankingTable) -> NDArray[np.float32]:
    assert isinstance(table.items, FeatureTable)
    return table.items.values[table.places]


def quality(table: RankingTable, scores: Scores) -> Scores:
    """Return NDCG@10 of each query, (Q,)."""
    return per_query(scores, table.grades, table.offsets, tops=(10,))[METRIC]


def ensemble(table: RankingTable, members: list[Scores]) -> Scores:
    """Return the mean of the members' scores, each standardised within its query."""
    total = np.zeros(len(table.grades))
    for scores in members:
        for start, end in zip(table.offsets[:-1], table.offsets[1:], strict=True):
            here = scores[start:end]
            total[start:end] += (here - here.mean()) / (here.std() + 1e-12)
    return total / len(members)


def spell(found: object) -> str:
    low, high = found.ci95  # type: ignore[attr-defined]
    return f"{found.mean:+.4f} [{low:+.4f}, {high:+.4f}]"  # type: ignore[attr-defined]


def compare(part: str, table: RankingTable, rankers: dict[str, list[Scores]]) -> None:
    single = {name: np.stack([quality(table, scores) for scores in members]) for name, members in rankers.items()}
    joined = {name: quality(table, ensemble(table, members))[None] for name, members in rankers.items()}
    print(f"\n{part}: {METRIC} of {len(table)} queries; mean over seeds (standard deviation), all seeds together")
    for name in rankers:
        means = np.nanmean(single[name], axis=1)
        found = interval(joined[name], resamples=10_000)
        print(f"  {name:<14} {means.mean():.4f} ({means.std(ddof=1) if len(means) > 1 else 0:.4f})   {spell(found)}")
    for name in [name for name in rankers if name != "lightgbm"]:
        if len(single[name]) == len(single["lightgbm"]):
            seeds = paired_difference(single[name][:, None, :], single["lightgbm"][:, None, :], resamples=10_000)
            print(f"  {name} - lightgbm, each seed:      {spell(seeds)}")
        together = paired_difference(joined[name], joined["lightgbm"], resamples=10_000)
        print(f"  {name} - lightgbm, seeds together: {spell(together)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--open-test", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("auxtasks").setLevel(logging.ERROR)
    train, validation = read(arguments.data, "train"), read(arguments.data, "validation")
    seeds = range(arguments.seeds)
    scorers = {
        "hinge": [ours(train, validation, seed, "hinge", "equal") for seed in seeds],
        "hinge x ndcg": [ours(train, validation, seed, "hinge", "ndcg") for seed in seeds],
    }
    linear = choose_rank_svm(train, validation)
    trees = [peer(train, validation, seed) for seed in seeds]
    print(f"lightgbm: best rounds {[ranker.best_iteration_ for ranker in trees]}; RankSVM strength {linear.strength}")
    parts = {"validation": validation} | ({"test": read(arguments.data, "test")} if arguments.open_test else {})
    for part, table in parts.items():
        found = {name: [each.score(rows(table)) for each in members] for name, members in scorers.items()}
        found["rank_svm"] = [linear.score(table.items)[table.places]]
        found["lightgbm"] = [np.asarray(ranker.predict(rows(table)), dtype=np.float64) for ranker in trees]
        compare(part, table, found)


if __name__ == "__main__":
    main()
