"""Labelled queries: what is drawn of a list, which of them train, how items are shared, and bad data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from auxtasks.backbones import convnet, mlp, transformers
from auxtasks.data import train_tokenizer
from auxtasks.data.loaders import Feed, Shard, read
from auxtasks.data.rankings import RankingTable
from auxtasks.errors import BackboneError, ColumnError, DataError, InputMismatchError, TrainingError
from auxtasks.pretrain import pretrain
from auxtasks.seeding import generator
from auxtasks.tasks import LabelledQueries, MaxMarginRanking
from auxtasks.tasks.ranking_batches import RankingItem, collate_ranking
from auxtasks.training.settings import LoopSettings

QUIET = LoopSettings(show_progress=False)
TOKENIZER = train_tokenizer(["a b c d e"] * 2, size=30)


def bert():
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16}  # fmt: skip
    return transformers(config, tokenizer=TOKENIZER, length=12)


def lists(grades: dict[object, list[float]]) -> Dataset:
    rows = [(query, grade) for query, of in grades.items() for grade in of]
    features = [[float(row), 1.0] for row in range(len(rows))]
    return Dataset.from_dict({"qid": [row[0] for row in rows], "grade": [row[1] for row in rows], "features": features})


def table_of(grades: dict[object, list[float]]) -> RankingTable:
    return LabelledQueries().prepare(lists(grades), mlp(width=2), None)


def rows_of(item: RankingItem) -> list[int]:
    return [int(values[0]) for values in item.inputs]


# What is drawn of a list


@pytest.mark.parametrize("list_size", [2, 3, 10, 19])
@pytest.mark.parametrize("grades", [[0.0] * 19 + [1.0], [2.0] + [0.0] * 19, [0.0, 1.0] * 10, list(range(20))])
def test_a_long_list_is_drawn_from_anew_with_two_grades_always(grades, list_size):
    queries = LabelledQueries(list_size=list_size)
    record = read(table_of({"a": grades}), 0)
    drawn = []
    for draw in range(150):
        item = queries.transform(record, generator(0, "transform", index=draw))
        rows = rows_of(item)
        assert len(rows) == list_size
        assert rows == sorted(set(rows)) == item.keys.tolist()
        assert item.grades.tolist() == [grades[row] for row in rows]
        assert len(set(item.grades.tolist())) > 1
        drawn.append(tuple(rows))
    assert len(set(drawn)) > 10
    assert {row for rows in drawn for row in rows} == set(range(20))  # none is never seen
    again = queries.transform(record, generator(0, "transform", index=7))
    assert tuple(rows_of(again)) == drawn[7]


@pytest.mark.parametrize("list_size", [None, 4, 5])
def test_a_list_that_is_short_enough_is_taken_whole(list_size):
    queries = LabelledQueries(list_size=list_size)
    record = read(table_of({"a": [3, 0, 1, 1]}), 0)
    assert rows_of(queries.transform(record, generator(0, "transform"))) == [0, 1, 2, 3]


def test_evaluation_takes_all_of_a_list():
    table = table_of({"a": [0, 1, 2, 3, 4, 5], "b": [1, 1, 1]})
    queries = LabelledQueries(list_size=2)
    assert [rows_of(queries.view(read(table, query))) for query in range(2)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]
    task = MaxMarginRanking(mlp(width=2), queries)
    assert task.evaluate(table) == MaxMarginRanking(mlp(width=2)).evaluate(table)


def test_every_epoch_draws_other_items_of_the_same_query():
    queries = LabelledQueries(list_size=2)
    table = table_of({"a": range(30), "b": range(30)})
    feed = Feed(table, queries.plan(table, 2, seed=0), queries.transform, collate_ranking, seed=0)
    drawn = [tuple(batch.inputs[:, 0].tolist()) for batch in feed.batches(0, 8, Shard())]
    assert len(set(drawn)) == 8


# What trains


def test_an_epoch_shows_every_query_that_says_something_once():
    table = table_of({"a": [1, 0], "alone": [2], "b": [0, 3, 3], "equal": [1, 1], "c": [2, 1]})
    assert table.speaking.tolist() == [0, 2, 4]
    plan = LabelledQueries().plan(table, 3, seed=0)
    assert plan.batch_size == 3
    epochs = [plan.batch(step) for step in range(6)]
    for epoch, picks in enumerate(epochs):
        assert sorted(pick.row for pick in picks) == [0, 2, 4]
        assert all((pick.epoch, pick.number) == (epoch, pick.row) for pick in picks)
    assert len({tuple(pick.row for pick in picks) for picks in epochs}) > 1


def test_silent_queries_do_not_train_but_are_counted_in_evaluation():
    speaking, silent = {"a": [1, 0], "b": [0, 3, 3]}, {"alone": [2], "equal": [1, 1]}
    seen = []
    task = MaxMarginRanking(mlp(width=2, hidden=[3]))
    collate = task.collate
    task.collate = lambda items: seen.extend(items) or collate(items)
    pretrain(task, lists({**speaking, **silent}), steps=4, batch_size=3, loop=QUIET)
    assert {tuple(item.grades.tolist()) for item in seen} == {(1, 0), (0, 3, 3)}
    found = task.evaluate(table_of({**speaking, **silent}))
    assert (found["queries"], found["queries_without_pairs"]) == (4, 2)
    assert found["pair_accuracy"] == task.evaluate(table_of(speaking))["pair_accuracy"]


def test_none_that_says_anything_is_an_error_of_training_alone():
    table = table_of({"a": [1], "b": [2, 2], "c": [0, 0, 0]})
    task = MaxMarginRanking(mlp(width=2))
    with pytest.raises(DataError, match="none of 3 queries has two items of different grades: there is nothing to le"):
        task.plan(table, 2, seed=0)
    found = task.evaluate(table)
    assert (found["queries"], found["queries_without_pairs"]) == (3, 3)
    assert np.isnan(found["pair_accuracy"])


def test_some_queries_speak_as_the_whole_does():
    table = table_of({"a": [1, 0], "alone": [2], "b": [0, 3, 3], "equal": [1, 1]})
    assert table.subset([3, 2, 1]).speaking.tolist() == [1]
    assert table.subset([]).speaking.tolist() == []
    rng = np.random.default_rng(0)
    grades = {query: rng.integers(2, size=rng.integers(1, 4)).tolist() for query in range(50)}
    expected = [query for query, of in grades.items() if len(set(of)) > 1]
    assert table_of(grades).speaking.tolist() == expected
    assert 0 < len(expected) < 50


# Batches


def test_items_are_shared_between_the_queries_of_a_batch():
    pairs = {"chosen": [[1, 0], [1, 1], [0, 1]], "rejected": [[0, 0], [1, 0], [0, 0]], "margin": [0.5, None, 2]}
    queries = LabelledQueries()
    table = queries.prepare(Dataset.from_dict(pairs), mlp(width=2), None)
    batch = collate_ranking([queries.view(read(table, pair)) for pair in (2, 0, 1)])
    places = batch.inputs[batch.item].tolist()
    assert places == [[0, 1], [0, 0], [1, 0], [0, 0], [1, 1], [1, 0]]
    assert len(batch.inputs) == 4
    assert batch.query.tolist() == [0, 0, 1, 1, 2, 2]
    assert (batch.better.tolist(), batch.worse.tolist()) == ([0, 2, 4], [1, 3, 5])
    assert batch.margins[:2].tolist() == [2, 0.5]
    assert batch.margins[2].isnan()


def test_texts_are_padded_and_equal_ones_computed_once():
    queries = LabelledQueries()
    pairs = {"chosen": ["a b c", "a"], "rejected": ["b", "a b c"]}
    table = queries.prepare(Dataset.from_dict(pairs), bert(), None)
    batch = collate_ranking([queries.view(read(table, pair)) for pair in range(2)])
    lengths = batch.inputs.mask.sum(dim=1)
    assert lengths[batch.item].tolist() == [5, 3, 3, 5]
    assert (batch.inputs.ids[~batch.inputs.mask] == TOKENIZER.pad_token_id).all()
    assert len(lengths) == 3
    lists_of_texts = {"qid": ["q", "q"], "grade": [0, 1], "text": ["a b", "c"]}
    table = queries.prepare(Dataset.from_dict(lists_of_texts), bert(), None)
    found = MaxMarginRanking(bert()).evaluate(table)
    assert found["queries"] == 1


def test_pictures_of_a_list_come_as_the_backbone_takes_them():
    images = [Image.fromarray(np.full((20, 20), shade, np.uint8)) for shade in (10, 200, 90)]
    data = Dataset.from_dict({"qid": [1, 1, 1], "grade": [0, 2, 1], "image": images})
    task = MaxMarginRanking(convnet(size=16, widths=[8], blocks=[1], embedding=4))
    table = task.prepare(data)
    batch = task.collate([task.view(read(table, 0))])
    assert batch.inputs.shape == (3, 1, 16, 16)
    assert batch.inputs.dtype == torch.uint8
    assert batch.inputs.flatten(1).float().mean(dim=1).tolist() == [10, 200, 90]
    assert pretrain(task, data, steps=1, batch_size=1, loop=QUIET).steps == 1


# Bad data


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"qid": [1, 2, 1], "grade": [0, 1, 1], "features": [[0, 1]] * 3}, DataError,
         "the query 1 begins in row 0, and comes back in row 2"),
        ({"qid": [1, 1], "grade": [0, 1], "features": [[0, 1], [0.0, np.nan]]}, DataError,
         r"row 1 holds nan as feature 1 \(from 0\) of the column 'features'"),
        ({"qid": [1, 1], "grade": [0, None], "features": [[0, 1], [0, 2]]}, DataError,
         "row 1 holds nan in the column 'grade'; expected a finite grade"),
        ({"qid": [1, 1], "grade": [0, 1], "features": [[0, 1, 2], [0, 1, 3]]}, InputMismatchError,
         r"features items of shape \(2,\), the table holds vectors of 3 features"),
        ({"qid": [1, 1], "grade": [0, 1], "text": ["a", "b"]}, ColumnError,
         "there is no column 'features'; there are qid, grade, text"),
        ({"chosen": ["a", "b"], "rejected": ["b", "a"]}, ColumnError,
         "the column 'chosen' holds string .*expected a list of numbers"),
        ({"chosen": [[0, 1], [1, 1]], "rejected": [[0, 1], [1, 1]]}, DataError,
         r"none of 2 pairs says which item is better \(both the same: 2\)"),
        ({"chosen": [[0, 1]], "rejected": [[0, 2]], "margin": [-1.0]}, DataError,
         r"row 0 has the margin -1\.0; expected a finite number that is not negative"),
        ({"features": [[0, 1]], "grade": [1]}, ColumnError,
         r"chosen and rejected \(pairs\), or qid, grade and what is ranked \(lists\); there are features, grade"),
        ({"qid": [1], "features": [[0, 1]]}, ColumnError, "have the columns chosen and rejected .*are qid, features"),
        ({"chosen": [[0, 1]], "features": [[0, 1]]}, ColumnError, "have the columns chosen and rejected"),
    ],
)  # fmt: skip
def test_bad_data_is_refused(columns, error, message):
    with pytest.raises(error, match=message):
        MaxMarginRanking(mlp(width=2)).prepare(Dataset.from_dict(columns))


def test_a_pair_of_equals_is_left_out_and_counted():
    pairs = {"chosen": ["a b", "c", "a"], "rejected": ["a b", "d", "b"]}
    table = LabelledQueries().prepare(Dataset.from_dict(pairs), bert(), None)
    assert len(table) == 2
    assert table.left_out == {"both the same": 1, "the same tokens": 0}


def test_grades_that_have_no_gain_are_refused_where_they_are_asked_for_one():
    table = table_of({"a": [-1, 1]})
    assert len(table.speaking) == 1  # which is better than which they say well
    with pytest.raises(DataError, match="grades must be from 0 to 100 to have exponential gains, found -1"):
        MaxMarginRanking(mlp(width=2)).evaluate(table)


@pytest.mark.parametrize("grades", [[-1, 1], [0, 101]])
def test_held_out_grades_without_a_gain_are_refused_before_a_step_is_taken(tmp_path, grades):
    task, table = MaxMarginRanking(mlp(width=2)), table_of({"a": [0, 1], "b": grades})
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    with pytest.raises(DataError, match=rf"grades must be from 0 to 100 .*\(item {int(grades[0] == 0)} of query 1\)"):
        pretrain(task, table, steps=1, batch_size=2, validation=table, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(before[name], tensor) for name, tensor in task.state_dict().items())
    pretrain(task, table, steps=1, batch_size=2)  # which is better than which they say well
    assert any(not torch.equal(before[name], tensor) for name, tensor in task.state_dict().items())


def test_a_batch_far_larger_than_all_there_is_is_refused():
    table = table_of({"a": [0, 1], "b": [1, 0]})
    with pytest.raises(DataError, match=r"a batch of 201 would hold each item 100 times: there are 2 records\."):
        pretrain(MaxMarginRanking(mlp(width=2)), table, steps=1, batch_size=201)


def test_what_makes_no_queries_is_refused():
    with pytest.raises(DataError, match="list_size is 1: a list to rank has at least two items"):
        LabelledQueries(list_size=1)
    task = MaxMarginRanking(mlp(width=2))
    with pytest.raises(DataError, match=r"a RankingTable, found list: make one by task\.prepare\(\)"):
        task.plan([1, 2], 4, seed=0)
    with pytest.raises(DataError, match=r"labelled queries do not stream.*Pass a datasets\.Dataset"):
        task.stream(lists({"a": [0, 1]}).to_iterable_dataset(), 4, seed=0)
    bare = transformers({"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                         "intermediate_size": 16, "vocab_size": 50}, length=20)  # fmt: skip
    with pytest.raises(BackboneError, match="has no tokenizer"):
        LabelledQueries().prepare(Dataset.from_dict({"chosen": ["a"], "rejected": ["b"]}), bare, None)


def test_a_table_that_the_backbone_does_not_take_is_refused_before_training():
    vectors, texts = MaxMarginRanking(mlp(width=2)), MaxMarginRanking(bert())
    table = table_of({"a": [0, 1]})
    pairs = Dataset.from_dict({"chosen": ["a b"], "rejected": ["b"]})
    with pytest.raises(InputMismatchError, match="takes texts of at most 12 tokens, the table holds vectors"):
        pretrain(texts, table, steps=1, batch_size=2, loop=QUIET)
    with pytest.raises(InputMismatchError, match=r"features items of shape \(2,\), the table holds texts"):
        vectors.plan(texts.prepare(pairs), 2, seed=0)
    wider = dataclasses.replace(table, items=dataclasses.replace(table.items, values=np.ones((2, 5), np.float32)))
    with pytest.raises(InputMismatchError, match="the table holds vectors of 5 features"):
        vectors.plan(wider, 2, seed=0)


def test_pairs_have_no_ndcg_to_keep_the_best_of():
    pairs = Dataset.from_dict({"chosen": [[0, 1], [1, 1]], "rejected": [[0, 0], [1, 0]]})
    loop = LoopSettings(show_progress=False, validate_every=1, keep_best="ndcg@10")
    with pytest.raises(TrainingError, match="none of the validation metrics of step 1: pair_accuracy, queries"):
        pretrain(MaxMarginRanking(mlp(width=2)), pairs, steps=1, batch_size=2, validation=pairs, loop=loop)
