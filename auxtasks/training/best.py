"""Early stopping by validation: the weights of the best validation so far, and how long ago that was.

Which weights are kept is a function of the validations alone, and every checkpoint holds what is needed to go on
comparing: so a run that was killed and resumed keeps those that an uninterrupted one keeps.

Reference:
    Prechelt, "Early stopping - but when?", 1998; `patience` is his third class of criteria, counted in validations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.errors import TrainingError, did_you_mean
from auxtasks.training.settings import BestIs, LoopSettings

__all__ = ["BestWeights"]

_FILE = "best.safetensors"
_MOST_NAN = 2  # validations in a row, before there is a best one


class BestWeights:
    """A copy, on the CPU, of the weights with the best validation so far; among equals, of the earliest.

    NaN is never the best.

    Args:
        metric: the name of what is compared.
        best_is: whether the ``"highest"`` or the ``"lowest"`` value is the best.
        patience: after how many validations in a row without a new best it is `exhausted`; None is never.

    Attributes:
        step: of the best validation; None before there is one.
        metrics: of that validation, all of them.
        validations_since: how many came after it.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> best = BestWeights("loss", "lowest", patience=2)
        >>> for step, loss in enumerate((0.5, 0.3, math.nan, 0.4), start=1):
        ...     _ = nn.init.constant_(module.weight, step)
        ...     best.update(step, {"loss": loss}, module)
        >>> best.step, best.exhausted
        (2, True)
        >>> best.put_back(module)
        >>> module.weight.item()
        2.0
    """

    def __init__(self, metric: str, best_is: BestIs, patience: int | None = None) -> None:
        self.metric = metric
        self.best_is = best_is
        self.patience = patience
        self.step: int | None = None
        self.metrics: dict[str, float] = {}
        self.validations_since = 0
        self._weights: dict[str, Tensor] | None = None

    @classmethod
    def asked_for(cls, settings: LoopSettings) -> BestWeights | None:
        """Return what keeps the best weights of a run; None where the last ones are wanted."""
        return None if settings.keep_best is None else cls(settings.keep_best, settings.best_is, settings.patience)

    @property
    def counts(self) -> dict[str, float]:
        """The step of the best validation and the number of later ones, to be logged."""
        best_step = {} if self.step is None else {"best_step": self.step}
        return {**best_step, "validations_since": self.validations_since}

    @property
    def exhausted(self) -> bool:
        """Whether `patience` is at its end."""
        return self.patience is not None and self.validations_since >= self.patience

    @property
    def may_be_exhausted_next(self) -> bool:
        """Whether the next validation exhausts `patience`, unless it is the best."""
        return self.patience is not None and self.validations_since + 1 >= self.patience

    def update(self, step: int, metrics: Mapping[str, float], module: nn.Module) -> None:
        """Compare a validation, and keep the module's weights if it is the best so far.

        Raises:
            TrainingError: the metric is not among those of the validation; lists them. Or it was NaN in the first two:
                of what has no value, waiting seldom makes one, and it would cost all steps.
        """
        if self.metric not in metrics:
            raise TrainingError(
                f'keep_best="{self.metric}" is none of the validation metrics of step {step}: '
                f"{', '.join(sorted(metrics)) or 'there are none'}.{did_you_mean(self.metric, metrics)}"
            )
        if not self._is_best(float(metrics[self.metric])):
            self.validations_since += 1
            if self.step is None and self.validations_since >= _MOST_NAN:
                raise self._never_a_number()
            return
        self.step, self.validations_since = step, 0
        self.metrics = {name: float(value) for name, value in metrics.items()}
        self._weights = None  # first, so that there are never two copies
        self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}

    def _is_best(self, value: float) -> bool:
        if self.step is None:
            return not math.isnan(value)
        # NaN is neither above nor below anything; the best of earlier steps is no NaN.
        best = self.metrics[self.metric]
        return value > best if self.best_is == "highest" else value < best

    def put_back(self, module: nn.Module) -> None:
        """Give a module the best weights, and let go of them.

        Raises:
            TrainingError: there are none, since the metric was NaN in all validations.
        """
        if self._weights is None:
            raise self._never_a_number()
        module.load_state_dict(self._weights)
        self._weights = None

    def _never_a_number(self) -> TrainingError:
        return TrainingError(
            f'keep_best="{self.metric}" was NaN at every validation, so that none is the best. Look at the validation '
            "data (a metric over nothing is NaN); or choose another metric, or leave keep_best out, in another output "
            "folder."
        )

    def in_place_of_last(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return a run's metrics with those of the best validation under ``validation/``, and none of another one."""
        others = {name: value for name, value in metrics.items() if not name.startswith("validation/")}
        return {**others, **{f"validation/{name}": value for name, value in self.metrics.items()}}

    def write(self, training: Path) -> dict[str, Any]:
        """Write the weights into a checkpoint's ``training`` folder; return the rest as JSON.

        Weights that were put back are no longer held: the checkpoint's own are the best, and one copy is enough.
        """
        if self._weights is not None:
            checkpoint.write_tensors(training / _FILE, self._weights)
        return {
            "step": self.step,
            # JSON has no infinity: as a string, which `float` reads.
            "metrics": {name: value if math.isfinite(value) else str(value) for name, value in self.metrics.items()},
            "validations_since": self.validations_since,
            "weights": None if self._weights is None else _FILE,
        }

    def load(self, training: Path, state: Mapping[str, Any]) -> None:
        """Go on from what `write` wrote.

        Raises:
            CheckpointError: the file of the weights is missing or damaged; names it.
        """
        self.step = state["step"]
        self.metrics = {name: float(value) for name, value in state["metrics"].items()}
        self.validations_since = state["validations_since"]
        self._weights = None if state["weights"] is None else checkpoint.read_tensors(training / state["weights"])
