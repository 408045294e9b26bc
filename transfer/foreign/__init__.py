"""Weights from other frameworks, read without them.

`load_foreign` is in `transfer.foreign.load`, the shipped rules in `transfer.foreign.rule_sets`: both stand on the
copy of `transfer.reuse`, while what is here can be imported from anywhere.
"""

from transfer.foreign.check import Check, check_file, check_outputs
from transfer.foreign.rule_set import RuleSet
from transfer.foreign.weights import KINDS, ForeignWeights, read_foreign

__all__ = ["KINDS", "Check", "ForeignWeights", "RuleSet", "check_file", "check_outputs", "read_foreign"]
