"""Tables of stages of transformers' encoders: ``embeddings`` and ``block1`` ... ``blockN``.

What crosses a cut in a text encoder is a `TextState`; each block rebuilds its attention mask, and its rotary terms,
from the mask of tokens with the library's own functions. `forward` is then what the library's own forward computes.

Legend for shapes: B batch, T tokens, D features, H and W pixels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from auxtasks.backbones.stages import Stage
from auxtasks.backbones.text import TextState, TokenBatch, positions_of
from auxtasks.errors import InputMismatchError

__all__ = ["ENCODERS", "Encoder"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How one of transformers' model types is cut.

    Attributes:
        embeddings: computes the first layer.
        block: computes a block; takes its dotted name, and that of the norm behind it, as keywords.
        blocks: dotted name of the list of blocks.
        norm: dotted name of the norm behind the last block, which belongs to it.
        kind: ``"text"`` or ``"image"``.
        has_pooler: whether the class takes ``add_pooling_layer``: a pooler is no part of the layers.
        offset: position of a text's first token, counted from the padding's id; nothing counts from 0.

    Example:
        >>> encoder: Encoder = ENCODERS["bert"]
        >>> encoder.kind, [stage.name for stage in encoder.stages(dim=8, blocks=2)]
        ('text', ['embeddings', 'block1', 'block2'])
    """

    embeddings: Callable[[nn.Module, Any], Any]
    block: Callable[..., Any]
    blocks: str
    norm: str | None = None
    kind: str = "text"
    has_pooler: bool = False
    offset: int | None = None

    def stages(self, dim: int, blocks: int) -> list[Stage]:
        """Return the table of a model with a number of blocks that are ``dim`` wide."""
        rows = [Stage("embeddings", ("embeddings",), dim, self.embeddings)]
        for place in range(blocks):
            path = f"{self.blocks}.{place}"
            norm = self.norm if place == blocks - 1 else None
            owns = (path,) if norm is None else (path, norm)
            rows.append(Stage(f"block{place + 1}", owns, dim, functools.partial(self.block, path=path, norm=norm)))
        return rows

    def length(self, config: Any) -> int:
        """Return the most tokens that a text encoder has positions for."""
        most: int = config.max_position_embeddings
        return most if self.offset is None else most - config.pad_token_id - self.offset


def _positions(module: Any, mask: Tensor, most: int) -> Tensor:
    """Return positions (B, T) below ``most``.

    Raises:
        InputMismatchError: a text has more tokens than there are positions.
    """
    positions = positions_of(mask)
    if mask.shape[1] > most:
        # Padded beyond the last position. Only here are values looked at, which on a GPU would wait for it.
        longest = int((positions + 1)[mask].max()) if bool(mask.any()) else 0
        if longest > most:
            raise InputMismatchError(
                f"{type(module).__name__} has positions for {most} tokens, the batch holds a text of {longest}. "
                "Truncate it."
            )
        positions = positions.clamp(max=most - 1)
    return positions


def _absolute(module: Any, batch: TokenBatch) -> TextState:
    """Embed tokens whose positions count from 0."""
    positions = _positions(module, batch.mask, module.config.max_position_embeddings)
    return TextState(module.embeddings(input_ids=batch.ids, position_ids=positions), batch.mask)


def _roberta(module: Any, batch: TokenBatch) -> TextState:
    """Embed tokens whose positions count from the padding's id plus 1; padding has the padding's id as position."""
    pad = module.config.pad_token_id
    most = module.config.max_position_embeddings - pad - 1
    # The library finds padding by its id; by the mask it is the same, and a caller's own padding does no harm.
    positions = (_positions(module, batch.mask, most) + 1) * batch.mask + pad
    return TextState(module.embeddings(input_ids=batch.ids, position_ids=positions), batch.mask)


def _without_positions(module: Any, batch: TokenBatch) -> TextState:
    """Embed tokens whose positions the blocks bring in."""
    return TextState(module.embeddings(input_ids=batch.ids), batch.mask)


def _mask_arguments(module: Any, state: TextState) -> dict[str, Any]:
    return {
        "config": module.config,
        "inputs_embeds": state.hidden,
        "attention_mask": state.mask,
        # The library leaves the mask out where there is no padding, which it finds out by looking. In every block of
        # its own that would make a GPU wait for its work to be done; there the mask is always given instead.
        "allow_is_bidirectional_skip": state.hidden.device.type == "cpu",
    }


def _text_block(module: Any, state: TextState, *, path: str, norm: str | None) -> TextState:
    """Apply a block in which every token attends to every token."""
    from transformers.masking_utils import create_bidirectional_mask

    assert norm is None  # BERT and its kin norm inside the block
    attention = create_bidirectional_mask(**_mask_arguments(module, state))
    return TextState(module.get_submodule(path)(state.hidden, attention), state.mask)


def _modernbert_block(module: Any, state: TextState, *, path: str, norm: str | None) -> TextState:
    """Apply a block with rotary positions and full or local attention."""
    from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

    block = module.get_submodule(path)
    is_local = block.attention_type == "sliding_attention"
    mask = create_bidirectional_sliding_window_mask if is_local else create_bidirectional_mask
    rotary = module.rotary_emb(state.hidden, positions_of(state.mask), block.attention_type)
    attention = mask(**_mask_arguments(module, state))
    hidden = block(state.hidden, attention_mask=attention, position_embeddings=rotary)
    return TextState(hidden if norm is None else module.get_submodule(norm)(hidden), state.mask)


def _patches(module: Any, x: Tensor) -> Tensor:
    """Map pictures (B, C, H, W) to tokens (B, T, D): patches behind the class token."""
    tokens: Tensor = module.embeddings(x)
    return tokens


def _image_block(module: Any, x: Tensor, *, path: str, norm: str | None) -> Tensor:
    """Apply a block to tokens (B, T, D), all of them real."""
    hidden: Tensor = module.get_submodule(path)(x)
    return hidden if norm is None else module.get_submodule(norm)(hidden)


# By the name that transformers gives the model type.
ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "bert": Encoder(_absolute, _text_block, "encoder.layer", has_pooler=True),
        "roberta": Encoder(_roberta, _text_block, "encoder.layer", has_pooler=True, offset=1),
        "distilbert": Encoder(_absolute, _text_block, "transformer.layer"),
        "modernbert": Encoder(_without_positions, _modernbert_block, "layers", norm="final_norm"),
        "vit": Encoder(_patches, _image_block, "layers", norm="layernorm", kind="image", has_pooler=True),
    }
)
