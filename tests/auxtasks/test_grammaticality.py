"""Whether scores tell good sentences from bad: pairs, groups, labels, and what a bag of words must not see."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import accuracy_score, matthews_corrcoef, roc_auc_score
from torch import nn

from auxtasks.backbones import TokenBatch
from auxtasks.data import load_source
from auxtasks.data.corruptions import KINDS
from auxtasks.data.ragged import Ragged
from auxtasks.data.texts import encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import ColumnError, DataError
from auxtasks.tasks import grammaticality
from auxtasks.tasks.grammaticality import (
    SentenceEvaluator,
    acceptability,
    bag_of_words_control,
    load_minimal_pairs,
    score,
)
from auxtasks.tasks.sentence_batches import SentenceBatch, SentenceItem, SentenceRow

WORDS = "the a cat dog sat ran on mat"
TOKENIZER = train_tokenizer([WORDS] * 2, size=60)
CAT, DOG = TOKENIZER.convert_tokens_to_ids(["cat", "dog"])


class CountsCats:
    """Says that a sentence is as good as it has cats, less its dogs."""

    def goodness(self, tokens: TokenBatch) -> torch.Tensor:
        found = (tokens.ids == CAT).float() - (tokens.ids == DOG).float()
        return (found * tokens.mask).sum(dim=1)


def pairs_of(rows: list[tuple[str, str]], **columns: list[str]) -> Dataset:
    good, bad = zip(*rows, strict=True)
    return Dataset.from_dict({"sentence_good": list(good), "sentence_bad": list(bad), **columns})


ROWS = [
    ("the cat sat", "the dog sat"),  # won
    ("The cat sat on.", "on the cat, sat"),  # a tie, and the same words
    ("the dog ran", "the cat ran"),  # lost
    ("the cat cat", "the cat dog"),  # won
    ("a dog a", "dog a a"),  # a tie, and the same words
]


# Minimal pairs


def test_a_pair_is_won_by_the_higher_score_and_a_tie_is_half():
    pairs = load_minimal_pairs(pairs_of(ROWS, phenomenon=["x", "x", "y", "y", "y"], uid=["1", "2", "3", "3", "4"]))
    assert len(pairs) == 5
    assert pairs.order_only.tolist() == [False, True, False, False, True]
    assert pairs.accuracy(CountsCats(), TOKENIZER, length=20) == pytest.approx(
        {
            "accuracy": 3 / 5,
            "order_only": 0.5,
            "phenomenon/x": 0.75,
            "phenomenon/y": 0.5,
            "uid/1": 1.0,
            "uid/2": 0.5,
            "uid/3": 0.5,
            "uid/4": 0.5,
        }
    )


def test_pairs_without_groups_or_mere_order():
    pairs = load_minimal_pairs(pairs_of(ROWS[:1]))
    assert pairs.accuracy(CountsCats(), TOKENIZER, length=20) == {"accuracy": 1.0}


def test_sentences_are_scored_as_far_as_the_backbone_reads():
    pairs = load_minimal_pairs(pairs_of([("the mat the cat", "the mat the dog")]))
    assert pairs.accuracy(CountsCats(), TOKENIZER, length=5)["accuracy"] == 0.5
    assert pairs.accuracy(CountsCats(), TOKENIZER, length=6)["accuracy"] == 1.0


def test_sentences_that_were_cut_are_counted_and_warned_of(caplog):
    pairs = load_minimal_pairs(pairs_of([("the mat the cat", "the mat the dog"), ("a cat", "the cat sat on")]))
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        pairs.accuracy(CountsCats(), TOKENIZER, length=6)
        assert caplog.records == []
        pairs.accuracy(CountsCats(), TOKENIZER, length=5)
    assert "3 of 4 sentences of minimal pairs have more than 5 tokens and were cut" in caplog.text


def test_the_same_order_is_not_another_one():
    pairs = load_minimal_pairs(pairs_of([("A cat sat.", "a cat, sat"), ("a cat sat", "sat a cat"), ("a a", "a")]))
    assert pairs.order_only.tolist() == [False, True, False]


def test_a_pair_of_equal_sentences_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        pairs = load_minimal_pairs(pairs_of([("a cat", "a cat"), *ROWS]))
    assert "1 of 6 minimal pairs hold the same sentence twice: they count as ties" in caplog.text
    assert pairs.accuracy(CountsCats(), TOKENIZER, length=20)["accuracy"] == pytest.approx(3.5 / 6)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"sentence_good": ["a"], "bad": ["b"]}, ColumnError, "missing is sentence_bad, found are sentence_good, bad"),
        ({"sentence_good": ["a"], "sentence_bad": [3]}, ColumnError, "'sentence_bad' holds .*; expected strings"),
        ({"sentence_good": ["a", " "], "sentence_bad": ["b", "c"]}, DataError, "row 1: a minimal pair is two sente"),
        ({"sentence_good": ["a", "b"], "sentence_bad": ["b", None]}, DataError, "row 1: .*found 'b' and ''"),
        ({"sentence_good": [], "sentence_bad": []}, DataError, "there are no minimal pairs: the data set is empty"),
    ],
)
def test_what_makes_no_pairs_is_refused(columns, error, message):
    with pytest.raises(error, match=message):
        load_minimal_pairs(Dataset.from_dict(columns))


# Scores


class Noisy(nn.Module):
    """Random while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 1)
        self.dropout = nn.Dropout(0.5)
        self.batches: list[int] = []

    def goodness(self, tokens: TokenBatch) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.batches.append(len(tokens.ids))
        return (self.dropout(self.embedding(tokens.ids)).squeeze(2) * tokens.mask).sum(dim=1)


def test_a_score_depends_on_no_other_text_and_keeps_the_order(monkeypatch):
    rng = np.random.default_rng(0)
    tokens = Ragged.of([rng.integers(5, 20, size=size) for size in rng.integers(1, 30, size=80)])
    scorer = Noisy().train()
    found = score(scorer, tokens, pad_id=0)
    alone = [score(scorer, tokens.take([row]), pad_id=0)[0] for row in range(80)]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    weights = scorer.embedding.weight.detach().double().numpy()[:, 0]
    np.testing.assert_allclose(found, [weights[tokens[row]].sum() for row in range(80)], atol=1e-5)
    assert scorer.training  # as it was
    assert scorer.batches[0] == 80

    scorer.batches.clear()
    monkeypatch.setattr(grammaticality, "SCORED_TOKENS", 64)
    np.testing.assert_allclose(score(scorer, tokens, pad_id=0), found, atol=1e-5)
    assert len(scorer.batches) > 10
    assert sum(scorer.batches) == 80
    assert score(scorer, tokens.take([]), pad_id=0).tolist() == []


# Labelled texts


@pytest.fixture
def labelled():
    texts = ["the cat sat", "the dog sat", "a cat cat", "the mat", "dog dog", "cat dog", "a cat", "the cat cat cat"]
    labels = ["good", "bad", "good", "good", "bad", "bad", "bad", "good"]
    names = {"good": 1, "bad": 0}
    source = load_source({"text": texts, "label": labels}, columns={"text": "text", "label": "label"})
    return encode_texts(source, TOKENIZER, length=20), np.array([names[label] for label in labels])


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.0])
def test_acceptability_is_what_scikit_learn_says(labelled, threshold):
    table, labels = labelled
    assert table.labels.tolist() == labels.tolist()  # "bad" before "good"
    scores = np.array([1.0, -1, 2, 0, -2, 0, 1, 3])
    assert acceptability(CountsCats(), table, threshold=threshold) == pytest.approx(
        {
            "roc_auc": roc_auc_score(labels, scores),
            "matthews": matthews_corrcoef(labels, scores > threshold),
            "accuracy": accuracy_score(labels, scores > threshold),
        }
    )


@pytest.mark.parametrize("labels", [["x", "x"], ["x", "y", "z"]])
def test_acceptability_needs_two_classes(labels):
    source = load_source({"text": ["a cat"] * len(labels), "label": labels}, columns={"text": "text", "label": "label"})
    with pytest.raises(DataError, match=f"two classes, bad and good; found {', '.join(sorted(set(labels)))}"):
        acceptability(CountsCats(), encode_texts(source, TOKENIZER, length=20))
    unlabelled = encode_texts(Dataset.from_dict({"text": ["a cat"]}), TOKENIZER, length=20)
    with pytest.raises(DataError, match="two classes, bad and good; found none"):
        acceptability(CountsCats(), unlabelled)


def test_acceptability_needs_a_label_for_each_text(labelled):
    table, labels = labelled
    hidden = dataclasses.replace(table, labels=np.where(np.arange(8) < 3, -1, table.labels))
    with pytest.raises(DataError, match="each with a label; found 3 of 'bad', 2 of 'good' and 3 without"):
        acceptability(CountsCats(), hidden)
    with pytest.raises(DataError, match=r"texts of both classes, .*found 0 of 'bad', 4 of 'good' and 0 without"):
        acceptability(CountsCats(), table.subset(np.flatnonzero(labels)))


# By kind of corruption


def batch_of(rows: list[tuple[int, int, int]]) -> SentenceBatch:
    """Make rows of (cats, kind, sentence)."""
    tokens = torch.full((len(rows), 4), 7)
    for place, (cats, _, _) in enumerate(rows):
        tokens[place, : abs(cats)] = CAT if cats > 0 else DOG
    nothing = torch.zeros(len(rows), 4, dtype=torch.bool)
    kinds, sentence = (torch.tensor([row[part] for row in rows]) for part in (1, 2))
    return SentenceBatch(
        TokenBatch(tokens, torch.ones_like(nothing)), nothing, nothing, nothing, tokens, kinds, sentence
    )


def test_the_evaluator_counts_pairs_by_kind():
    names = tuple(KINDS)
    shuffle, swap, drop = (names.index(kind) for kind in ("shuffle", "swap", "drop"))
    evaluator = SentenceEvaluator(CountsCats(), names)
    evaluator.update(batch_of([(2, -1, 0), (1, shuffle, 0), (3, swap, 0), (1, -1, 1), (-1, shuffle, 1)]))
    evaluator.update(batch_of([(-1, -1, 0), (-1, swap, 0), (-2, drop, 0)]))
    assert evaluator.compute() == pytest.approx(
        {
            "accuracy": (2 / 3 + 3 / 5) / 2,
            "pair_accuracy": 3.5 / 5,
            "pair_accuracy/order_only": 2.5 / 4,
            "pair_accuracy/shuffle": 1.0,
            "pair_accuracy/swap": 0.25,
            "pair_accuracy/drop": 1.0,
        }
    )


def test_an_evaluator_without_any_corruption_has_nothing_to_say():
    evaluator = SentenceEvaluator(CountsCats(), tuple(KINDS))
    evaluator.update(batch_of([(2, -1, 0), (1, -1, 1)]))
    assert evaluator.compute() == {}


def test_a_bag_of_words_learns_what_is_new_and_is_at_chance_about_order():
    names = tuple(KINDS)
    rng = np.random.default_rng(0)

    def row(tokens: np.ndarray, kind: int) -> SentenceRow:
        nothing = np.zeros(len(tokens), dtype=bool)
        return SentenceRow(tokens.astype(np.int32), nothing, nothing, nothing, np.zeros(len(tokens), np.int64), kind)

    def item() -> SentenceItem:
        good = rng.integers(5, 25, size=8)
        replaced = np.where(np.arange(8) == 3, 30, good)  # a word that no good sentence has
        kinds = [("shuffle", rng.permutation(good)), ("swap", good[::-1]), ("replace", replaced)]
        rows = [row(good, -1), *(row(tokens, names.index(kind)) for kind, tokens in kinds)]
        return SentenceItem(tuple(rows), 0)

    found = bag_of_words_control([item() for _ in range(100)], [item() for _ in range(40)], 40, names)
    assert found == {
        "pair_accuracy": pytest.approx(2 / 3),
        "pair_accuracy/order_only": 0.5,
        "pair_accuracy/shuffle": 0.5,
        "pair_accuracy/swap": 0.5,
        "pair_accuracy/replace": 1.0,
    }
