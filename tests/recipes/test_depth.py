"""A depth search on a finished run: its report, the log of the opened test, what is refused before anything runs."""

import json

import pytest

from auxtasks.errors import CheckpointError, RecipeError, TransferError
from recipes import depth
from recipes.depth import depth_run, parse_modes
from recipes.folder import RunFolder
from transfer.depth_report import read_depth_report


def search(finished, out, *overrides, name="strangers", **options):
    return depth_run(finished, overrides, name, out, **{"modes": ["frozen"], "show_progress": False, **options})


@pytest.fixture(scope="module")
def searched(finished, tmp_path_factory):
    """The folder of a search in both modes, and its report."""
    out = tmp_path_factory.mktemp("depth") / "strangers"
    return out, search(finished, out, modes=["frozen", "finetuned"], folds=2)


def test_a_run_gets_a_report_with_the_recipes_shots_and_draws(searched):
    out, report = searched
    assert (report.target, report.shots, report.draws, report.classes) == ("strangers", 2, 2, 3)
    assert [(row.mode, row.layer) for row in report.rows] == [
        (mode, layer) for mode in ("frozen", "finetuned") for layer in ("stem", "stage1", "stage2", "embedding")
    ]
    assert {row.head for row in report.rows} <= {"prototype", "ridge", "linear"}  # those of the recipe
    assert report.test is not None
    assert report.test_items == 9
    assert any(
        "identities in pretraining and target" in note or "pretraining and test" in note for note in report.notes
    )
    assert read_depth_report(out / "depth.json") == report
    assert {"depth.json", "depth.md", "depth.png", "recipe.yaml", "test_openings.jsonl"} <= {
        path.name for path in out.iterdir()
    }


def test_the_test_is_opened_once_and_logged_with_the_choice(searched, finished, monkeypatch):
    out, report = searched
    lines = [json.loads(line) for line in (out / "test_openings.jsonl").read_text().splitlines()]
    assert len(lines) == 1
    assert (lines[0]["target"], lines[0]["for"]) == ("strangers", "depth search")
    assert lines[0]["chosen"] == report.chosen.model_dump()
    monkeypatch.setattr(depth, "search_depth", lambda *_, **__: pytest.fail("it is there already"))
    assert search(finished, out, modes=["finetuned", "frozen"]) == report
    assert len((out / "test_openings.jsonl").read_text().splitlines()) == 1


def test_a_folder_of_another_search_is_refused(searched, finished):
    out, _ = searched
    with pytest.raises(
        CheckpointError, match=r"2 draws, frozen, finetuned; asked for strangers, 2 shots, 2 draws, fro"
    ):
        search(finished, out)
    with pytest.raises(CheckpointError, match=r"asked for strangers, all labels, 1 draws, frozen\. Choose another"):
        search(finished, out, whole=True)
    with pytest.raises(CheckpointError, match=r"folds=2, repeats=1; asked for folds=2, repeats=3\. Choose another"):
        search(finished, out, modes=["frozen", "finetuned"], repeats=3)


def test_all_labels_are_not_tested_without_a_test_set(finished, tmp_path):
    report = search(finished, tmp_path / "whole", whole=True)
    assert (report.shots, report.draws, report.labels, report.test) == (None, 1, 15, None)
    assert not (tmp_path / "whole" / "test_openings.jsonl").exists()
    with pytest.raises(CheckpointError, match=r"folds=5, repeats=1; asked for folds=3, repeats=1"):
        search(finished, tmp_path / "whole", whole=True, folds=3)


def test_a_validation_set_and_a_test_set_of_the_recipe_are_used(finished, tmp_path):
    others = '{"options": {"people": 3, "photos": 3, "size": 20, "first_person": 100, "seed": 7}}'
    report = search(
        finished, tmp_path / "named", "targets.strangers.validation_items=3", "targets.strangers.test=" + others,
        "transfer.on_leak=report", shots=2, draws=1,
    )  # fmt: skip
    assert report.validation_labels == 3
    assert report.test_items == 9
    assert "named validation set of 3 labelled items" in report.chosen_by
    assert (report.folds, report.repeats) == (None, None)


def test_the_run_stays_as_it_is(searched, finished):
    assert not (finished / "depth.json").exists()
    assert RunFolder(finished).report.is_file()
    with pytest.raises(TransferError, match="is the run itself: the result needs a folder of its own"):
        search(finished, finished)


@pytest.mark.parametrize(
    ("overrides", "options", "error", "message"),
    [
        (
            [],
            {"name": "stranger"},
            TransferError,
            'no target "stranger".*Did you mean "strangers"\\? It has: strangers',
        ),
        (["training.steps=9"], {}, TransferError, "training: the backbone .* was made with other values"),
        (["transfer.shot=[2]"], {}, RecipeError, "transfer.shot"),
        ([], {"whole": True, "shots": 2}, TransferError, "shots is 2, and all labels are asked for as well"),
        ([], {"shots": 1}, TransferError, "nothing can be held out of it to choose a layer on"),
        ([], {"draws": 2, "shots": 5}, TransferError, "too few items for 5 shots and a test"),
    ],
)
def test_what_does_not_fit_is_refused(finished, tmp_path, overrides, options, error, message):
    with pytest.raises(error, match=message):
        search(finished, tmp_path / "refused", *overrides, **options)
    assert not (tmp_path / "refused" / "depth.json").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no recipe\.yaml"):
        search(tmp_path, tmp_path / "out")


def test_modes_are_read_from_a_list():
    assert parse_modes("frozen,finetuned") == ("frozen", "finetuned")
    with pytest.raises(TransferError, match=r'no such mode: "forzen"\. Did you mean "frozen"'):
        parse_modes("forzen")
    with pytest.raises(TransferError, match="no mode is asked for"):
        parse_modes(" , ")
