"""What a backbone takes: shape, scale and normalisation of its input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from auxtasks.errors import InputMismatchError

__all__ = ["InputSpec"]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a backbone takes.

    Attributes:
        kind: ``"image"`` or ``"features"``.
        size: height and width in pixels, for images.
        channels: 1 (grey) or 3 (RGB), for images.
        mean, std: one value a channel, on the scale [0, 1], for images normalised by fixed constants.
        per_image: normalise each image by its own mean and standard deviation instead (as FaceNet's authors did): what
            a camera's exposure changes is then gone before the first layer.
        width: number of features, for feature vectors.
    """

    kind: Literal["image", "features"]
    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_image: bool = False
    width: int | None = None

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

    @classmethod
    def features(cls, width: int) -> InputSpec:
        """Describe feature vectors of a fixed width."""
        return cls(kind="features", width=width)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item: (C, H, W) for images, (D,) for features."""
        if self.kind == "image":
            assert self.size is not None  # held by the constructors above; narrows the type
            assert self.channels is not None
            return (self.channels, *self.size)
        assert self.width is not None
        return (self.width,)

    def check(self, batch: Tensor) -> None:
        """Refuse a batch whose items have another shape.

        Raises:
            InputMismatchError: shows both shapes.
        """
        if tuple(batch.shape[1:]) != self.shape:
            raise InputMismatchError(
                f"the backbone takes {self.kind} items of shape {self.shape}, the batch holds items of shape "
                f"{tuple(batch.shape[1:])}."
            )

    def normalize(self, batch: Tensor) -> Tensor:
        """Turn raw items into what the backbone takes: float, normalised.

        Args:
            batch: uint8 images (B, C, H, W) in 0..255, float images in 0..1, or features (B, D).

        Returns:
            A float tensor of the same shape.

        Example:
            >>> spec = InputSpec.image(2, channels=1, mean=[0.5], std=[0.5])
            >>> spec.normalize(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).flatten().tolist()
            [1.0, 1.0, 1.0, 1.0]
        """
        self.check(batch)
        if self.kind == "features":
            return batch.float()
        scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        if self.per_image:
            center = scaled.mean(dim=(1, 2, 3), keepdim=True)
            # The floor keeps a flat picture finite instead of amplifying its sensor noise.
            spread = scaled.std(dim=(1, 2, 3), keepdim=True) + 0.05
            return (scaled - center) / spread
        mean = scaled.new_tensor(self.mean).view(1, -1, 1, 1)
        std = scaled.new_tensor(self.std).view(1, -1, 1, 1)
        return (scaled - mean) / std

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
