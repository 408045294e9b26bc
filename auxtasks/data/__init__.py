"""Data: anything turned into checked columns, decoded once, drawn by a plan that is computed and not replayed."""

from auxtasks.data.augment import Augment
from auxtasks.data.decoding import decode_one
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.pairs import Pairs, balanced_pairs, hold_out, load_pairs
from auxtasks.data.plan import BatchPlan, EpochPlan, IdentityPlan
from auxtasks.data.sources import load_source
from auxtasks.data.texts import TextTable, encode_texts
from auxtasks.data.tokenizers import load_tokenizer, train_tokenizer

__all__ = [
    "Augment",
    "BatchPlan",
    "EpochPlan",
    "IdentityPlan",
    "ImageTable",
    "Pairs",
    "TextTable",
    "balanced_pairs",
    "decode_images",
    "decode_one",
    "encode_texts",
    "hold_out",
    "load_pairs",
    "load_source",
    "load_tokenizer",
    "train_tokenizer",
]
