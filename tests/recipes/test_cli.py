"""The command line, from the entry point on: what it prints, leaves, refuses, and with which exit code."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from recipes.config import recipe_names, recipe_text

SPEED = {"samples_per_second", "data_wait_share"}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def report_of(folder):
    return json.loads((folder / "transfer" / "report.json").read_text())


def draw_photos(folder, people=3, photos=4):
    """Write a folder with one sub-folder a person: each person is a brightness, on noise."""
    rng = np.random.default_rng(0)
    for person in range(people):
        place = folder / f"person {chr(65 + person)}"
        place.mkdir(parents=True)
        for photo in range(photos):
            pixels = rng.integers(0, 60, (24, 24), dtype=np.uint8) + 60 * person
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{photo}.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    return draw_photos(tmp_path / "photos")


@pytest.fixture
def transferred(command_line, finished, tmp_path):
    """Evaluate the finished run's backbone on another target, in a folder of its own."""

    def evaluate(path, *overrides):
        out = tmp_path / "out"
        return out, command_line(
            "transfer", finished, "targets.strangers=null", f"targets.mine.path={path}", "transfer.arms=[raw, frozen]",
            *overrides, "--out", out,
        )  # fmt: skip

    return evaluate


# --- looking at recipes -----------------------------------------------------------------------------------------------


def test_list_names_every_recipe_with_its_summary(command_line):
    called = command_line("list")
    assert called.code == 0
    printed = called.out.splitlines()
    assert [line.split()[0] for line in printed] == recipe_names()
    assert all(len(line) > 40 for line in printed)


def test_show_prints_the_file(command_line):
    called = command_line("show", "faces_demo")
    assert (called.code, called.out) == (0, recipe_text("faces_demo") + "\n")


def test_validate_prints_all_values(command_line):
    called = command_line("validate", "faces_demo", "seed=7")
    assert called.code == 0
    printed = yaml.safe_load(called.out)
    assert printed["seed"] == 7
    assert printed["training"]["optimizer"] == "adamw"


def test_a_wrong_recipe_is_exit_2_with_every_problem(command_line):
    for command in ("validate", "run", "pretrain"):
        called = command_line(command, "faces_demo", "training.stepz=1", "data.holdout=3", "targets.strangers.fit=croq")
        assert called.code == 2
        assert called.out == ""
        told = called.err.splitlines()
        assert len(told) == 3
        assert all(line.startswith("error: ") for line in told)
        assert 'Did you mean "steps"?' in called.err
        assert 'Did you mean "crop"?' in called.err


def test_an_unknown_recipe_and_an_unknown_command_are_exit_2(command_line):
    called = command_line("show", "faces_dmo")
    assert called.code == 2
    assert 'Did you mean "faces_demo"?' in called.err
    assert command_line("rum", "faces_demo").code == 2
    assert command_line("run", "faces_demo", "--processes", "0").code == 2
    assert command_line("predict").code == 2


def test_help_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['auxtasks', '--help']\n"
        "from recipes.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code\n"
        "heavy = {'torch', 'numpy', 'datasets', 'sklearn', 'matplotlib', 'accelerate', 'PIL'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "HEAVY []"
    assert "Usage" in found.stdout
    for command in ("list", "show", "validate", "run", "pretrain", "transfer", "predict", "inspect", "report"):
        assert command in found.stdout


def test_a_wrong_layer_wise_recipe_is_exit_2_and_a_network_that_does_not_fit_exit_1(command_line, tmp_path):
    called = command_line("run", "layerwise_demo", "task.layerz=[a]", "data.align.size=9", "task.gibbs_steps=0")
    assert called.code == 2
    assert "task.layerz: unknown key." in called.err
    assert 'Did you mean "layers"?' in called.err
    network = "backbone={name: convnet, arguments: {size: 8, widths: [8], blocks: [1]}}"
    called = command_line("pretrain", "layerwise_demo", network, "--out", tmp_path / "run")
    assert called.code == 1
    assert called.err.startswith('error: layer "stem" of convnet is no linear map with a sigmoid')
    assert not list(tmp_path.rglob("step-*"))


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_in_its_folder(finished):
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {
        "recipe.yaml", "environment.json", "metrics.jsonl", "test_openings.jsonl", "pretrain.json",
        "checkpoints/step-00000004/backbone/model.safetensors", "checkpoints/step-00000004/backbone/manifest.json",
        "checkpoints/step-00000004/backbone/config.json", "checkpoints/step-00000004/backbone/README.md",
        "transfer/report.json", "transfer/report.md", "transfer/learning_curve.png", "transfer/depth.png",
        "transfer/model/strangers/target.json", "transfer/model/strangers/backbone/model.safetensors",
    } <= files  # fmt: skip
    assert any(name.startswith("checkpoints/step-00000004/task/") for name in files)
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".bin")) or "writing" in name]


def test_the_report_holds_what_was_asked(finished):
    report = report_of(finished)
    assert (report["schema"], report["recipe"], report["seed"]) == (1, "miniature", 0)
    target = report["targets"]["strangers"]
    assert set(target["arms"]) == {"scratch", "raw", "frozen"}
    assert set(target["paired"]) >= {"frozen-scratch", "frozen-raw"}
    assert all(set(by_shot) == {"1", "2"} for by_shot in target["arms"].values())
    assert all(len(entry["values"]) == 2 for by_shot in target["arms"].values() for entry in by_shot.values())
    assert target["protocol"]["classes"] == 3
    assert report["pretrain"]["loss"] > 0
    assert report["cost"]["seconds"] > 0
    assert "strangers: pictures in pretraining and test: 0 of 15 test pictures" in report["notes"]
    assert "# Few-shot report: miniature" in (finished / "transfer" / "report.md").read_text()


def test_the_recipe_is_kept_with_every_default_and_the_environment_with_versions(finished, miniature):
    kept = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert kept["training"]["optimizer"] == "adamw"
    assert kept["training"]["steps"] == yaml.safe_load(miniature.read_text())["training"]["steps"]
    assert {"torch", "numpy"} <= set(json.loads((finished / "environment.json").read_text())["versions"])


def test_metrics_are_logged_step_by_step(finished):
    logged = lines(finished / "metrics.jsonl")
    assert [line["step"] for line in logged if line["kind"] == "train"] == [2, 4]
    assert all(np.isfinite(line["loss"]) for line in logged if line["kind"] == "train")
    assert any(line["kind"] == "validation" for line in logged)


def test_the_test_set_is_opened_once_however_often_the_run_is_called(command_line, finished, miniature, tmp_path):
    place = shutil.copytree(finished, tmp_path / "copy")
    (opening,) = lines(place / "test_openings.jsonl")
    assert (opening["target"], opening["claim"]) == ("strangers", "frozen")
    assert opening["arms"] == ["frozen", "raw", "scratch"]
    assert set(opening["chosen"]) == {"1", "2"}
    before = (place / "transfer" / "report.json").read_bytes()
    called = command_line("run", miniature, "--out", place)
    assert called.code == 0, called.err
    assert "pretraining" in called.out
    assert "report.md" in called.out
    assert len(lines(place / "test_openings.jsonl")) == 1
    assert (place / "transfer" / "report.json").read_bytes() == before


def test_another_recipe_on_the_same_folder_is_refused_with_what_differs(command_line, finished, miniature):
    called = command_line("run", miniature, "training.steps=9", "transfer.draws=3", "training.workers=1",
                          "--out", finished)  # fmt: skip
    assert called.code == 1
    assert "holds another run" in called.err
    assert "training.steps: 4 there, 9 asked" in called.err
    assert "transfer.draws: 2 there, 3 asked" in called.err
    assert "workers" not in called.err  # it changes nothing in what is computed
    assert "--out" in called.err


def test_a_folder_with_other_files_is_refused_and_left_alone(command_line, miniature, tmp_path):
    (tmp_path / "thesis.txt").write_text("my only copy")
    called = command_line("run", miniature, "--out", tmp_path)
    assert called.code == 1
    assert "is not empty and holds no recipe.yaml" in called.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# --- other targets ----------------------------------------------------------------------------------------------------


def test_transfer_evaluates_another_target_in_a_folder_of_its_own(transferred, photos, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    out, called = transferred(photos)
    assert called.code == 0, called.err
    assert list(report_of(out)["targets"]) == ["mine"]
    assert (out / "transfer" / "model" / "mine" / "target.json").is_file()
    assert len(lines(out / "test_openings.jsonl")) == 1
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_overrides_without_a_folder_are_refused(command_line, finished):
    called = command_line("transfer", finished, "transfer.draws=3")
    assert called.code == 1
    assert "needs a folder of its own: add --out" in called.err


@pytest.mark.parametrize("override", ["seed=5", "data.holdout=0.5", "backbone.arguments.embedding=4", "task.photos=3"])
def test_what_the_backbone_was_made_with_cannot_be_overridden(command_line, finished, tmp_path, override):
    called = command_line("transfer", finished, override, "--out", tmp_path / "out")
    assert called.code == 1
    assert called.err.startswith(f"error: {override.partition('=')[0].partition('.')[0]}: the backbone in")
    assert not (tmp_path / "out").exists()


def test_unreadable_pictures_are_counted_when_they_may_be_skipped(transferred, photos):
    (photos / "person A" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    out, called = transferred(photos)
    assert called.code == 1
    assert "torn.png" in called.err
    shutil.rmtree(out)
    out, called = transferred(photos, "targets.mine.on_error=skip")
    assert called.code == 0, called.err
    assert "mine: 1 unreadable pictures were skipped." in report_of(out)["notes"]
    assert report_of(out)["targets"]["mine"]["protocol"]["classes"] == 3


def test_a_class_with_too_few_photos_is_named(transferred, photos):
    for name in ("1.png", "2.png"):
        (photos / "person B" / name).unlink()
    _, called = transferred(photos)
    assert called.code == 1
    assert "class 'person B' has 2, needed are 3" in called.err


def test_a_missing_column_is_named_with_those_that_are_there(transferred, tmp_path):
    (tmp_path / "people.csv").write_text("image,who\na.png,Ann\nb.png,Bob\n")
    _, called = transferred(tmp_path / "people.csv")
    assert called.code == 1
    assert "label" in called.err
    assert "who" in called.err


def test_missing_data_is_exit_1(transferred, tmp_path):
    _, called = transferred(tmp_path / "absent")
    assert called.code == 1
    assert "absent" in called.err
    assert called.out == ""


def test_a_planted_leak_is_refused_or_reported(transferred):
    leak = ("targets.mine.options={people: 3, photos: 5, size: 20}",)  # people and photos that pretraining saw
    out, called = transferred("builtin:drawn_faces", *leak)
    assert called.code == 1
    assert "the test set is not unseen" in called.err
    assert "12 of 15 test pictures" in called.err
    assert "person00000, person00001, person00002" in called.err
    assert not (out / "test_openings.jsonl").exists()
    shutil.rmtree(out)
    out, called = transferred("builtin:drawn_faces", *leak, "transfer.on_leak=report")
    assert called.code == 0, called.err
    notes = [note for note in report_of(out)["notes"] if "12 of 15 test pictures" in note]
    assert len(notes) == 1


# --- using a run ------------------------------------------------------------------------------------------------------


def test_predict_prints_path_class_and_probability(command_line, finished, photos):
    called = command_line("predict", finished, photos / "person A" / "0.png", photos / "person B")
    assert called.code == 0, called.err
    rows = [line.split("\t") for line in called.out.splitlines()]
    assert [row[0] for row in rows] == [str(photos / "person A" / "0.png"),
                                        *(str(photos / "person B" / f"{photo}.png") for photo in range(4))]  # fmt: skip
    assert {row[1] for row in rows} <= {"person00100", "person00101", "person00102"}
    assert all(1 / 3 <= float(row[2]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "{empty}", "{photos}"], "no target model at"),
        (["predict", "{run}", "{empty}/absent.png"], "absent.png is not there"),
        (["predict", "{run}", "{empty}"], "holds no pictures"),
        (["predict", "{run}", "{photos}", "--target", "stranger"], 'Did you mean "strangers"?'),
        (["inspect", "{empty}"], "has no checkpoint"),
        (["report", "{empty}"], "report.json is missing"),
        (["transfer", "{empty}"], "holds no recipe.yaml"),
        (["transfer", "{empty}", "--out", "{empty}/out"], "holds no recipe.yaml"),
    ],
)
def test_wrong_folders_and_files_are_exit_1_with_a_message(
    command_line, finished, photos, tmp_path, arguments, expected
):
    empty = tmp_path / "empty"
    empty.mkdir()
    called = command_line(*(argument.format(run=finished, photos=photos, empty=empty) for argument in arguments))
    assert called.code == 1
    assert called.err.startswith("error: ")
    assert expected in called.err
    assert list(empty.iterdir()) == []


def test_inspect_names_layers_and_origin(command_line, finished):
    called = command_line("inspect", finished)
    assert called.code == 0
    for part in ("family convnet", "stage2", "embedding", "face pairs", "builtin:drawn_faces", "step-00000004"):
        assert part in called.out
    backbone = finished / "checkpoints" / "step-00000002" / "backbone"
    assert "step-00000002" in command_line("inspect", backbone).out


def test_report_prints_verdict_and_tables(command_line, finished):
    called = command_line("report", finished)
    assert called.code == 0
    for part in ("strangers", "frozen", "scratch", "report.md"):
        assert part in called.out


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_two_processes_log_what_one_does(finished, miniature, tmp_path):
    command = [sys.executable, "-m", "recipes", "run", str(miniature), "targets.strangers=null",
               "--out", str(tmp_path / "two"), "--processes", "2"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr
    one, two = (
        [
            [(name, value) for name, value in line.items() if name not in SPEED]
            for line in lines(folder / "metrics.jsonl")
        ]
        for folder in (finished, tmp_path / "two")
    )
    assert len(two) == len(one) == 3
    for here, there in zip(one, two, strict=True):
        assert [name for name, _ in there] == [name for name, _ in here]
        for (name, value), (_, other) in zip(here, there, strict=True):
            assert other == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4)), name
    state = json.loads((tmp_path / "two" / "checkpoints" / "step-00000004" / "training" / "state.json").read_text())
    assert state["processes"] == 2
