"""The parts of transfer on texts: words as a baseline, fine-tuning, target models, features for scikit-learn, leaks."""

import dataclasses
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import transfer
from auxtasks.backbones.text import TokenBatch
from auxtasks.data.augment import Augment
from auxtasks.errors import DataError, InputMismatchError, LeakError, TransferError
from auxtasks.features.extract import extract
from transfer import words
from transfer.finetune import Classifier, Stage, Tuning, fine_tune
from transfer.frozen_features import FrozenFeatures
from transfer.heads import build_head
from transfer.leaks import find_leaks, text_digest
from transfer.model import TargetModel
from transfer.protocol import Protocol, plan_draws
from transfer.raw_arms import TextRawArm

# --- words ------------------------------------------------------------------------------------------------------------


def words_arm(table):
    return TextRawArm(table.texts, 2, seed=0)


def predicted(table, shot, draws=4):
    found = []
    for draw in plan_draws(table.labels, Protocol(shots=(shot,), draws=draws)):
        support = draw.support[shot]
        answer = words_arm(table).predict(support, table.labels[support], draw.test, shot=shot, draw=draw.number)
        found.append((draw, answer.classes))
    return found


def test_words_are_weighed_and_fitted_on_the_support_alone(opinions, monkeypatch):
    fitted = []

    class Recording(TfidfVectorizer):
        def fit_transform(self, texts, labels=None):
            fitted.append(list(texts))
            return super().fit_transform(texts, labels)

        def fit(self, *_):
            pytest.fail("not in this way")

    monkeypatch.setattr(words, "TfidfVectorizer", Recording)
    ((draw, _),) = predicted(opinions, shot=6, draws=1)
    support = {opinions.texts[row] for row in draw.support[6]}
    assert len(fitted) == 5 + 1  # five folds, and the whole support
    assert set(fitted[-1]) == support
    assert all(set(fold) < support for fold in fitted[:-1])


def test_other_test_texts_change_no_prediction(opinions):
    (draw, first), *_ = predicted(opinions, shot=6)
    kept = draw.test[:5]
    texts = list(opinions.texts)
    for row in draw.test[5:]:
        texts[row] = "zebra " * 30 + "fine awful"
    support = draw.support[6]
    again = TextRawArm(texts, 2, seed=0).predict(support, opinions.labels[support], kept, shot=6, draw=0)
    np.testing.assert_array_equal(again.classes, first[:5])


def test_words_tell_opinions_apart_and_shuffled_labels_do_not(opinions):
    right = [np.mean(classes == opinions.labels[draw.test]) for draw, classes in predicted(opinions, shot=14)]
    assert np.mean(right) > 0.85
    shuffled = dataclasses.replace(opinions, labels=np.random.default_rng(0).permutation(opinions.labels))
    control = [np.mean(c == shuffled.labels[draw.test]) for draw, c in predicted(shuffled, shot=14, draws=20)]
    assert np.mean(control) == pytest.approx(0.5, abs=0.15)


def test_one_shot_takes_the_default_and_is_scikit_learns(opinions, monkeypatch):
    monkeypatch.setattr(TextRawArm, "_choose", lambda *_: pytest.fail("there is nothing to hold out"))
    ((draw, classes),) = predicted(opinions, shot=1, draws=1)
    support = draw.support[1]
    oracle = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"), LogisticRegression(C=10.0)
    )
    oracle.fit([opinions.texts[row] for row in support], opinions.labels[support])
    np.testing.assert_array_equal(classes, oracle.predict([opinions.texts[row] for row in draw.test]))


def test_texts_of_punctuation_and_single_letters_have_words():
    arm = TextRawArm(["?", "!", "? ?", "! !", "I", "?!"], 2, seed=0)
    answer = arm.predict(np.arange(4), np.array([0, 1, 0, 1]), np.array([0, 3, 4]), shot=2, draw=0)
    assert answer.classes[:2].tolist() == [0, 1]


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def tuning(*stages, **changes):
    return Tuning(**{"stages": stages, "learning_rate": 5e-3, "batch_size": 16, **changes})


def test_fine_tuning_fits_texts_and_leaves_the_source_as_it_is(encoder, opinions):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tuned = fine_tune(
        encoder, "block2", "mean", opinions, opinions.labels, n_classes=2, tuning=tuning(Stage(5, 1), Stage(40))
    )
    features = extract(tuned.backbone, opinions, {"block2": "mean"})["block2"]
    assert np.mean(tuned.head.predict(features) == opinions.labels) > 0.95
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    moved = [name for name, value in tuned.backbone.state_dict().items() if not torch.equal(value, before[name])]
    assert any("embeddings" in name for name in moved)


def test_only_unfrozen_layers_of_an_encoder_move(encoder, opinions):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tuned = fine_tune(
        encoder, "block2", "auto", opinions, opinions.labels, n_classes=2, tuning=tuning(Stage(3, top_layers=1))
    )
    moved = {name for name, value in tuned.backbone.state_dict().items() if not torch.equal(value, before[name])}
    block2 = {f"module.{name}" for name, _ in encoder.parameters_of("block2")}
    assert moved
    assert moved <= block2


def test_the_loss_of_texts_by_hand(encoder, opinions):
    model = Classifier(encoder.eval(), "block1", "mean", 2, seed=3).eval()
    batch = transfer.finetune._reader(encoder, opinions)(np.arange(6))
    assert isinstance(batch.inputs, TokenBatch)
    losses = []
    for row in range(6):
        ids = torch.from_numpy(opinions.tokens[row].astype(np.int64))[None]
        state = encoder.forward_layers(TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), ["block1"])["block1"]
        losses.append(F.cross_entropy(model.linear(state.hidden.mean(dim=1)), torch.tensor([opinions.labels[row]])))
    assert model(batch).loss_sum.item() == pytest.approx(sum(losses).item(), rel=1e-5)


def test_the_same_seed_tunes_texts_the_same_to_the_bit(encoder, opinions):
    def run(seed):
        return fine_tune(
            encoder, "block2", "mean", opinions, opinions.labels, n_classes=2, seed=seed, tuning=tuning(Stage(3))
        ).head.weight

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_texts_are_not_augmented_and_need_labels(encoder, opinions, quadrants):
    with pytest.raises(TransferError, match="augment changes pictures, the table holds texts"):
        fine_tune(encoder, "block1", "mean", opinions, opinions.labels, n_classes=2, augment=Augment(size=(16, 16)))
    with pytest.raises(TransferError, match="40 texts need 40 labels from 0 to 1, at least one, found 2 labels"):
        fine_tune(encoder, "block1", "mean", opinions, [0, 1], n_classes=2)
    with pytest.raises(InputMismatchError, match="the table holds pictures"):
        fine_tune(encoder, "block1", "mean", quadrants, quadrants.labels, n_classes=4)


# --- target models ----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(encoder, opinions):
    features = extract(encoder, opinions, {"block1": "mean"})["block1"]
    head = build_head("logistic", C=10.0).fit(features, opinions.labels, 2)
    return TargetModel(encoder, "block1", "mean", False, head, opinions.class_names)


def test_a_model_of_texts_predicts_the_same_after_a_reload(model, opinions, tmp_path):
    again = transfer.load(model.save(tmp_path / "model"))
    items = list(opinions.texts)
    np.testing.assert_array_equal(again.predict_proba(items), model.predict_proba(items))
    right = [name == opinions.class_names[label] for name, label in zip(model.predict(items), opinions.labels)]  # noqa: B905
    assert np.mean(right) > 0.8
    assert again.decoded_size is None
    assert 'model.predict(["a text"])' in (tmp_path / "model" / "README.md").read_text()


def test_a_text_is_read_for_prediction_as_it_was_for_training(model, opinions):
    np.testing.assert_array_equal(
        model._features(list(opinions.texts)), extract(model.backbone, opinions, {"block1": "mean"})["block1"]
    )
    long = " ".join([opinions.texts[0]] * 20)  # cut to what the encoder takes
    assert model.predict_proba([long]).sum() == pytest.approx(1)
    alone = [model.predict_proba([text])[0] for text in opinions.texts[:5]]
    np.testing.assert_allclose(alone, model.predict_proba(opinions.texts)[:5], atol=1e-5)
    assert model.predict_proba([]).shape == (0, 2)


def test_what_is_no_text_is_refused_in_words(model, opinions):
    with pytest.raises(DataError, match="row 300 holds an empty text"):
        model.predict([*["fine"] * 300, "  "])
    with pytest.raises(InputMismatchError, match="takes texts; item 1 is ndarray"):
        model.predict(["fine", np.zeros((4, 4), np.uint8)])
    with pytest.raises(InputMismatchError, match="expected a list of items, found str: put it into a list"):
        model.predict("fine")
    model.backbone.tokenizer = None
    with pytest.raises(DataError, match="has no tokenizer"):
        model.predict(["fine"])


def test_frozen_features_of_texts_are_a_transformer(encoder, opinions):
    found = FrozenFeatures(encoder, "block2").fit_transform(list(opinions.texts))
    np.testing.assert_array_equal(found, extract(encoder, opinions, ["block2"])["block2"])
    assert FrozenFeatures(encoder).transform([]).shape == (0, 16)
    pipeline = make_pipeline(FrozenFeatures(encoder, "embeddings"), LogisticRegression(C=100.0, max_iter=1000))
    assert pipeline.fit(list(opinions.texts), opinions.labels).score(list(opinions.texts), opinions.labels) > 0.9
    with pytest.raises(InputMismatchError, match="the table holds texts"):
        FrozenFeatures(encoder, mirror=True).transform(["fine"])


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_planted_texts_are_found_whatever_their_spelling():
    seen = ["A film.", "The  café was\tFINE ", "dull", "the film was long"]
    test = ["the cafe\u0301 was fine", "other", "DULL", "a film", "ﬁne"]
    leaks = find_leaks(seen, (text for text in test), support=["fine", "new"])
    assert leaks.pretraining.test_rows == (0, 2)
    assert leaks.pretraining.examples == ((1, 0), (2, 2))
    assert leaks.support.examples == ((0, 4),)
    described = leaks.describe()
    assert "texts in pretraining and test: 2 of 5 test texts (pretraining row 1 = test row 0" in described
    assert "texts in support and test: 1 (support row 0 = test row 4)" in described
    assert "pictures" not in described
    with pytest.raises(LeakError, match="texts in pretraining and test: 2 of 5"):
        leaks.raise_if_any()


def test_other_words_order_and_punctuation_are_other_texts():
    assert not find_leaks(["a b", "a b c", "b a", "a-b"], ["a b.", "ab", "b, a"])
    assert text_digest("naïve") != text_digest("naive")


def test_texts_and_pictures_are_not_compared():
    with pytest.raises(TransferError, match="pictures and texts cannot be compared"):
        find_leaks(["a"], np.zeros((1, 2, 2, 3), np.uint8))


def test_many_texts_take_microseconds_each():
    texts = [f"The sentence number {number} is about {number % 977} things." for number in range(50_000)]
    start = time.process_time()
    assert find_leaks(texts, texts[:100]).pretraining.count == 100
    assert time.process_time() - start < 2  # 40 us a text; measured: 1.6
