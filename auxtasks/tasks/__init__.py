"""Auxiliary tasks: what a backbone is pretrained on."""

from auxtasks.tasks.base import AuxTask, Evaluator
from auxtasks.tasks.face_pairs import FacePairs
from auxtasks.tasks.shuffled_sentences import ShuffledSentences

__all__ = ["AuxTask", "Evaluator", "FacePairs", "ShuffledSentences"]
