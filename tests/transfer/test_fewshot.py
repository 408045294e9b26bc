"""The few-shot evaluation end to end: the same labels for every arm, one opening of the test, nothing left behind."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.backbones import convnet
from auxtasks.errors import TransferError
from auxtasks.features.extract import extract
from transfer import arms, fewshot, raw_arms, tested
from transfer.choices import Candidate, Proxy, rank_on_episodes
from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Stage, Tuning
from transfer.heads import build_head
from transfer.protocol import Protocol, plan_draws
from transfer.spaces import Metric, Pretrained, Spaces, default_pools

ARMS = ("scratch", "untrained", "raw", "frozen", "finetuned")
HEADS = (("prototype", {}), ("logistic", {"C": 10.0, "scaling": "rms"}))


def settings(**changes):
    return FewShot(
        **{
            "protocol": Protocol(unit="class", shots=(1, 2), draws=2),
            "arms": ARMS,
            "heads": HEADS,
            "tuning": Tuning(stages=(Stage(1, top_layers=1), Stage(1)), batch_size=8),
            "scratch": Tuning(stages=(Stage(2),), batch_size=8),
            **changes,
        }
    )


def evaluate(backbone, table, asked=None, **options):
    return evaluate_target(backbone, table, asked or settings(), **{"seed": 0, "show_progress": False, **options})


def scores(outcome):
    """All tables of scores, as lists."""
    return {
        (arm, shot): np.asarray(table).tolist()
        for arm, by_shot in outcome.results.arms.items()
        for shot, table in by_shot.items()
    }


def network():
    """Return a network as several tests begin with; small enough to be built anew."""
    return convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)


def weights_of(backbone):
    return {name: value.clone() for name, value in backbone.state_dict().items()}


def recording(events, kind):
    """Wrap an arm's prediction: what it was asked is kept in order."""
    asked = kind.predict

    def predict(self, support, labels, test, *, shot, draw):
        events.append((kind.__name__, shot, draw, tuple(support), tuple(labels), tuple(test)))
        return asked(self, support, labels, test, shot=shot, draw=draw)

    return predict


@dataclasses.dataclass
class Recorded:
    """One evaluation with all arms, and what happened in it."""

    outcome: fewshot.Outcome
    events: list
    opened: list
    backbone: object
    weights_before: dict


@pytest.fixture(scope="module")
def recorded(portraits):
    events, opened = [], []
    score = tested.class_accuracies

    def class_accuracies(*args):
        events.append(("scored",))
        return score(*args)

    def open_test(event):
        events.append(("opened",))
        opened.append(event)

    backbone = network()
    before = weights_of(backbone)
    with pytest.MonkeyPatch.context() as patched:
        for kind in (arms.FeatureArm, raw_arms.PictureRawArm, arms.TunedArm):
            patched.setattr(kind, "predict", recording(events, kind))
        patched.setattr(tested, "class_accuracies", class_accuracies)
        outcome = evaluate(backbone, portraits, name="people", open_test=open_test)
    return Recorded(outcome, events, opened, backbone, before)


def test_every_arm_gets_the_same_labels_and_the_same_test(recorded, portraits):
    labels = portraits.labels
    planned = {
        (shot, draw.number, tuple(support), tuple(labels[support]), tuple(draw.test))
        for draw in plan_draws(labels, Protocol(unit="class", shots=(1, 2), draws=2))
        for shot, support in draw.support.items()
    }
    kinds = ("FeatureArm", "PictureRawArm", "TunedArm")
    asked = {kind: {event[1:] for event in recorded.events if event[0] == kind} for kind in kinds}
    assert asked == dict.fromkeys(kinds, planned)
    tuned = [event for event in recorded.events if event[0] == "TunedArm"]
    assert len(tuned) == 2 * 2 * 2  # scratch and finetuned, two numbers of shots, two draws


def test_the_test_is_opened_once_after_all_predictions_and_before_any_score(recorded):
    kinds = [event[0] for event in recorded.events]
    place = kinds.index("opened")
    assert len(recorded.opened) == kinds.count("opened") == 1
    assert "scored" not in kinds[:place]
    assert set(kinds[place + 1 :]) == {"scored"}
    # Every arm, and every layer of the depth curve, at two numbers of shots in two draws.
    assert kinds.count("scored") >= (len(ARMS) + 4) * 2 * 2
    (event,) = recorded.opened
    assert (event["target"], event["claim"], event["arms"]) == ("people", "frozen", sorted(ARMS))
    assert event["chosen"] == recorded.outcome.results.chosen


def test_tables_have_a_row_a_draw_and_a_column_a_class(recorded):
    results = recorded.outcome.results
    assert list(results.arms) == list(ARMS)
    layers = ["stem", "stage1", "stage2", "embedding"]
    assert {shot: list(by_layer) for shot, by_layer in results.depth.items()} == dict.fromkeys((1, 2), layers)
    tables = [table for by_shot in results.arms.values() for table in by_shot.values()]
    tables += [table for by_layer in results.depth.values() for table in by_layer.values()]
    assert len(tables) == (len(ARMS) + 4) * 2
    for table in tables:
        assert table.shape == (2, 4)
        assert ((table >= 0) & (table <= 1)).all()
    protocol = results.protocol
    assert (protocol["shots"], protocol["draws"], protocol["classes"]) == ([1, 2], 2, 4)
    assert (protocol["train_pool"], protocol["test_items"], protocol["validation_labels"]) == (8, 16, 0)
    assert {shot: choice["arm"] for shot, choice in results.chosen.items()} == {1: "frozen", 2: "frozen"}


def test_a_baseline_that_does_not_fit_its_labels_is_noted(recorded):
    notes = [note for note in recorded.outcome.notes if "training pictures" in note]
    assert len(notes) == 4  # scratch and finetuned, at two numbers of shots
    assert all(note.startswith("people: ") for note in notes)
    assert any("scratch" in note and "train it longer" in note for note in notes)  # two steps fit nothing


def test_the_pretrained_network_stays_as_it_is(recorded):
    after = recorded.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in recorded.weights_before.items())


def test_scores_by_hand(backbone, portraits):
    asked = settings(arms=("frozen",), layers={"stage2": "grid"}, heads=[("prototype", {})], mirror=True)
    found = evaluate(backbone, portraits, asked).results
    features = extract(backbone, portraits, {"stage2": "grid"}, mirror=True)["stage2"]
    for draw in plan_draws(portraits.labels, asked.protocol):
        for shot, support in draw.support.items():
            head = build_head("prototype").fit(features[support], portraits.labels[support], 4)
            for label in range(4):
                items = [row for row in draw.test if portraits.labels[row] == label]
                right = [int(head.predict(features[[row]])[0] == label) for row in items]
                expected = sum(right) / len(right)
                assert found.arms["frozen"][shot][draw.number, label] == expected
                assert found.depth[shot]["stage2"][draw.number, label] == expected


def test_what_can_be_seen_is_learned_and_shuffled_labels_are_not(backbone, quadrants):
    asked = settings(
        protocol=Protocol(unit="class", shots=(4,), draws=2),
        layers={"stem": "grid", "stage1": "grid"},
        tuning=Tuning(stages=(Stage(15, top_layers=1), Stage(15)), batch_size=16),
        scratch=Tuning(stages=(Stage(30),), batch_size=16),
    )
    outcome = evaluate(backbone, quadrants, asked)
    means = {arm: np.mean(by_shot[4]) for arm, by_shot in outcome.results.arms.items()}
    assert means["frozen"] == means["untrained"] == means["finetuned"] == 1.0
    assert means["raw"] > 0.9
    assert means["scratch"] > 0.5
    means = []
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation(quadrants.labels)
        table = dataclasses.replace(quadrants, labels=labels)
        control = evaluate(backbone, table, dataclasses.replace(asked, arms=("frozen", "raw", "untrained")))
        means.append([np.mean(by_shot[4]) for by_shot in control.results.arms.values()])
    assert np.mean(means, axis=0) == pytest.approx([1 / 4] * 3, abs=0.13)


def test_a_target_does_not_depend_on_what_ran_before_it(recorded, portraits, quadrants):
    backbone = network()
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002  # the global generators are what must not matter
    backbone.train()
    backbone.freeze(["stem"])
    evaluate(
        backbone,
        quadrants,
        settings(arms=("scratch", "frozen"), protocol=Protocol(unit="class", shots=(1, 3), draws=1)),
    )
    after = scores(evaluate(backbone, portraits))
    assert after == scores(recorded.outcome)
    assert len(after) == len(ARMS) * 2


def test_an_arm_does_not_depend_on_the_other_arms(recorded, portraits):
    everything = scores(recorded.outcome)
    few = scores(evaluate(network(), portraits, settings(arms=("finetuned", "raw"), claim="finetuned")))
    assert set(few) == {(arm, shot) for arm in ("finetuned", "raw") for shot in (1, 2)}
    assert all(everything[key] == table for key, table in few.items())


def test_the_first_draws_stay_when_there_are_more(backbone, portraits):
    asked = settings(arms=("frozen", "scratch"), protocol=Protocol(unit="class", shots=(2,), draws=2))
    two = scores(evaluate(backbone, portraits, asked))
    three = scores(
        evaluate(backbone, portraits, dataclasses.replace(asked, protocol=Protocol(unit="class", shots=(2,), draws=3)))
    )
    assert {key: table[:2] for key, table in three.items()} == two


def test_another_seed_is_another_untrained_network(backbone, portraits):
    asked = settings(arms=("untrained", "frozen"))
    assert scores(evaluate(backbone, portraits, asked, seed=0)) == scores(evaluate(backbone, portraits, asked, seed=0))
    networks = {tuple(backbone.untrained(seed).module.stem[0].weight.flatten().tolist()) for seed in (1, 2, 1)}
    assert len(networks) == 2


def test_held_out_people_of_pretraining_order_the_choices_for_one_shot(backbone, portraits, quadrants):
    layers = {"stem": "grid", "embedding": "auto"}
    asked = settings(arms=("frozen",), layers=layers, metric=None)
    outcome = evaluate(backbone, portraits, asked, pretrained=Pretrained(quadrants, held_out=quadrants))
    proxy = Proxy(extract(backbone, quadrants, layers), quadrants.labels)
    candidates = [Candidate(layer, head, options) for layer in ("embedding", "stem") for head, options in HEADS]
    ranked = rank_on_episodes(proxy, candidates, shots=1, way=4, seed=0)
    assert outcome.ranked[1] == [candidate for candidate, _ in ranked]
    assert outcome.results.chosen[1]["layer"] == ranked[0][0].layer
    assert "4-way 1-shot episodes of held-out" in outcome.results.protocol["choices"]
    plain = evaluate(backbone, portraits, asked)
    assert plain.ranked[1] == candidates  # without such people the highest layer first
    assert "default fixed in advance" in plain.results.protocol["choices"]


@pytest.mark.parametrize("good", ["stem", "embedding"])
def test_a_planted_layer_is_found_and_gives_accuracy_one(backbone, portraits, monkeypatch, good):
    def planted(of, table, layers, *args, **kwargs):
        noise = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
        features = {
            layer: np.eye(4, dtype=np.float32)[portraits.labels] if layer == good else noise for layer in layers
        }
        return Spaces(features, Proxy(features, portraits.labels), {})

    monkeypatch.setattr(fewshot, "feature_spaces", planted)
    results = evaluate(backbone, portraits, settings(arms=("frozen",))).results
    assert {shot: choice["layer"] for shot, choice in results.chosen.items()} == {1: good, 2: good}
    assert all((results.arms["frozen"][shot] == 1).all() for shot in (1, 2))
    assert all((results.depth[shot][good] == 1).all() for shot in (1, 2))
    others = [results.depth[shot][layer].mean() for shot in (1, 2) for layer in results.depth[1] if layer != good]
    assert np.mean(others) == pytest.approx(1 / 4, abs=0.15)


def test_discriminants_of_the_pretraining_data_are_further_spaces(backbone, portraits, face_table):
    layers = {"stage1": "grid", "stage2": "grid"}
    outcome = evaluate(
        backbone, portraits, settings(arms=("frozen", "finetuned"), layers=layers, metric=Metric(components=5)),
        pretrained=Pretrained(face_table, held_out=face_table.subset([])),
    )  # fmt: skip
    spaces = [*layers, *(f"{layer}+discriminants" for layer in layers)]
    assert list(outcome.results.depth[1]) == spaces
    assert {candidate.layer for candidate in outcome.ranked[1]} == set(spaces)
    assert outcome.spaces.target["stage2+discriminants"].shape == (24, 5)
    without = evaluate(backbone, portraits, settings(arms=("frozen",), layers=layers))
    assert list(without.results.depth[1]) == [*layers]
    np.testing.assert_array_equal(without.results.depth[2]["stage1"], outcome.results.depth[2]["stage1"])


def test_default_pools_fit_every_layer(backbone, portraits):
    pools = default_pools(backbone)
    assert pools == {"stem": "grid", "stage1": "grid", "stage2": "grid", "embedding": "auto"}
    widths = {name: values.shape[1] for name, values in extract(backbone, portraits, pools).items()}
    assert widths == {"stem": 72, "stage1": 72, "stage2": 144, "embedding": 8}


def test_unequal_searches_are_refused():
    with pytest.raises(TransferError, match=r"finetuned chooses among 2 learning rates and scratch among 1"):
        settings(tuning_rates=(1e-3, 1e-4))
    with pytest.raises(TransferError, match=r"finetuned trains for 2 steps, scratch for 5"):
        settings(scratch=Tuning(stages=(Stage(5),)))
    with pytest.raises(TransferError, match=r"finetuned has most_epochs=None, scratch 3: give both the same"):
        settings(scratch=Tuning(stages=(Stage(2),), most_epochs=3))


def test_arms_that_do_not_fit_are_refused(backbone, portraits):
    with pytest.raises(TransferError, match=r'claimed arm "frozen" is not among the arms raw'):
        settings(arms=("raw",))
    with pytest.raises(TransferError, match=r"no such arm: frosen. There are frozen, untrained, raw"):
        evaluate(backbone, portraits, settings(arms=("frozen", "frosen")))


def test_a_class_with_too_few_pictures_is_named_before_anything_is_trained(portraits, monkeypatch):
    monkeypatch.setattr(fewshot, "feature_spaces", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(TransferError, match=r"4 of 4 classes .*6 shots.*'person00000' has 6, needed are 7"):
        evaluate(convnet(size=16), portraits, settings(protocol=Protocol(unit="class", shots=(1, 6))))
