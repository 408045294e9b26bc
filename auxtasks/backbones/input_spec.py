"""What a backbone takes: shape, scale and normalisation of its input, or vocabulary and length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from auxtasks.backbones.text import TokenBatch
from auxtasks.errors import BackboneError, InputMismatchError

__all__ = ["InputSpec"]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a backbone takes.

    Attributes:
        kind: ``"image"``, ``"features"`` or ``"text"``.
        size: height and width in pixels, for images.
        channels: 1 (grey) or 3 (RGB), for images.
        mean, std: one value a channel, on the scale [0, 1], for images normalised by fixed constants; or one a
            feature, for vectors, which none leave as they are.
        per_image: normalise each image by its own mean and standard deviation instead (as FaceNet's authors did): what
            a camera's exposure changes is then gone before the first layer.
        width: number of features, for feature vectors.
        absent: the value that says that a feature is not there, such as 0 in sparse vectors: the network then sees two
            numbers a feature, its value (standardised, 0 where absent) and whether it is there.
        vocabulary: number of token ids, for text.
        length: most tokens of a text, special ones included.
        pad_id: token id of padding.
    """

    kind: Literal["image", "features", "text"]
    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_image: bool = False
    width: int | None = None
    absent: float | None = None
    vocabulary: int | None = None
    length: int | None = None
    pad_id: int = 0

    @classmethod
    def image(
        cls,
        size: int | tuple[int, int],
        channels: int,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        per_image: bool = False,
    ) -> InputSpec:
        """Describe images of ``size`` pixels (a number means a square); no `mean` and `std` leave [0, 1] as it is.

        Example:
            >>> InputSpec.image(48, channels=1, per_image=True).size
            (48, 48)
        """
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            kind="image",
            size=(height, width),
            channels=channels,
            mean=tuple(mean) or (0.0,) * channels,
            std=tuple(std) or (1.0,) * channels,
            per_image=per_image,
        )

    def scaled_by(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> InputSpec:
        """Return the same pictures, normalised by other constants, one a channel; None keeps those that there are.

        Raises:
            BackboneError: another number of values than of channels, a value that is not finite, or a standard
                deviation that is not above 0.

        Example:
            >>> InputSpec.image(8, channels=1).scaled_by(None, [1 / 255]).std
            (0.00392156862745098,)
        """
        channels = self.channels or 0
        for name, values, above in (("mean", mean, -math.inf), ("std", std, 0.0)):
            if values is None:
                continue
            if len(values) != channels or not all(math.isfinite(value) and value > above for value in values):
                wanted = "a finite value above 0" if above == 0 else "a finite value"
                raise BackboneError(
                    f"{name} holds {wanted} for each of the {channels} channels of the pictures; found {list(values)}."
                )
        return dataclasses.replace(
            self,
            mean=self.mean if mean is None else tuple(float(value) for value in mean),
            std=self.std if std is None else tuple(float(value) for value in std),
        )

    @classmethod
    def features(
        cls, width: int, *, mean: Sequence[float] = (), std: Sequence[float] = (), absent: float | None = None
    ) -> InputSpec:
        """Describe feature vectors of a fixed width; one of `mean` and `std` alone leaves the other's part out.

        Raises:
            BackboneError: another number of values than of features, a value that is not finite, or a standard
                deviation that is not above 0.

        Example:
            >>> spec = InputSpec.features(2, mean=[1, 10], std=[1, 5])
            >>> spec.normalize(torch.tensor([[2.0, 0.0]])).tolist()
            [[1.0, -2.0]]
            >>> InputSpec.features(2, mean=[1, 10], std=[1, 5], absent=0).normalize(torch.tensor([[2.0, 0.0]])).tolist()
            [[1.0, 0.0, 1.0, 0.0]]
        """
        _check_scale("mean", mean, width, above=-math.inf)
        _check_scale("std", std, width, above=0.0)
        if not len(mean) and not len(std):
            return cls(kind="features", width=width, absent=absent)
        return cls(
            kind="features",
            width=width,
            absent=absent,
            mean=tuple(float(value) for value in mean) or (0.0,) * width,
            std=tuple(float(value) for value in std) or (1.0,) * width,
        )

    @classmethod
    def text(cls, vocabulary: int, length: int, *, pad_id: int = 0) -> InputSpec:
        """Describe texts of at most ``length`` tokens, special ones included, with ids below ``vocabulary``."""
        return cls(kind="text", vocabulary=vocabulary, length=length, pad_id=pad_id)

    @property
    def normalizes(self) -> bool:
        """Whether items leave their scale, [0, 1] for pictures, before the first layer."""
        scales = any(self.mean) or any(value != 1 for value in self.std)
        return self.per_image or scales or self.absent is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item: (C, H, W) for images, (D,) for features, (most tokens,) for text."""
        if self.kind == "text":
            assert self.length is not None  # held by the constructor above; narrows the type
            return (self.length,)
        if self.kind == "image":
            assert self.size is not None  # held by the constructors above; narrows the type
            assert self.channels is not None
            return (self.channels, *self.size)
        assert self.width is not None
        return (self.width,)

    @property
    def seen_width(self) -> int:
        """How many numbers the network sees of a vector: D, or two a feature where features may be absent."""
        assert self.width is not None  # of features
        return self.width if self.absent is None else 2 * self.width

    def check(self, batch: Tensor | TokenBatch) -> None:
        """Refuse a batch whose items are of another kind or shape, or whose token ids are not in the vocabulary.

        Raises:
            InputMismatchError: shows both.
        """
        if isinstance(batch, TokenBatch) != (self.kind == "text"):
            found = "tokens" if isinstance(batch, TokenBatch) else f"items of shape {tuple(batch.shape[1:])}"
            raise InputMismatchError(f"the backbone takes {self.kind}, the batch holds {found}.")
        if isinstance(batch, TokenBatch):
            self._check_tokens(batch)
            return
        if tuple(batch.shape[1:]) != self.shape:
            raise InputMismatchError(
                f"the backbone takes {self.kind} items of shape {self.shape}, the batch holds items of shape "
                f"{tuple(batch.shape[1:])}."
            )

    def _check_tokens(self, batch: TokenBatch) -> None:
        assert self.length is not None  # held by the constructor above; narrows the type
        assert self.vocabulary is not None
        longest = int(batch.mask.sum(dim=1).max()) if batch.mask.numel() else 0
        if longest > self.length:
            raise InputMismatchError(
                f"the backbone takes at most {self.length} tokens, the batch holds a text of {longest}. Truncate it."
            )
        highest = int(batch.ids.max()) if batch.ids.numel() else 0
        if highest >= self.vocabulary:
            raise InputMismatchError(
                f"the backbone knows {self.vocabulary} token ids, the batch holds id {highest}: it was made with "
                "another tokenizer."
            )

    def example(self, items: int = 1) -> Tensor | TokenBatch:
        """Return an empty batch: what shapes are measured with.

        Example:
            >>> InputSpec.text(vocabulary=100, length=64).example().ids.shape
            torch.Size([1, 8])
        """
        if self.kind == "features":
            return torch.zeros(items, self.seen_width)
        if self.kind == "image":
            return torch.zeros(items, *self.shape)
        assert self.length is not None  # held by the constructor above; narrows the type
        shape = (items, min(8, self.length))
        return TokenBatch(torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool))

    def normalize(self, batch: Tensor) -> Tensor:
        """Turn raw items into what the backbone takes: float, normalised.

        Args:
            batch: uint8 images (B, C, H, W) in 0..255, float images in 0..1, or features (B, D).

        Returns:
            A float tensor of the same shape; of vectors with `absent`, (B, 2 D): values, then whether each is there.

        Example:
            >>> spec = InputSpec.image(2, channels=1, mean=[0.5], std=[0.5])
            >>> spec.normalize(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).flatten().tolist()
            [1.0, 1.0, 1.0, 1.0]
        """
        self.check(batch)
        if self.kind == "features":
            return self._normalized_vectors(batch.float())
        scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        if self.per_image:
            center = scaled.mean(dim=(1, 2, 3), keepdim=True)
            # The floor keeps a flat picture finite instead of amplifying its sensor noise.
            spread = scaled.std(dim=(1, 2, 3), keepdim=True) + 0.05
            return (scaled - center) / spread
        mean = scaled.new_tensor(self.mean).view(1, -1, 1, 1)
        std = scaled.new_tensor(self.std).view(1, -1, 1, 1)
        return (scaled - mean) / std

    def _normalized_vectors(self, values: Tensor) -> Tensor:
        scaled = (values - values.new_tensor(self.mean)) / values.new_tensor(self.std) if self.std else values
        if self.absent is None:
            return scaled
        present = values != self.absent
        return torch.cat([scaled.where(present, 0.0), present.float()], dim=1)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputSpec:
        """Read what `to_json` wrote."""
        arguments: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
        }
        return cls(**arguments)


def _check_scale(name: str, values: Sequence[float], width: int, *, above: float) -> None:
    """Refuse what vectors cannot be standardised by."""
    if len(values) not in (0, width):
        raise BackboneError(
            f"{name} holds {len(values)} values, the vectors have {width} features: give one a feature."
        )
    for place, value in enumerate(values):
        if not (math.isfinite(value) and value > above):
            needed = "finite and above 0: leave out features that never vary" if above == 0 else "finite"
            raise BackboneError(f"{name}[{place}] is {value}, it must be {needed}.")
