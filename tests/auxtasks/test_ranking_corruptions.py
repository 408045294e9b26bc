"""Items above corruptions of them: grades, chance of an item's own, what is learnt, and what cannot be."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from auxtasks.backbones import Backbone, convnet, mlp, transformers
from auxtasks.data import Mixture, load_source, train_tokenizer
from auxtasks.data.corruptions import KINDS, ORDER_ONLY
from auxtasks.data.item_corruptions import FeatureNoise
from auxtasks.data.loaders import Feed, Shard, read
from auxtasks.errors import BackboneError, ColumnError, DataError, InputMismatchError
from auxtasks.pretrain import pretrain
from auxtasks.seeding import generator
from auxtasks.tasks import CorruptedItems, CorruptedSentences, MaxMarginRanking
from auxtasks.tasks.grammaticality import load_minimal_pairs
from auxtasks.tasks.ranking_batches import NO_KIND, RankingBatch, collate_ranking
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

QUIET = LoopSettings(show_progress=False, log_every=50)
WORDS = {
    "noun": ["dog", "cat", "bird", "fox", "wolf", "mouse"],
    "verb": ["sees", "hears", "likes", "chases"],
    "adjective": ["big", "small", "old", "young", "red"],
}


def grammar(count: int, seed: int) -> list[str]:
    """Draw sentences such as "the old dog sees the cat"."""
    rng = np.random.default_rng(seed)

    def thing() -> str:
        adjective = f"{rng.choice(WORDS['adjective'])} " if rng.random() < 0.6 else ""
        return f"the {adjective}{rng.choice(WORDS['noun'])}"

    return [f"{thing()} {rng.choice(WORDS['verb'])} {thing()}." for _ in range(count)]


TOKENIZER = train_tokenizer(grammar(200, seed=0), size=200)


def small_bert() -> Backbone:
    config = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
              "attention_probs_dropout_prob": 0.0}  # fmt: skip
    return transformers(config, tokenizer=TOKENIZER, length=24)


def sentence_task(**options) -> MaxMarginRanking:
    backbone = small_bert()
    return MaxMarginRanking(backbone, CorruptedSentences(SentenceSource(backbone, **options)))


def sentences(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts})


def vectors(count: int, seed: int, *, tied: bool = True) -> Dataset:
    """Draw six features that are sums of two hidden ones; or six that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    if tied:
        values = rng.normal(size=(count, 2)) @ np.random.default_rng(99).normal(size=(2, 6))
    else:
        values = rng.normal(size=(count, 6))
    return Dataset.from_dict({"features": values.astype(np.float32).tolist()})


def faces(people: int, first_person: int = 0) -> Dataset:
    options = {"people": people, "photos": 2, "size": 20, "first_person": first_person}
    return load_source("builtin:drawn_faces", columns={"image": "image"}, options=options)


def picture_net() -> Backbone:
    return convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)


# Learning


def test_sentences_are_put_above_their_corruptions_also_those_of_minimal_pairs():
    task = sentence_task(corruptions=2)
    held_out = task.prepare(sentences(grammar(40, seed=1)))
    before = task.evaluate(held_out)
    found = pretrain(task, sentences(grammar(300, seed=0)), steps=90, batch_size=8, validation=held_out, loop=QUIET,
                     optimizer=OptimizerSettings(learning_rate=4e-3)).metrics  # fmt: skip
    assert before["pair_accuracy"] < 0.7
    assert found["validation/pair_accuracy"] > 0.85
    assert found["validation/pair_accuracy/order_only"] > 0.85
    assert {f"validation/pair_accuracy/{kind}" for kind in KINDS} < found.keys()
    good = grammar(50, seed=2)
    words = [sentence[:-1].split() for sentence in good]
    bad = [" ".join([*sentence[::-1]]) + "." for sentence in words]
    pairs = load_minimal_pairs(Dataset.from_dict({"sentence_good": good, "sentence_bad": bad}))
    accuracy = pairs.accuracy(task, TOKENIZER, length=24)
    assert accuracy["accuracy"] == accuracy["order_only"] > 0.9


def test_words_without_an_order_teach_none():
    def disordered(texts: list[str]) -> list[str]:
        rng = np.random.default_rng(7)
        return [" ".join(rng.permutation(text[:-1].split())) + "." for text in texts]

    task = sentence_task(corruptions=2)
    held_out = task.prepare(sentences(disordered(grammar(60, seed=1))))
    found = pretrain(task, sentences(disordered(grammar(300, seed=0))), steps=90, batch_size=8, validation=held_out,
                     loop=QUIET, optimizer=OptimizerSettings(learning_rate=4e-3)).metrics  # fmt: skip
    assert 0.4 < found["validation/pair_accuracy/order_only"] < 0.6


def test_vectors_are_put_above_their_corruptions_where_features_are_tied():
    found = {}
    for tied in (True, False):
        task = MaxMarginRanking(mlp(width=6, hidden=[32, 32]), CorruptedItems())
        pretrain(task, vectors(400, seed=0, tied=tied), steps=60, batch_size=16, loop=QUIET,
                 optimizer=OptimizerSettings(learning_rate=0.01))  # fmt: skip
        found[tied] = task.evaluate(task.prepare(vectors(200, seed=1, tied=tied)))
    names = [f"pair_accuracy/strength {strength}" for strength in ("0.25", "0.5", "1")]
    assert set(names) < found[True].keys()
    assert found[True]["pair_accuracy"] > 0.9
    # What is swapped in is as likely as what was there: nobody can tell.
    assert 0.4 < found[False]["pair_accuracy"] < 0.6


def test_pictures_are_put_above_their_distortions():
    queries = CorruptedItems(strengths=(0.5, 1.0), distortions=("noise", "blocks"))
    task = MaxMarginRanking(picture_net(), queries)
    held_out = task.prepare(faces(15, first_person=1000))
    before = task.evaluate(held_out)["pair_accuracy"]
    pretrain(task, faces(30), steps=60, batch_size=12, loop=QUIET, optimizer=OptimizerSettings(learning_rate=5e-3))
    found = task.evaluate(held_out)
    assert found["pair_accuracy"] > 0.9 > before
    assert found.keys() == {"pair_accuracy", "pair_accuracy/strength 0.5", "pair_accuracy/strength 1"}


# What a query is


def test_a_query_is_an_item_above_corruptions_of_rising_strength():
    task = MaxMarginRanking(mlp(width=6), CorruptedItems(strengths=(0.2, 0.6, 1.0), noise="gaussian", amount=2.0))
    table = task.prepare(vectors(20, seed=0))
    values = table.table.values
    for row in range(20):
        for query in (task.view(read(table, row)), task.transform(read(table, row), generator(0, "t", index=row))):
            assert query.grades.tolist() == [3, 2, 1, 0]
            assert query.kinds.tolist() == [NO_KIND, 0, 1, 2]
            assert np.isnan(query.margin)
            np.testing.assert_array_equal(query.inputs[0], values[row])
            # The same way, further.
            steps = [np.linalg.norm((worse - values[row]) / values.std(axis=0)) for worse in query.inputs[1:]]
            np.testing.assert_allclose(np.array(steps) / steps[2], [0.2, 0.6, 1.0], rtol=1e-4)
    batch = task.collate([task.view(read(table, row)) for row in range(3)])
    assert len(batch.better) == 3 * 6
    assert batch.inputs.shape == (12, 6)


def test_two_strengths_that_do_the_same_are_one():
    # Of two features a quarter and a half are both one: the same vector cannot be better than itself.
    queries = CorruptedItems(strengths=(0.25, 0.5, 1.0), noise="masking", amount=1.0)
    table = queries.prepare(Dataset.from_dict({"features": [[1.0, 2.0], [3.0, 4.0]]}), mlp(width=2), None)
    for row, seed in itertools.product(range(2), range(20)):
        query = queries.transform(read(table, row), generator(seed, "t"))
        assert query.grades.tolist() == [3, 2, 0]
        assert query.kinds.tolist() == [NO_KIND, 0, 2]
        assert len({values.tobytes() for values in query.inputs}) == 3


def test_what_cannot_be_corrupted_says_nothing_and_breaks_nothing():
    queries = CorruptedItems(noise="masking", amount=1.0)
    task = MaxMarginRanking(mlp(width=2, hidden=[3]), queries)
    rows = {"features": [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]}
    table = task.prepare(Dataset.from_dict(rows))
    assert [len(task.view(read(table, row)).inputs) for row in range(3)] == [1, 3, 1]
    result = pretrain(task, table, steps=6, batch_size=1, loop=LoopSettings(show_progress=False, log_every=1))
    assert result.steps == 6
    assert all(parameter.isfinite().all() for parameter in task.parameters())
    assert "pair_accuracy/strength 1" in task.evaluate(table)
    assert np.isnan(task.evaluate(table.subset([0, 2]))["pair_accuracy"])


def test_sentences_stand_above_as_many_corruptions_as_are_asked_for():
    task = sentence_task(corruptions=2, mixture=Mixture({"shuffle": 1.0}))
    table = task.prepare(sentences(grammar(10, seed=0)))
    for row in range(10):
        query = task.transform(read(table, row), generator(0, "t", index=row))
        assert query.grades.tolist() == [1, 0, 0]
        assert query.kinds.tolist() == [NO_KIND, *[list(KINDS).index("shuffle")] * 2]
        assert all(sorted(tokens) == sorted(query.inputs[0]) for tokens in query.inputs)
        view = task.view(read(table, row))
        assert set(view.kinds.tolist()) <= {NO_KIND, *range(len(KINDS))}
        assert len(view.kinds) > 5
        np.testing.assert_array_equal(view.inputs[0], query.inputs[0])


def test_pictures_keep_their_shape_and_the_item_is_left_alone():
    task = MaxMarginRanking(picture_net(), CorruptedItems())
    table = task.prepare(faces(3))
    before = np.array(table.table.pixels)
    query = task.transform(read(table, 2), generator(0, "t"))
    assert {(picture.shape, picture.dtype.name) for picture in query.inputs} == {((16, 16, 1), "uint8")}
    assert len(query.inputs) == 4
    np.testing.assert_array_equal(np.array(table.table.pixels), before)
    assert task.collate([query]).inputs.shape == (4, 1, 16, 16)


# Chance


def distinct_rows(batches: list[RankingBatch]) -> dict[bool, set[tuple[float, ...]]]:
    """Return the items as they are (True) and the corruptions of them (False)."""
    found: dict[bool, set[tuple[float, ...]]] = {True: set(), False: set()}
    for batch in batches:
        for values, kind in zip(batch.inputs.flatten(1).tolist(), batch.kinds.tolist(), strict=True):
            found[kind == NO_KIND].add(tuple(values))
    return found


@pytest.mark.parametrize("kind", ["vectors", "pictures", "sentences"])
def test_workers_change_no_bit_and_every_epoch_draws_anew(kind):
    if kind == "sentences":
        task, data = sentence_task(corruptions=2), sentences(grammar(12, seed=0))
    elif kind == "vectors":
        task, data = MaxMarginRanking(mlp(width=6), CorruptedItems()), vectors(12, seed=0)
    else:
        task, data = MaxMarginRanking(picture_net(), CorruptedItems()), faces(6)
    table = task.prepare(data)

    def batches(workers: int):
        feed = Feed(table, task.plan(table, 4, seed=0), task.transform, collate_ranking, seed=0, workers=workers)
        return list(feed.batches(0, 6, Shard()))

    alone, helped = batches(0), batches(1)
    for one, other in zip(alone, helped, strict=True):
        for name in ("inputs", "item", "query", "grades", "kinds", "better", "worse"):
            pair = [getattr(batch, name) for batch in (one, other)]
            pair = [getattr(values, "ids", values) for values in pair]
            assert torch.equal(*pair), name
    if kind != "sentences":  # whose batches differ in width
        first, second = distinct_rows(alone[:3]), distinct_rows(alone[3:])
        assert first[True] == second[True]  # the same items, and other corruptions of them
        assert len(first[False] & second[False]) < len(first[False]) / 2


def test_views_are_always_the_same_and_each_row_has_its_own():
    queries = CorruptedItems(noise="gaussian")
    table = queries.prepare(Dataset.from_dict({"features": [[1.0, 2.0]] * 3 + [[0.0, 1.0]]}), mlp(width=2), None)
    views = [queries.view(read(table, row)) for row in (0, 0, 1)]
    for one, other in zip(views[0].inputs, views[1].inputs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(views[0].inputs[1], views[2].inputs[1])


# Evaluation


@pytest.mark.parametrize("kind", ["vectors", "sentences"])
def test_accuracy_by_kind_is_counted_by_loops(kind):
    if kind == "sentences":
        task, data = sentence_task(), sentences(grammar(9, seed=3))
    else:
        task, data = MaxMarginRanking(mlp(width=6, hidden=[4], seed=1), CorruptedItems()), vectors(40, seed=3)
    table = task.prepare(data)
    won: dict[str, list[float]] = {}
    for row in range(len(table)):
        query = task.view(read(table, row))
        with torch.no_grad():
            scores = task.score(task.collate([query]).inputs).double().tolist()
        for score, number in zip(scores[1:], query.kinds[1:], strict=True):
            won.setdefault(task.queries.kinds[number], []).append((scores[0] > score) + 0.5 * (scores[0] == score))
    expected = {f"pair_accuracy/{name}": np.mean(values) for name, values in won.items()}
    expected["pair_accuracy"] = np.mean([value for values in won.values() for value in values])
    order = [value for name in ORDER_ONLY for value in won.get(name, [])]
    if order:
        expected["pair_accuracy/order_only"] = np.mean(order)
    for batch_size in (1, 7, 100):
        assert task.evaluate(table, batch_size=batch_size) == pytest.approx(expected)
    assert 0 < expected["pair_accuracy"] < 1


# Runs


@pytest.mark.parametrize("kind", ["vectors", "sentences"])
def test_a_run_goes_on_in_its_folder(tmp_path, kind):
    def run(steps_of_checkpoint: int, folder: str, stop: bool = False):
        if kind == "sentences":
            task, data = sentence_task(), sentences(grammar(20, seed=0))
        else:
            task, data = MaxMarginRanking(mlp(width=6), CorruptedItems()), vectors(20, seed=0)
        if stop:
            handle, seen = task.collate, []
            task.collate = lambda items: handle(items) if seen.append(1) or len(seen) < 4 else 1 / 0
        loop = LoopSettings(show_progress=False, checkpoint_every=steps_of_checkpoint)
        pretrain(task, data, steps=5, batch_size=4, folder=tmp_path / folder, loop=loop)
        return task.state_dict()

    straight = run(0, "straight")
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        run(2, "again", stop=True)
    again = run(2, "again")
    assert all(torch.equal(again[name], value) for name, value in straight.items())


def test_sentences_stream():
    task = sentence_task()
    stream = sentences(grammar(64, seed=0)).to_iterable_dataset(num_shards=2)
    result = pretrain(task, stream, steps=3, batch_size=8, loop=QUIET)
    assert result.metrics["loss"] > 0


def test_the_settings_tell_two_tasks_apart():
    found = [CorruptedItems(), CorruptedItems(strengths=(0.5, 1.0)), CorruptedItems(noise="masking"),
             CorruptedItems(amount=0.3), CorruptedItems(distortions=("blur",))]  # fmt: skip
    backbone = small_bert()
    found += [CorruptedSentences(SentenceSource(backbone, **options)) for options in
              ({}, {"corruptions": 2}, {"mixture": Mixture({"swap": 1.0})}, {"window": 3})]  # fmt: skip
    assert len({str(queries.settings) for queries in found}) == len(found)
    assert CorruptedItems().description == "items above corruptions of strength 0.25, 0.5, 1"
    assert CorruptedSentences(SentenceSource(backbone)).description.startswith("sentences above shuffle, ")


def test_some_items_are_corrupted_as_all_are():
    queries = CorruptedItems(noise="swap", amount=1.0)
    table = queries.prepare(vectors(30, seed=0), mlp(width=6), None)
    part = table.subset([7, 3])
    assert len(part) == 2
    np.testing.assert_array_equal(part.record(1)["item"], table.record(3)["item"])
    assert isinstance(part.corruption, FeatureNoise)
    assert len(part.corruption.values) == 30
    again = queries.prepare(vectors(30, seed=0), mlp(width=6), None)
    other = dataclasses.replace(queries, amount=0.5).prepare(vectors(30, seed=0), mlp(width=6), None)
    assert table.fingerprint == again.fingerprint
    assert len({table.fingerprint, part.fingerprint, other.fingerprint, table.subset([3, 7]).fingerprint}) == 4


# What cannot be


@pytest.mark.parametrize("strengths", [(), (0.5, 0.25), (0.5, 0.5), (0.0, 1.0), (0.5, 1.5), (-0.5,)])
def test_strengths_that_are_none_are_refused(strengths):
    with pytest.raises(DataError, match="above 0 and at most 1, in rising order, found"):
        CorruptedItems(strengths=strengths)


def test_bad_data_and_settings_are_refused():
    queries, grey = CorruptedItems(), Image.fromarray(np.zeros((20, 20), np.uint8))
    with pytest.raises(DataError, match=r"takes texts: rank sentences .* \(CorruptedSentences\)"):
        queries.prepare(sentences(["a b"]), small_bert(), None)
    with pytest.raises(InputMismatchError, match="holds vectors of 6 features"):
        queries.prepare(vectors(4, seed=0), mlp(width=5), None)
    with pytest.raises(ColumnError, match="there is no column 'features'; there are text"):
        queries.prepare(sentences(["a b"]), mlp(width=5), None)
    with pytest.raises(DataError, match=r"row 1 holds nan as feature 0"):
        queries.prepare(Dataset.from_dict({"features": [[0.0], [np.nan]]}), mlp(width=1), None)
    with pytest.raises(DataError, match=r"there is no feature noise 'swop'.*swap"):
        CorruptedItems(noise="swop").prepare(vectors(4, seed=0), mlp(width=6), None)
    with pytest.raises(DataError, match="there is no distortion 'blurr'"):
        CorruptedItems(distortions=("blurr",)).prepare(Dataset.from_dict({"image": [grey]}), picture_net(), None)
    task = MaxMarginRanking(mlp(width=6), queries)
    with pytest.raises(DataError, match=r"CorruptibleItems, found list: make them by task\.prepare\(\)"):
        task.plan([1, 2], 4, seed=0)
    with pytest.raises(InputMismatchError, match="the table holds vectors of 6 features"):
        MaxMarginRanking(mlp(width=5), queries).plan(task.prepare(vectors(4, seed=0)), 2, seed=0)
    with pytest.raises(DataError, match=r"do not stream: they are read as a whole. Pass a datasets\.Dataset"):
        task.stream(vectors(4, seed=0).to_iterable_dataset(), 4, seed=0)


def test_bad_sentences_are_refused():
    task = sentence_task()
    with pytest.raises(ColumnError, match="there is no column 'text'; there are sentence"):
        task.prepare(Dataset.from_dict({"sentence": ["a b"]}))
    with pytest.raises(DataError, match=r"read a SentenceTable, found list: make one by task\.prepare\(\)"):
        task.plan([1, 2], 4, seed=0)
    with pytest.raises(BackboneError, match="need a backbone that takes text; this one takes features"):
        SentenceSource(mlp(width=3))
    with pytest.raises(DataError, match="at least one corruption beside it, found 0"):
        SentenceSource(small_bert(), corruptions=0)
    strange = MaxMarginRanking(small_bert(), CorruptedSentences(SentenceSource(small_bert())))
    with pytest.raises(DataError, match="spelled for another backbone than the task's: give both the same"):
        strange.prepare(sentences(grammar(4, seed=0)))
