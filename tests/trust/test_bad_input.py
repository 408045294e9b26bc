"""The section on bad input: it runs every such test, counts each input, and fails where one is accepted."""

import pytest

from trust import ROOT, bad_input

SUITE = "def test_{name}(record_property):\n    record_property('inputs', {inputs})\n    assert {holds}\n"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Put a suite in place of the real ones."""

    def plant(*cases):
        tests = tmp_path / "root" / "tests"
        tests.mkdir(parents=True)
        text = "".join(SUITE.format(name=name, inputs=inputs, holds=holds) for name, inputs, holds in cases)
        (tests / "test_planted.py").write_text(text)
        monkeypatch.setattr(bad_input, "SUITES", (("planted", "test_planted.py", 3),))
        monkeypatch.setattr(bad_input, "suite_files", lambda _: [str(tests / "test_planted.py")])

    return plant


def test_every_test_of_bad_input_is_in_the_table_once():
    found = [name for _, pattern, _ in bad_input.SUITES for name in bad_input.suite_files(pattern)]
    there = [path for kind in ("bad", "fuzz") for path in (ROOT / "tests").rglob(f"test_{kind}_*.py")]
    # Not this one, which is about the table.
    assert sorted(found) == sorted(str(path.relative_to(ROOT)) for path in there if path.parent.name != "trust")
    assert len(found) >= 3


def test_inputs_are_counted_and_an_accepted_one_fails_the_proof(planted, tmp_path):
    planted(("first", 7, True), ("second", 5, True), ("third", 2, False))
    (proof,) = bad_input.prove(tmp_path, full=False)
    assert proof.times == 14
    assert len(proof.failures) == 1
    assert "third" in proof.failures[0]
    assert not proof.holds


def test_a_full_proof_draws_more_examples(planted, tmp_path):
    planted(("drawn", "int(__import__('os').environ.get('AUXTASKS_FUZZ_EXAMPLES', '0'))", True))
    assert [proof.times for proof in bad_input.prove(tmp_path, full=True)] == [3]


def test_a_suite_without_tests_proves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(bad_input, "SUITES", (("nothing", "test_not_there.py", 0),))
    (proof,) = bad_input.prove(tmp_path, full=False)
    assert not proof.holds


def test_recipes_drawn_at_random_are_counted_one_by_one(monkeypatch, tmp_path):
    suite = next(suite for suite in bad_input.SUITES if suite[1].startswith("recipes/test_fuzz"))
    monkeypatch.setattr(bad_input, "SUITES", ((*suite[:2], 10),))
    (proof,) = bad_input.prove(tmp_path, full=True)
    assert proof.failures == ()
    assert proof.times >= 4 * 10
