"""The closed table of rule sets that are shipped: whose weights can be read into which network by a name alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from auxtasks.errors import TransferError, did_you_mean
from transfer.foreign import rules_caffe, rules_jax, rules_keras, rules_tensorflow
from transfer.foreign.rule_set import RuleSet

__all__ = ["RULE_SETS", "find_rule_set"]

RULE_SETS: Mapping[str, RuleSet] = MappingProxyType(
    {
        **rules_tensorflow.RULES,
        **rules_keras.RULES,
        **rules_jax.RULES,
        **rules_caffe.RULES,
    }
)


def find_rule_set(name: str) -> RuleSet:
    """Return a rule set by its name.

    Raises:
        TransferError: no such name; lists all, each with whose weights it reads.

    Example:
        >>> find_rule_set("vgg16-caffe").into
        'torchvision/vgg16'
    """
    if name not in RULE_SETS:
        listed = "\n".join(f"  {key}: {found.source}, into {found.into}" for key, found in sorted(RULE_SETS.items()))
        raise TransferError(f'no rules "{name}".{did_you_mean(name, RULE_SETS)} There are:\n{listed}')
    return RULE_SETS[name]
