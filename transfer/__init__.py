"""Reuse: what of a pretrained backbone helps with few labels."""

from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Tuning, fine_tune
from transfer.frozen_features import FrozenFeatures
from transfer.model import TargetModel, load
from transfer.protocol import Protocol
from transfer.report import build_report, write_report
from transfer.scorer import Scorer
from transfer.spaces import Pretrained

__all__ = [
    "FewShot",
    "FrozenFeatures",
    "Pretrained",
    "Protocol",
    "Scorer",
    "TargetModel",
    "Tuning",
    "build_report",
    "evaluate_target",
    "fine_tune",
    "load",
    "write_report",
]
