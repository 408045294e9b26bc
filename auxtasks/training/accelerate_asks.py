"""What a launcher asks Accelerate for in the environment, and a run here would not get: refused, not passed over.

``accelerate launch --use_fsdp`` and its like tell the processes that they start by variables. Accelerate reads some of
them only on a GPU, some after it was told otherwise, and says nothing about it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Final

from auxtasks.errors import TrainingError

__all__ = ["refuse_other_settings", "refuse_what_is_not_given"]

_OFF: Final = frozenset({"", "0", "false", "no", "none", "n", "f", "off"})


@dataclasses.dataclass(frozen=True)
class _Ask:
    """What a variable asks for, what would happen, and what to do instead."""

    variable: str
    what: str
    would: str
    instead: str
    only: str | None = None  # the one value that asks; None: any that is not "off"

    def is_in(self, environment: Mapping[str, str]) -> bool:
        value = environment.get(self.variable, "").strip().lower()
        return value not in _OFF if self.only is None else value == self.only


_ALL_HELD = "on a CPU each process would hold and train all of the network, without a word; on GPUs it was never tried"
_SHARD = 'Leave --use_fsdp out and set training.sharding=full (LoopSettings(sharding="full"))'
_ASKS: Final = (
    _Ask("ACCELERATE_USE_FSDP", "weights dealt out to the processes by FSDP", _ALL_HELD, _SHARD),
    _Ask(
        "ACCELERATE_USE_DEEPSPEED",
        "DeepSpeed",
        "on a CPU it would train without; on GPUs DeepSpeed's own optimizer step and checkpoints would take the place "
        "of those that a run resumes from",
        "Leave --use_deepspeed out and set training.sharding=full, which deals out the same (ZeRO stage 3)",
    ),
    _Ask(
        "ACCELERATE_USE_MEGATRON_LM",
        "Megatron-LM",
        "on a CPU it would train without; on GPUs Megatron trains networks of its own only, which a backbone is not",
        "Leave --use_megatron_lm out and set training.sharding=full",
    ),
    _Ask(
        "ACCELERATE_USE_PARALLELISM_CONFIG",
        "tensor, context or pipeline parallelism",
        "no backbone here is cut that way, and each process would train all of it",
        "Leave --use_parallelism_config out and set training.sharding=full",
    ),
    _Ask(
        "ACCELERATE_DYNAMO_BACKEND",
        "a compiled network",
        "its numbers round otherwise, and no checkpoint would say so, so that a resumed run were another one",
        "Leave --dynamo_backend out",
    ),
    _Ask(
        "PJRT_DEVICE",
        "a TPU",
        "it would train on the CPU",
        "Unset PJRT_DEVICE to train on the CPU, or use a machine with GPUs",
        only="tpu",
    ),
    _Ask(
        "ACCELERATE_IN_TPU_POD",
        "a pod of TPUs",
        "each machine would train alone on its CPU",
        "Start without --tpu_cluster, on machines with GPUs",
    ),
)


def refuse_what_is_not_given(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to run where a launcher asked for what no run here gets.

    Args:
        environment: variables that a launcher has set.

    Raises:
        TrainingError: says what was asked for, what would have happened, and what to use.

    Example:
        >>> refuse_what_is_not_given({"ACCELERATE_USE_FSDP": "false", "ACCELERATE_DYNAMO_BACKEND": "no"})
    """
    for ask in _ASKS:
        if ask.is_in(environment):
            raise TrainingError(
                f"{ask.variable}={environment[ask.variable]} asks for {ask.what}, which is not given here: "
                f"{ask.would}. {ask.instead}."
            )


def refuse_other_settings(mixed_precision: str, accumulation: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to run where a launcher asked for another precision or accumulation than the run's own.

    A launcher's ``no`` and 1 are its defaults, and ask for nothing.

    Args:
        mixed_precision, accumulation: of the run.
        environment: variables that a launcher has set.

    Raises:
        TrainingError: shows both, and says which would have been used.

    Example:
        >>> refuse_other_settings("bf16", 1, {"ACCELERATE_MIXED_PRECISION": "bf16"})
    """
    asked = (
        ("ACCELERATE_MIXED_PRECISION", "mixed_precision", mixed_precision, _OFF),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "accumulation", str(accumulation), _OFF | {"1", "auto"}),
    )
    for variable, name, own, defaults in asked:
        found = environment.get(variable, "").strip().lower()
        if found not in defaults and found != own:
            raise TrainingError(
                f"{variable}={found}, while the run has {name}={own}, which would have been used. Set "
                f"training.{name}={found} if that is what you want, or unset {variable} (--{_flag(variable)} of "
                "accelerate launch, or the file that accelerate config wrote)."
            )


def _flag(variable: str) -> str:
    return variable.removeprefix("ACCELERATE_").lower()
