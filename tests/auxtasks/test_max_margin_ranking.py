"""Max-margin ranking: losses by loops, RankSVM's solution, held-out queries ranked, whole runs that go on."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.svm import LinearSVC

from auxtasks import checkpoint, ranking_metrics
from auxtasks.backbones import Backbone, mlp, transformers
from auxtasks.data import load_source, train_tokenizer
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.loaders import read
from auxtasks.data.rankings import RankingTable
from auxtasks.errors import DataError
from auxtasks.pretrain import pretrain
from auxtasks.ranking_metrics import per_query, summarise
from auxtasks.tasks import LabelledQueries, MaxMarginRanking
from auxtasks.tasks.ranking_batches import RankingBatch
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

QUIET = LoopSettings(show_progress=False, log_every=50)
MARGINS = {"one for all": {}, "a grade": {"margin_per_grade": True, "margin": 0.4}, "a query's own": {}}


def shared_items(*, own_margins: bool) -> RankingTable:
    """Six queries over nine items, of which most are in several; one query of one item, one of one grade."""
    rng = np.random.default_rng(0)
    items = FeatureTable(
        rng.normal(size=(9, 4)).astype(np.float32), np.full(9, -1), (), np.arange(9), (), "nine vectors"
    )
    places = [[0, 1, 2], [3], [1, 3, 4, 8, 5], [6, 7], [2, 0], [7, 4, 6]]
    grades = [[2, 0, 1], [1], [3, 0, 0, 1, 2], [1, 0], [1, 1], [0, 4, 4]]
    margins = [np.nan, np.nan, 0.7, 0.2, np.nan, 0.0] if own_margins else [np.nan] * 6
    return RankingTable(
        items,
        np.concatenate(places),
        np.concatenate(grades).astype(np.float32),
        np.cumsum([0, *map(len, places)]),
        np.array(margins, dtype=np.float32),
        tuple("abcdef"),
        {},
        "six queries",
    )


def batch_of(task: MaxMarginRanking, table: RankingTable) -> RankingBatch:
    return task.collate([task.view(read(table, query)) for query in range(len(table))])


def dcg(grades: list[float], top: int | None) -> float:
    ranked = enumerate(grades[:top], start=1)
    return sum((2**grade - 1) / math.log2(rank + 1) for rank, grade in ranked)


def ndcg_change(scores: list[float], grades: list[float], one: int, other: int, top: int | None) -> float:
    """Put a query in its order, let two items change places, and compare."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    swapped = [{one: other, other: one}.get(place, place) for place in order]
    before, after = (dcg([grades[place] for place in ranked], top) for ranked in (order, swapped))
    return abs(before - after) / dcg(sorted(grades, reverse=True), top)


def by_loops(task: MaxMarginRanking, table: RankingTable) -> tuple[torch.Tensor, float]:
    """Return the mean loss and its weight, pair by pair, every item scored alone."""
    formulas = {
        "hinge": lambda x: x.clamp(min=0),
        "squared_hinge": lambda x: x.clamp(min=0) ** 2,
        "logistic": lambda x: (1 + x.exp()).log(),
    }
    queries = []
    for query in range(len(table)):
        record = table.record(query)
        scores = [task.score(torch.from_numpy(table.items.values[[place]]))[0] for place in record["places"]]
        grades = record["grades"].tolist()
        losses = []
        for better, worse in itertools.permutations(range(len(grades)), 2):
            if grades[better] <= grades[worse]:
                continue
            margin = task.margin * (grades[better] - grades[worse] if task.margin_per_grade else 1)
            if not math.isnan(record["margin"]):
                margin = record["margin"]
            loss = formulas[task.loss](margin - (scores[better] - scores[worse]))
            if task.weighting == "ndcg":
                loss = loss * ndcg_change(torch.stack(scores).tolist(), grades, better, worse, task.top)
            losses.append(loss)
        if losses:
            queries.append(torch.stack(losses))
    if task.average == "pair":
        weight = sum(len(losses) for losses in queries)
        mean = sum(losses.sum() for losses in queries) / weight
    else:
        weight = len(queries)
        # The weights of NDCG share out what a query has to gain: they are summed.
        mean = sum(losses.sum() if task.weighting == "ndcg" else losses.mean() for losses in queries) / weight
    return mean + task.l2 / 2 * (task.scorer.weight**2).sum(), weight


@pytest.mark.parametrize("margin", list(MARGINS))
@pytest.mark.parametrize("average", ["query", "pair"])
@pytest.mark.parametrize(
    "weighting", [{}, {"weighting": "ndcg"}, {"weighting": "ndcg", "top": 2}], ids=["equal", "ndcg", "ndcg@2"]
)
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
def test_losses_and_gradients_are_those_of_nested_loops(loss, weighting, average, margin):
    task = MaxMarginRanking(
        mlp(width=4, hidden=[5]), loss=loss, average=average, l2=0.3, **weighting, **MARGINS[margin]
    )
    table = shared_items(own_margins=margin == "a query's own")
    output = task(batch_of(task, table))
    expected, weight = by_loops(task, table)
    assert float(output.weight) == weight == (15 if average == "pair" else 4)
    mean = output.loss_sum / output.weight
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    parameters = list(task.parameters())
    found, wanted = (torch.autograd.grad(value, parameters) for value in (mean, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert other.norm() > 1e-3


def test_the_variants_are_not_the_same_loss():
    # What the loops are compared with would say nothing if the data could not tell the settings apart.
    tables = {name: shared_items(own_margins=name == "a query's own") for name in MARGINS}
    found = set()
    for margin, average, weighting in itertools.product(MARGINS, ("query", "pair"), ("equal", "ndcg")):
        task = MaxMarginRanking(mlp(width=4, hidden=[5]), average=average, weighting=weighting, **MARGINS[margin])
        output = task(batch_of(task, tables[margin]))
        found.add(round(float(output.loss_sum.detach() / output.weight), 5))
    assert len(found) == 12


@pytest.mark.parametrize("average", ["query", "pair"])
def test_metrics_of_a_batch_by_loops_whatever_it_is_cut_into(average):
    task = MaxMarginRanking(mlp(width=4, hidden=[5]), average=average)
    table = shared_items(own_margins=True)
    right, short = [], []
    for query in range(len(table)):
        record = table.record(query)
        scores = task.score(torch.from_numpy(table.items.values[record["places"]])).tolist()
        margin = 1.0 if math.isnan(record["margin"]) else record["margin"]
        grades = record["grades"]
        pairs = [(i, j) for i in range(len(grades)) for j in range(len(grades)) if grades[i] > grades[j]]
        right.append([scores[i] > scores[j] for i, j in pairs])
        short.append([scores[i] - scores[j] < margin for i, j in pairs])
    whole = task(batch_of(task, table)).metrics
    for name, flags in (("pair_accuracy", right), ("violations", short)):
        spoken = [np.mean(of) for of in flags if of]
        assert 0 < np.mean(spoken) < 1
        expected = np.mean(spoken) if average == "query" else np.mean(np.concatenate([of for of in flags if of]))
        assert float(whole[name]) == pytest.approx(expected)
        parts = [task(batch_of(task, table.subset(rows))) for rows in ([0, 1, 2], [3, 4, 5])]
        weights = sum(float(part.weight) for part in parts)
        assert sum(float(part.metrics[name] * part.weight) for part in parts) / weights == pytest.approx(expected)


def test_a_batch_without_any_pair_costs_nothing_and_breaks_nothing():
    task = MaxMarginRanking(mlp(width=4, hidden=[5]), l2=0.5)
    silent = batch_of(task, shared_items(own_margins=False).subset([1, 4]))
    output = task(silent)
    mean = output.loss_sum / output.weight
    mean.backward()
    weights = task.scorer.weight.detach()
    torch.testing.assert_close(mean.detach(), 0.25 * (weights**2).sum())
    torch.testing.assert_close(task.scorer.weight.grad, 0.5 * weights)
    # Beside others they have no weight at all.
    assert float(output.weight + torch.tensor(1.0)) == 1
    both = MaxMarginRanking(mlp(width=4, hidden=[5]))
    table = shared_items(own_margins=False)
    one, other = (both(batch_of(both, table.subset(rows))) for rows in ([0, 2], [0, 1, 2, 4]))
    assert float(one.weight) == float(other.weight)
    torch.testing.assert_close(one.loss_sum, other.loss_sum)


# What it costs


def count_rows(task: MaxMarginRanking) -> list[int]:
    """Return a list that is told how many rows go through the backbone at each pass."""
    rows: list[int] = []
    first = next(module for module in task.backbone.modules() if isinstance(module, torch.nn.Linear))
    first.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


@pytest.mark.parametrize("count", [2, 30, 120])
def test_a_query_of_n_items_costs_n_passes(count):
    task = MaxMarginRanking(mlp(width=3, hidden=[4]))
    features = np.random.default_rng(0).normal(size=(count, 3)).tolist()
    table = task.prepare(Dataset.from_dict({"qid": [1] * count, "grade": list(range(count)), "features": features}))
    rows = count_rows(task)
    batch = batch_of(task, table)
    task(batch).loss_sum.backward()
    assert rows == [count]
    assert len(batch.better) == count * (count - 1) // 2
    # The backward pass keeps numbers a pair, never features a pair.
    assert all(part.ndim == 1 for part in batch[1:])


def test_an_item_in_many_pairs_is_scored_once_a_batch():
    task = MaxMarginRanking(mlp(width=3, hidden=[4]))
    vectors = np.eye(3).tolist()
    pairs = [(0, 1), (0, 2), (1, 2), (2, 1), (0, 1)]
    table = task.prepare(Dataset.from_dict({
        "chosen": [vectors[better] for better, _ in pairs], "rejected": [vectors[worse] for _, worse in pairs],
    }))  # fmt: skip
    rows = count_rows(task)
    batch = batch_of(task, table)
    assert len(batch.better) == 5
    task(batch)
    task.evaluate(table, batch_size=2)
    assert rows == [3, 3, 2, 2]


# RankSVM


def synthetic(queries: int = 16, items: int = 6, width: int = 5, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(queries * items, width)).astype(np.float32)
    grades = np.digitize(values @ rng.normal(size=width) + 1.5 * rng.normal(size=len(values)), [-1, 0, 1])
    qids = np.repeat(np.arange(queries), items).tolist()
    return Dataset.from_dict({"qid": qids, "grade": grades.astype(float).tolist(), "features": values.tolist()})


def gap_to_rank_svm(data: Dataset, l2: float, steps: int, rate: float) -> float:
    """Return by how much our objective is above LinearSVC's, relative to that."""
    width = len(data[0]["features"])
    task = MaxMarginRanking(mlp(width=width, hidden=[]), average="pair", l2=l2)
    table = task.prepare(data)
    differences = []
    for query in range(len(table)):
        record = table.record(query)
        places, grades = record["places"], record["grades"]
        differences += [
            table.items.values[places[i]].astype(float) - table.items.values[places[j]]
            for i in range(len(grades)) for j in range(len(grades)) if grades[i] > grades[j]
        ]  # fmt: skip
    pairs = np.array(differences)
    signs = np.where(np.arange(len(pairs)) % 2, -1.0, 1.0)
    svm = LinearSVC(C=1 / (l2 * len(pairs)), loss="hinge", dual=True, fit_intercept=False, tol=1e-6, max_iter=200_000)
    best = svm.fit(pairs * signs[:, None], signs).coef_[0]

    def objective(weights: np.ndarray) -> float:
        return float(np.maximum(0, 1 - pairs @ weights).mean() + l2 / 2 * weights @ weights)

    before = objective(task.scorer.weight.detach().double().numpy()[0]) / objective(best) - 1
    assert before > 0.01
    optimizer = OptimizerSettings(name="sgd", learning_rate=rate, weight_decay=0.0, clip_norm=None, schedule="linear",
                                  warmup_steps=0)  # fmt: skip
    pretrain(task, table, steps=steps, batch_size=len(table.speaking), loop=QUIET, optimizer=optimizer)
    return objective(task.scorer.weight.detach().double().numpy()[0]) / objective(best) - 1


@pytest.mark.parametrize("l2", [0.05, 0.5])
def test_a_linear_scorer_with_hinge_loss_is_rank_svm(l2):
    assert abs(gap_to_rank_svm(synthetic(), l2, steps=300, rate=0.3)) < 1e-3


@pytest.mark.data
@pytest.mark.skipif("AUXTASKS_DATA" not in os.environ, reason="AUXTASKS_DATA is not set")
def test_a_linear_scorer_is_rank_svm_on_real_lists(tmp_path):
    file = Path(os.environ["AUXTASKS_DATA"]) / "ranking" / "lambdarank" / "train.parquet"
    columns = {"qid": "qid", "grade": "label", "features": "features"}
    data = load_source(file, columns=columns, cache_dir=tmp_path)
    queries = list(dict.fromkeys(data["qid"][:]))[:40]
    data = data.select(np.flatnonzero(np.isin(data["qid"][:], queries)))
    assert abs(gap_to_rank_svm(data, l2=0.2, steps=250, rate=0.1)) < 1e-3


# Learning


def lists(queries: int, seed: int, *, shuffled: bool = False) -> Dataset:
    """Draw lists whose grades come of a product of two features, so that no direction alone says anything."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(queries * 8, 4)).astype(np.float32)
    grades = np.digitize(values[:, 0] * values[:, 1], [-0.5, 0.2, 0.9])
    if shuffled:
        grades = rng.permutation(grades)
    qids = np.repeat(np.arange(queries), 8).tolist()
    return Dataset.from_dict({"qid": qids, "grade": grades.tolist(), "features": values.tolist()})


@pytest.mark.parametrize("options", [{}, {"weighting": "ndcg", "loss": "logistic"}], ids=["hinge", "lambdarank"])
def test_lists_are_learnt_and_shuffled_grades_are_not(options):
    held_out, found = lists(60, seed=1), {}
    for shuffled in (False, True):
        task = MaxMarginRanking(mlp(width=4, hidden=[32]), **options)
        data = lists(150, seed=0, shuffled=shuffled)
        pretrain(task, data, steps=150, batch_size=16, loop=QUIET, optimizer=OptimizerSettings(learning_rate=0.02))
        found[shuffled] = task.evaluate(task.prepare(held_out))
    rng = np.random.default_rng(0)
    table = MaxMarginRanking(mlp(width=4)).prepare(held_out)
    chance = summarise(per_query(rng.normal(size=len(table.places)), table.grades, table.offsets))
    assert found[False]["pair_accuracy"] > 0.85
    assert found[False]["ndcg@10"] > 0.9
    assert 0.4 < found[True]["pair_accuracy"] < 0.6
    assert found[True]["ndcg@10"] < chance["ndcg@10"] + 0.06 < found[False]["ndcg@10"]


GOOD = ["fine", "lovely", "great", "warm", "bright", "sound", "rich", "clever", "fresh", "neat", "solid", "sweet"]
BAD = ["awful", "dull", "poor", "cold", "dim", "broken", "cheap", "silly", "stale", "messy", "weak", "sour"]
TOKENIZER = train_tokenizer([" ".join(["the film was and its", *GOOD, *BAD])] * 2, size=80)


def opinions(count: int, seed: int, *, shuffled: bool = False) -> Dataset:
    rng = np.random.default_rng(seed)

    def text(words: list[str]) -> str:
        return f"the film was {rng.choice(words)} and its film the {rng.choice(words)}"

    pairs = [(text(GOOD), text(BAD)) for _ in range(count)]
    if shuffled:
        pairs = [pair[::-1] if rng.random() < 0.5 else pair for pair in pairs]
    prompts = rng.choice(["the film", "its film"], size=count).tolist()
    chosen, rejected = zip(*pairs, strict=True)
    return Dataset.from_dict({"prompt": prompts, "chosen": chosen, "rejected": rejected})


def small_bert() -> Backbone:
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    return transformers(config, tokenizer=TOKENIZER, length=24)


def test_preferences_between_texts_are_learnt_and_shuffled_ones_are_not():
    found = {}
    for shuffled in (False, True):
        task = MaxMarginRanking(small_bert(), loss="logistic")
        assert task.pool == "mean_max"
        data = opinions(200, seed=0, shuffled=shuffled)
        pretrain(task, data, steps=60, batch_size=16, loop=QUIET, optimizer=OptimizerSettings(learning_rate=0.01))
        found[shuffled] = task.evaluate(task.prepare(opinions(100, seed=1)))
    assert found[False].keys() == {"pair_accuracy", "queries"}  # all else says the same of pairs
    assert found[False]["pair_accuracy"] > 0.95
    assert found[True]["pair_accuracy"] < 0.65


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_evaluator_says_what_the_metrics_say_of_the_scores(batch_size):
    task = MaxMarginRanking(mlp(width=4, hidden=[5], seed=2), dropout=0.5)
    table = shared_items(own_margins=True)
    task.eval()
    with torch.no_grad():
        scores = task.score(torch.from_numpy(table.items.values)).double().numpy()
    task.train()
    found = task.evaluate(table, batch_size=batch_size)
    assert task.training
    one_by_one = {name: [] for name in ("ndcg@5", "ndcg@10", "map", "mrr", "kendall_tau", "pair_accuracy")}
    for query in range(len(table)):
        record = table.record(query)
        here, grades = scores[record["places"]], record["grades"]
        one_by_one["ndcg@5"].append(ranking_metrics.ndcg(here, grades, top=5))
        one_by_one["ndcg@10"].append(ranking_metrics.ndcg(here, grades, top=10))
        one_by_one["map"].append(ranking_metrics.average_precision(here, grades))
        one_by_one["mrr"].append(ranking_metrics.reciprocal_rank(here, grades))
        one_by_one["kendall_tau"].append(ranking_metrics.kendall_tau(here, grades))
        one_by_one["pair_accuracy"].append(ranking_metrics.pair_accuracy(here, grades))
    for name, values in one_by_one.items():
        assert found[name] == pytest.approx(np.nanmean(values), abs=1e-6), name
    counts = {name: found[name] for name in ("queries", "queries_without_pairs", "queries_without_relevant")}
    assert counts == {"queries": 6, "queries_without_pairs": 2, "queries_without_relevant": 0}


def test_many_items_are_scored_some_at_a_time_with_the_same_result():
    task = MaxMarginRanking(mlp(width=4, hidden=[5]))
    values = np.random.default_rng(0).normal(size=(1200, 4)).astype(np.float32)
    grades = np.random.default_rng(1).integers(4, size=1200)
    data = {"qid": [1] * 1200, "grade": grades.tolist(), "features": values.tolist()}
    rows = count_rows(task)
    found = task.evaluate(task.prepare(Dataset.from_dict(data)))
    assert rows == [512, 512, 176]
    with torch.no_grad():
        scores = task.score(torch.from_numpy(values)).double().numpy()
    assert found["ndcg@10"] == pytest.approx(ranking_metrics.ndcg(scores, grades, top=10))


def test_there_must_be_something_to_evaluate():
    task = MaxMarginRanking(mlp(width=4))
    with pytest.raises(DataError, match="there are no queries to evaluate"):
        task.evaluate(shared_items(own_margins=False).subset([]))


# Whole runs


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stopped_at", [3, 6, 9])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(tmp_path, stopped_at):
    loop = LoopSettings(show_progress=False, log_every=1, checkpoint_every=4, validate_every=2, keep_best="ndcg@10")

    def run(folder: Path, stop: int | None = None):
        # A draw from each query, and dropout: both must go on where they were.
        task = MaxMarginRanking(mlp(width=4, hidden=[6]), LabelledQueries(list_size=5), weighting="ndcg", dropout=0.3)
        collate, calls = task.collate, []

        def stopping(items):
            calls.append(items)
            # Only training draws: evaluation takes all eight items.
            if stop is not None and sum(len(call[0].inputs) == 5 for call in calls) == stop:
                raise StoppedError("in the middle of a step")
            return collate(items)

        task.collate = stopping
        result = pretrain(task, lists(20, seed=0), steps=10, batch_size=4, validation=lists(8, seed=1), folder=folder,
                          loop=loop, seed=3)  # fmt: skip
        return task, result

    task, straight = run(tmp_path / "straight")
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run(tmp_path / "again", stopped_at)
    again, resumed = run(tmp_path / "again")
    assert checkpoint.tensors_digest(again.state_dict()) == checkpoint.tensors_digest(task.state_dict())
    assert resumed.best_step == straight.best_step
    timed = {"samples_per_second", "data_wait_share"}
    one, other = ({k: v for k, v in result.metrics.items() if k not in timed} for result in (straight, resumed))
    assert one == other
    assert "validation/ndcg@10" in one
    untrained = MaxMarginRanking(mlp(width=4, hidden=[6])).state_dict()
    assert all(not torch.equal(untrained[name], value) for name, value in task.state_dict().items())


def test_only_the_same_settings_go_on(tmp_path):
    run = {"data": synthetic(), "steps": 2, "batch_size": 4, "loop": QUIET, "folder": tmp_path}
    pretrain(MaxMarginRanking(mlp(width=5)), **run)
    with pytest.raises(checkpoint.CheckpointError, match=r"other settings: average: 'query' there, 'pair' asked"):
        pretrain(MaxMarginRanking(mlp(width=5), average="pair"), **run)


def test_the_backbone_is_saved_alone_and_the_scorer_beside_it(tmp_path):
    task = MaxMarginRanking(mlp(width=4, hidden=[6], seed=1), seed=1)
    task.save(tmp_path, {"pretrained_on": task.description})
    assert "max-margin ranking (hinge loss; labelled queries)" in (tmp_path / "backbone" / "README.md").read_text()
    weights = checkpoint.read_tensors(tmp_path / "backbone" / "model.safetensors")
    assert weights.keys() == task.backbone.module.state_dict().keys()
    assert checkpoint.read_tensors(tmp_path / "task" / "model.safetensors").keys() == {"scorer.weight"}
    facts = checkpoint.read_json(tmp_path / "task" / "config.json")
    assert facts == {"task": "MaxMarginRanking", "scorer": {"layer": "hidden1", "pool": "auto"}}
    other = MaxMarginRanking(mlp(width=4, hidden=[6]))
    other.restore(tmp_path)
    assert checkpoint.tensors_digest(other.state_dict()) == checkpoint.tensors_digest(task.state_dict())


def test_the_settings_tell_two_tasks_apart():
    options = [{}, {"loss": "logistic"}, {"margin": 2.0}, {"margin_per_grade": True}, {"weighting": "ndcg"},
               {"weighting": "ndcg", "top": 3}, {"average": "pair"}, {"l2": 0.1}, {"dropout": 0.1},
               {"initial_scale": 0.1}, {"queries": LabelledQueries(list_size=4)}]  # fmt: skip
    found = {json.dumps(MaxMarginRanking(mlp(width=3), **chosen).settings) for chosen in options}
    assert len(found) == len(options)


def test_the_seed_decides_the_scorer_and_nothing_global():
    before = torch.random.get_rng_state()
    one, same, other = (MaxMarginRanking(mlp(width=3), seed=seed).scorer.weight for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(MaxMarginRanking(mlp(width=3), seed=3, initial_scale=0.25).scorer.weight, one / 4)


def test_a_batch_survives_pickling():
    batch = batch_of(MaxMarginRanking(mlp(width=4)), shared_items(own_margins=True))
    again = pickle.loads(pickle.dumps(batch))
    assert all(torch.equal(one, other) for one, other in zip(batch[:-1], again[:-1], strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hing"}, r'loss is one of hinge, squared_hinge, logistic, found "hing"\. Did you mean "?hinge'),
        ({"weighting": "map"}, 'weighting is one of equal, ndcg, found "map"'),
        ({"average": "item"}, 'average is one of query, pair, found "item"'),
        ({"margin": -1.0}, r"margin is a finite number from 0 up, found -1\.0"),
        ({"margin": math.nan}, "margin is a finite number from 0 up, found nan"),
        ({"l2": math.inf}, "l2 is a finite number from 0 up, found inf"),
        ({"initial_scale": -0.1}, "initial_scale is a finite number from 0 up, found -0.1"),
        ({"top": 0}, "top is 0: it is how far NDCG looks, from 1 up"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        MaxMarginRanking(mlp(width=3), **options)
