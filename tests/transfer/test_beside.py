"""Another network beside: one more arm on the same labels, its own tokens and layers, and differences to it."""

import numpy as np
import pytest

from auxtasks.backbones import mlp, transformers
from auxtasks.data import train_tokenizer
from auxtasks.data.feature_columns import feature_table_of
from auxtasks.data.pair_table import PairTable
from auxtasks.data.texts import tokenise
from auxtasks.errors import BackboneError, TransferError
from auxtasks.features.extract import extract
from transfer.fewshot import FewShot, evaluate_target
from transfer.heads import build_head
from transfer.items import for_backbone, gather_items
from transfer.protocol import Protocol, plan_draws
from transfer.report import TargetResults, build_report, write_report

HEADS = (("prototype", {}),)
DRAWS = Protocol(shots=(1, 4), draws=3)


def settings(**changes):
    return FewShot(**{"protocol": DRAWS, "arms": ("raw", "frozen"), "heads": HEADS, "metric": None, **changes})


def evaluate(backbone, table, asked, **options):
    return evaluate_target(backbone, table, asked, **{"seed": 0, "show_progress": False, **options})


@pytest.fixture(scope="module")
def other(opinions):
    """A network with other layers and another kind of tokenizer."""
    tokenizer = train_tokenizer(opinions.texts, kind="bpe", size=300)
    config = {"model_type": "distilbert", "dim": 8, "n_layers": 3, "n_heads": 2, "hidden_dim": 8}
    return transformers(config, length=40, tokenizer=tokenizer, seed=3)


@pytest.fixture(scope="module")
def pairs(opinions):
    rng = np.random.default_rng(0)
    left, right = rng.permutation(40).reshape(2, 20)
    labels = rng.permutation(np.arange(20) % 2)
    return PairTable(opinions, left, right, labels, np.arange(20), (), "twenty pairs")


def features_by_hand(backbone, table):
    tokenizer, length = backbone.text_settings
    assert table.tokens.lengths.max() <= length
    spelled = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in table.texts]
    assert [table.tokens[row].tolist() for row in range(len(table))] == spelled
    return extract(backbone, table, ["block3"])["block3"]


def test_texts_are_spelled_by_the_other_tokenizer(opinions, other, encoder):
    spelled = for_backbone(other, opinions)
    tokens, cut = tokenise(opinions.texts, *other.text_settings)
    np.testing.assert_array_equal(spelled.tokens.values, tokens.values)
    assert (spelled.truncated, spelled.pad_id) == (cut, other.tokenizer.pad_token_id)
    assert spelled.fingerprint != opinions.fingerprint
    assert (spelled.texts, spelled.class_names) == (opinions.texts, opinions.class_names)
    np.testing.assert_array_equal(spelled.labels, opinions.labels)
    again = for_backbone(encoder, opinions)
    np.testing.assert_array_equal(again.tokens.values, opinions.tokens.values)


def test_pairs_are_spelled_through_their_items_and_vectors_stay(pairs, other):
    spelled = for_backbone(other, pairs)
    np.testing.assert_array_equal(spelled.items.tokens.values, for_backbone(other, pairs.items).tokens.values)
    np.testing.assert_array_equal(spelled.left, pairs.left)
    assert spelled.fingerprint != pairs.fingerprint
    vectors = feature_table_of(np.ones((4, 2), np.float32), np.array([0, 1, 0, 1]), ("a", "b"), np.arange(4))
    assert for_backbone(mlp(width=2), vectors) is vectors
    of_vectors = PairTable(vectors, np.array([0]), np.array([1]), np.array([1]), np.array([0]), (), "one pair")
    assert for_backbone(mlp(width=2), of_vectors) is of_vectors
    with pytest.raises(BackboneError, match="has no tokenizer"):
        for_backbone(mlp(width=2), pairs.items)


def test_its_arm_is_what_its_own_evaluation_gives_on_the_same_labels(opinions, opinions_test, encoder, other):
    opened = []
    outcome = evaluate(
        encoder, opinions, settings(), test=opinions_test, beside={"other": other}, open_test=opened.append
    )
    assert list(outcome.results.arms) == ["raw", "frozen", "other"]
    assert opened[0]["arms"] == ["frozen", "other", "raw"]
    alone = evaluate(encoder, opinions, settings(), test=opinions_test)
    for arm in ("raw", "frozen"):
        for shot in DRAWS.shots:
            np.testing.assert_array_equal(outcome.results.arms[arm][shot], alone.results.arms[arm][shot])
    itself = evaluate(
        other,
        for_backbone(other, opinions),
        settings(arms=("frozen",)),
        test=for_backbone(other, opinions_test),
    )
    for shot in DRAWS.shots:
        np.testing.assert_array_equal(outcome.results.arms["other"][shot], itself.results.arms["frozen"][shot])
    assert outcome.pools == alone.pools  # those of the network that is reused


def test_its_arm_by_hand(opinions, opinions_test, encoder, other):
    outcome = evaluate(encoder, opinions, settings(), test=opinions_test, beside={"other": other})
    items = gather_items(opinions, opinions_test)
    features = features_by_hand(other, for_backbone(other, items.table))
    for draw in plan_draws(opinions.labels, DRAWS, test=items.test):
        support = draw.support[1]
        head = build_head("prototype").fit(features[support], opinions.labels[support], 2)
        right = head.predict(features[items.test]) == items.table.labels[items.test]
        # With one shot the highest layer with the first head.
        np.testing.assert_array_equal(outcome.results.arms["other"][1][draw.number], right)


def test_layers_that_both_have_are_those_of_the_recipe(opinions, opinions_test, encoder, make_encoder):
    asked = settings(layers={"block1": "mean"}, arms=("frozen",))
    outcome = evaluate(encoder, opinions, asked, test=opinions_test, beside={"twin": make_encoder()})
    for shot in DRAWS.shots:  # the same weights
        np.testing.assert_array_equal(outcome.results.arms["twin"][shot], outcome.results.arms["frozen"][shot])


def test_pairs_have_it_too(pairs, encoder, other):
    test = pairs.subset(np.arange(10, 20))
    outcome = evaluate(encoder, pairs.subset(np.arange(10)), settings(), test=test, beside={"other": other})
    assert np.shape(outcome.results.arms["other"][4]) == np.shape(outcome.results.arms["frozen"][4])


def test_an_arm_s_name_and_a_network_of_another_kind_are_refused(opinions, encoder, other):
    with pytest.raises(TransferError, match="frozen, scratch: the name of an arm; call the backbone beside otherwise"):
        evaluate(encoder, opinions, settings(), beside={"scratch": other, "frozen": other})
    with pytest.raises(BackboneError, match="has no tokenizer"):
        evaluate(encoder, opinions, settings(), beside={"vectors": mlp(width=3)})


def test_differences_to_it_are_in_the_report(tmp_path):
    rng = np.random.default_rng(0)
    names = ("scratch", "raw", "longer", "frozen", "finetuned", "other", "third")
    arms = {name: {4: rng.integers(0, 2, (3, 20)).astype(float)} for name in names}
    protocol = {"shots": [4], "draws": 3, "classes": 2, "validation_labels": 0, "test_items": 20}
    report = build_report("demo", 0, {"mine": TargetResults(arms, protocol)}, resamples=100)
    baselines, others = ("scratch", "raw", "longer"), ("other", "third")
    expected = {f"{arm}-{base}" for arm in ("frozen", "finetuned") for base in (*baselines, *others)}
    expected |= {f"{arm}-{base}" for arm in others for base in baselines}
    paired = report.targets["mine"].paired
    assert set(paired) == expected
    for name, by_shot in paired.items():
        first, second = (np.mean(arms[arm][4], axis=1) for arm in name.split("-"))
        assert by_shot[4].values == pytest.approx((first - second).tolist())
    write_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| frozen \N{MINUS SIGN} other |" in text
    assert "| third \N{MINUS SIGN} longer |" in text
