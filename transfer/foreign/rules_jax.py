r"""Rename rules for weights that JAX projects publish: big_vision's vision transformers.

One set reads the names of today and those of the first releases (ViT of 2020, AugReg), which call the second norm
``LayerNorm_2`` and have the class token's position in the table of positions. An attention's query, key and value
become the one matrix that timm has.
"""

from __future__ import annotations

from transfer.foreign.rule_set import RuleSet
from transfer.rename import Layout, Rule

__all__ = ["RULES"]

# What stands before the names: nothing, or where a training state or a pair of towers keeps them.
PREFIX = r"(?:opt/target/|params/(?:img/)?)?"
BLOCK = PREFIX + r"Transformer/encoderblock_(\d+)/"
ATTENTION = BLOCK + r"MultiHeadDotProductAttention_\d/"
POOLING = PREFIX + r"(?:MAPHead_0/)?"  # attention pooling; early versions had it without a module of its own


def _pair(source: str, target: str, layout: Layout = "linear") -> tuple[Rule, Rule]:
    """Return the rules for a kernel and its bias."""
    return Rule(f"{source}/kernel", f"{target}.weight", layout), Rule(f"{source}/bias", f"{target}.bias")


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    """Return the rules for a layer norm."""
    return Rule(f"{source}/scale", f"{target}.weight"), Rule(f"{source}/bias", f"{target}.bias")


def _heads(source: str, target: str, part: tuple[int, int] | None = None) -> tuple[Rule, Rule]:
    """Return the rules for a projection to heads, as a part of a fused one if `part` says so."""
    return (
        Rule(f"{source}/kernel", f"{target}.weight", "heads in", part),
        Rule(f"{source}/bias", f"{target}.bias", "heads bias", part),
    )


VIT = (
    Rule(r"opt/(?!target/).*|params/(?:txt/.*|[tb])|(?:step|extra/.*)", None),  # optimizer, text tower, temperature
    *_pair(PREFIX + "embedding", "patch_embed.proj", "conv"),
    Rule(PREFIX + "cls", "cls_token"),
    Rule(PREFIX + "(?:Transformer/)?(?:posembed_input/)?pos_embedding", "pos_embed"),
    *_norm(BLOCK + "LayerNorm_0", r"blocks.\1.norm1"),
    *_norm(BLOCK + "LayerNorm_[12]", r"blocks.\1.norm2"),
    *_heads(ATTENTION + "query", r"blocks.\1.attn.qkv", (0, 3)),
    *_heads(ATTENTION + "key", r"blocks.\1.attn.qkv", (1, 3)),
    *_heads(ATTENTION + "value", r"blocks.\1.attn.qkv", (2, 3)),
    *_pair(ATTENTION + "out", r"blocks.\1.attn.proj", "heads out"),
    *_pair(BLOCK + r"MlpBlock_\d/Dense_0", r"blocks.\1.mlp.fc1"),
    *_pair(BLOCK + r"MlpBlock_\d/Dense_1", r"blocks.\1.mlp.fc2"),
    *_norm(PREFIX + "Transformer/encoder_norm", "norm"),
    Rule(POOLING + "probe", "attn_pool.latent"),
    *_heads(POOLING + "MultiHeadDotProductAttention_0/query", "attn_pool.q"),
    *_heads(POOLING + "MultiHeadDotProductAttention_0/key", "attn_pool.kv", (0, 2)),
    *_heads(POOLING + "MultiHeadDotProductAttention_0/value", "attn_pool.kv", (1, 2)),
    *_pair(POOLING + "MultiHeadDotProductAttention_0/out", "attn_pool.proj", "heads out"),
    *_norm(POOLING + "LayerNorm_0", "attn_pool.norm"),
    *_pair(POOLING + "MlpBlock_0/Dense_0", "attn_pool.mlp.fc1"),
    *_pair(POOLING + "MlpBlock_0/Dense_1", "attn_pool.mlp.fc2"),
    Rule(PREFIX + "pre_logits/.*", None),  # a layer of the classifier, which timm no longer has
    *_pair(PREFIX + "head", "head"),
)

RULES: dict[str, RuleSet] = {
    "vit-big-vision": RuleSet(
        name="vit-big-vision",
        source="JAX: vision transformers of google-research/big_vision and vision_transformer (ViT, AugReg, SigLIP)",
        into="timm/vit_base_patch16_224",
        rules=VIT,
        reference="big_vision/models/vit.py; Dosovitskiy et al., 'An Image is Worth 16x16 Words', ICLR 2021; "
        "Steiner et al., 'How to train your ViT?', TMLR 2022",
        preprocessing="red, green, blue, scaled to -1...1 (mean 0.5, deviation 0.5). The networks compute GELU by its "
        "tanh approximation; timm's vit_* compute it exactly, which moves features by about 1e-3 (timm's act_layer="
        "'gelu_tanh' is the same). Files of today with a class token (names 'cls' and a table of positions without a "
        "row for it) fit a model with no_embed_class=True; fixed sine positions (vit_s16_i1k) are not in the file.",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
}
