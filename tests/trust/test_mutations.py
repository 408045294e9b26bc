"""The planted faults can be planted; one is found, and one that changes nothing is not."""

import pytest

from trust import ROOT
from trust.mutants import MUTANTS, Mutant
from trust.mutations import prove_mutants, replaced


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_what_a_fault_replaces_stands_in_its_file_once(mutant):
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert replaced(text, mutant) != text
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).is_file()


def test_the_core_has_faults_of_each_kind():
    kinds = {mutant.what.partition(":")[0] for mutant in MUTANTS}
    assert {"losses", "plan", "freezing", "gather", "step", "resume"} <= kinds
    assert len(MUTANTS) >= 10


def test_a_text_that_is_gone_is_told():
    gone = Mutant("plan: gone", "auxtasks/data/plan.py", "no such text", "", ())
    with pytest.raises(ValueError, match=r"auxtasks/data/plan\.py holds 0 times, not once: no such text"):
        replaced("some text", gone)


@pytest.mark.processes
def test_a_fault_is_found_and_a_change_without_effect_is_not(tmp_path):
    found = next(mutant for mutant in MUTANTS if "first" in mutant.what and mutant.file.endswith("plan.py"))
    harmless = Mutant(
        "plan: harmless", found.file, found.right, found.right.replace("epoch)", "epoch, 0)"), found.tests
    )
    proof = prove_mutants(tmp_path, [found, harmless])
    assert proof.times == 2
    assert proof.failures == ("not found: plan: harmless",)
