"""Reuse: what of a pretrained backbone helps with few labels."""

from transfer.copy_plan import CopyPlan
from transfer.depth import search_depth
from transfer.episodes import draw_episodes, score_episodes
from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Tuning, fine_tune
from transfer.freezing import Stage, gradual, head_then_all
from transfer.frozen_features import FrozenFeatures
from transfer.label_curves import label_curves
from transfer.layers import Select
from transfer.model import TargetModel, load
from transfer.protocol import Protocol
from transfer.rename import Rule
from transfer.replace_output import fit_head, replace_head, replace_output
from transfer.report import build_report, write_report
from transfer.reuse import plan_copy, reuse
from transfer.scorer import Scorer
from transfer.spaces import Pretrained

__all__ = [
    "CopyPlan",
    "FewShot",
    "FrozenFeatures",
    "Pretrained",
    "Protocol",
    "Rule",
    "Scorer",
    "Select",
    "Stage",
    "TargetModel",
    "Tuning",
    "build_report",
    "draw_episodes",
    "evaluate_target",
    "fine_tune",
    "fit_head",
    "gradual",
    "head_then_all",
    "label_curves",
    "load",
    "plan_copy",
    "replace_head",
    "replace_output",
    "reuse",
    "score_episodes",
    "search_depth",
    "write_report",
]
