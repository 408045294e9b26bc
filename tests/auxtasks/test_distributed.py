"""Two processes with half a batch each compute what one does with all of it: losses, gradients, weights, metrics."""

import json
from pathlib import Path

import pytest
import torch

from auxtasks import checkpoint
from auxtasks.backbones import mlp
from auxtasks.data import load_source
from auxtasks.errors import TrainingError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import MaxMarginRanking
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.processes import join_processes
from auxtasks.training.settings import LoopSettings
from trust.launched import ALLOWED, launch, relative_difference

pytestmark = pytest.mark.processes

SCRIPTS = Path(__file__).parent / "distributed"
TIMED = {"samples_per_second", "data_wait_share", "kind"}
PRINTED = 5e-5  # half of the fourth decimal, the last one that is ever printed
FACES = ["logistic", "hard", "contrastive", "triplet"]
SENTENCES = ["sentences", "sentences_accumulated", "sentences_by_tokens"]
RANKINGS = [
    f"ranking_{name}"
    for name in ("query", "query_accumulated", "pair", "pair_accumulated", "ndcg", "drawn", "corrupted",
                 "corrupted_accumulated", "sentences", "sentences_accumulated")
]  # fmt: skip
ACCUMULATED = ["sentences", "ranking_query", "ranking_pair", "ranking_corrupted", "ranking_sentences"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[int, Path]:
    """Pretrain tasks on records in one process and in two."""
    folder = tmp_path_factory.mktemp("distributed")
    return {processes: launch(SCRIPTS / "record_tasks.py", folder / str(processes), processes) for processes in (1, 2)}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[int, list[dict[str, str]]]:
    """Ask for what is refused, in one process and in two; return what was said in each process."""
    folder = tmp_path_factory.mktemp("refused")
    found = {processes: launch(SCRIPTS / "refused.py", folder / str(processes), processes) for processes in (1, 2)}
    return {
        processes: [json.loads((place / f"said-{rank}.json").read_text()) for rank in range(processes)]
        for processes, place in found.items()
    }


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(folder / f"{name}.safetensors")


def lines(folder: Path, run: str, kind: str) -> list[dict[str, float]]:
    text = (folder / run / "metrics.jsonl").read_text()
    found = [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in found]


def gradients_of(folder: Path, run: str, named: str | None = None) -> dict[str, torch.Tensor]:
    """Return the gradients of a run, under its own name or that of another one."""
    found = tensors(folder, "gradients-0").items()
    return {name.replace(run, named or run, 1): g for name, g in found if name.startswith(f"{run}/")}


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], record_property
) -> set[str]:
    """Hold the gradients of all steps against each other; return the names of all parameters."""
    parameters = {name.split("/", 2)[2] for name in expected}
    assert len(expected) == 4 * len(parameters)
    difference = relative_difference(found, expected)
    assert difference <= ALLOWED
    record_property("largest_difference", difference)
    record_property("inputs", len(expected))
    moved = {name.split("/", 2)[2] for name, gradient in expected.items() if gradient.norm() > 1e-6}
    assert moved == parameters  # no gradient is zero in all steps
    return parameters


def assert_same_lines(outputs: dict[int, Path], run: str, kinds: dict[str, int]) -> None:
    for kind, count in kinds.items():
        one, two = lines(outputs[1], run, kind), lines(outputs[2], run, kind)
        assert len(one) == count
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("run", FACES)
def test_losses_and_gradients_of_two_processes_are_those_of_one(outputs, run, record_property):
    one, two = lines(outputs[1], run, "train"), lines(outputs[2], run, "train")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert len(one) == 4
    found, expected = (gradients_of(outputs[processes], run) for processes in (2, 1))
    parameters = assert_same_gradients(found, expected, record_property)
    assert {"backbone.module.stem.0.weight", "backbone.module.embedding.weight"} <= parameters
    assert ("threshold" in parameters) == ("log_scale" in parameters) == (run in ("logistic", "hard"))


@pytest.mark.parametrize("run", SENTENCES)
def test_two_processes_learn_from_sentences_as_one_does(outputs, run, record_property):
    assert_same_lines(outputs, run, {"train": 4, "validation": 1})
    found, expected = (gradients_of(outputs[processes], run) for processes in (2, 1))
    parameters = assert_same_gradients(found, expected, record_property)
    assert {"token_head.weight", "sentence_head.0.weight", "order_head.start"} <= parameters
    assert any(name.startswith("backbone.module.embeddings") for name in parameters)


@pytest.mark.parametrize("run", RANKINGS)
def test_two_processes_learn_to_rank_as_one_does(outputs, run, record_property):
    assert_same_lines(outputs, run, {"train": 4, "validation": 1})
    queries = "corrupted" not in run and "sentences" not in run
    names = {"ndcg@10", "queries_without_pairs"} if queries else {"pair_accuracy"}
    if "corrupted" in run:
        names = {"pair_accuracy/strength 0.25"}
    assert names < lines(outputs[2], run, "validation")[0].keys()
    found, expected = (gradients_of(outputs[processes], run) for processes in (2, 1))
    parameters = assert_same_gradients(found, expected, record_property)
    assert "scorer.weight" in parameters
    assert len(parameters) == 3 or "sentences" in run


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("run", ACCUMULATED)
def test_four_micro_batches_are_one_batch(outputs, run, processes, record_property):
    # Micro-batches have other numbers of pairs, of words; each weighs the same all the same.
    found = gradients_of(outputs[processes], f"{run}_accumulated", run)
    assert_same_gradients(found, gradients_of(outputs[1], run), record_property)


def test_rankings_of_two_processes_are_evaluated_as_one_set(outputs):
    one = lines(outputs[1], "ranking_query", "validation")[0]
    assert one["queries"] == 17 > one["queries_without_pairs"] > 0
    assert lines(outputs[2], "ranking_query", "validation")[0]["queries"] == 17


def test_both_processes_hold_the_same_gradients_and_weights(outputs):
    for name in ("gradients", "weights"):
        first, second = (tensors(outputs[2], f"{name}-{rank}") for rank in (0, 1))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


# A whole run: 240 pictures, 30 steps of AdamW, the best of five validations


def test_a_whole_run_of_two_processes_ends_with_the_weights_of_one(outputs):
    one, two = tensors(outputs[1], "weights-0"), tensors(outputs[2], "weights-0")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(
            two[name], weight, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_both_print_the_same_metrics(outputs):
    for kind, count in (("train", 30), ("validation", 5)):
        one, two = lines(outputs[1], "whole", kind), lines(outputs[2], "whole", kind)
        assert len(one) == count
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, abs=PRINTED)


def test_both_keep_the_weights_of_the_same_step(outputs):
    best = {n: json.loads((outputs[n] / "scores-0.json").read_text())["best_step"] for n in (1, 2)}
    measured = {line["step"]: line["roc_auc"] for line in lines(outputs[1], "whole", "validation")}
    assert best[1] == best[2] == max(measured, key=measured.get)
    assert sorted(measured) == [6, 12, 18, 24, 30]


def test_every_process_knows_the_metrics(outputs):
    first, second = (json.loads((outputs[2] / f"scores-{rank}.json").read_text()) for rank in (0, 1))
    assert {"again/roc_auc", "spread", "loss", "validation/roc_auc"} <= first.keys() == second.keys()
    assert {k: v for k, v in first.items() if k not in TIMED} == {k: v for k, v in second.items() if k not in TIMED}
    assert first["again/roc_auc"] == first["validation/roc_auc"]


def test_two_processes_write_one_log_and_one_set_of_checkpoints(outputs):
    for name in ("logistic", "whole"):
        steps = [line["step"] for line in lines(outputs[2], name, "train")]
        assert steps == sorted(set(steps))
        assert len(list((outputs[2] / name / "checkpoints").iterdir())) == 1
    state = checkpoint.read_json(outputs[2] / "whole" / "checkpoints" / "step-00000030" / "training" / "state.json")
    assert state["processes"] == 2


# What cannot be the same is refused


REFUSED = {
    "face pairs in parts": "FacePairs compares the items of a batch",
    "persistent chains in parts": "LayerRBM has a state that every forward moves on",
    "sparsity in parts": "LayerRBM has a state that every forward moves on",
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("asked", REFUSED)
def test_what_no_micro_batches_can_compute_is_refused_in_every_process(refusals, asked, processes):
    for said in refusals[processes]:
        assert said[asked].startswith(REFUSED[asked])
        assert "Use accumulation=1" in said[asked]
        assert said[f"left of {asked}"] == []


def test_statistics_of_a_batch_are_refused_in_two_processes_and_learnt_in_one(refusals):
    name = "face pairs on statistics"
    assert refusals[1][0][name] == "done"
    assert any("checkpoints" in path for path in refusals[1][0][f"left of {name}"])
    for said in refusals[2]:
        assert said[name].startswith("FacePairs would train backbone.module.conv1.1, backbone.module.conv1.4, ")
        assert "train in one process, or freeze these layers" in said[name]
        assert said[f"left of {name}"] == []


def test_processes_that_did_not_meet_are_an_error(monkeypatch):
    assert join_processes().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="2 processes were started, but each of them takes itself for the only one"):
        join_processes()


def test_accelerate_s_own_accumulation_divides_no_gradient(monkeypatch):
    # It reads a variable that some launchers set; every gradient was then a quarter of what it should be.
    trained = []
    for asked in (None, "4"):
        if asked:
            monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", asked)
        task = MaxMarginRanking(mlp(width=3, hidden=[4]))
        columns = {
            "qid": [0, 0, 1, 1, 2, 2, 3, 3],
            "grade": [0, 1] * 4,
            "features": torch.arange(24.0).view(8, 3).tolist(),
        }
        start = {name: value.clone() for name, value in task.state_dict().items()}
        pretrain(
            task,
            load_source(columns, columns={name: name for name in columns}),
            steps=2,
            batch_size=4,
            optimizer=OptimizerSettings(name="sgd", warmup_steps=0, clip_norm=None),
            loop=LoopSettings(accumulation=4, show_progress=False),
        )
        trained.append(task.state_dict())
        assert any(not torch.equal(value, start[name]) for name, value in task.state_dict().items())
    assert all(torch.equal(trained[1][name], value) for name, value in trained[0].items())
