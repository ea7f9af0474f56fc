"""The image preprocessing that a weight expects, as a value stored with the weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.data.transforms.images import IMAGENET_MEAN, IMAGENET_STD
from jaxtl.errors import ConfigError

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """Evaluation preprocessing: resize, crop the middle, normalise.

  Attributes:
    size: side of the square images that the model sees, in pixels.
    crop_fraction: `size` divided by the length to which the shorter side is resized before the centre crop.
      None resizes to size x size regardless of the aspect ratio; images of exactly that size are unchanged.
    interpolation: "bilinear" or "bicubic", with antialiasing.
    mean, std: statistics of the channels, on the scale from 0 to 1. The defaults are ImageNet's.
    upright: turn images according to their EXIF orientation; False leaves them as stored, like torchvision.

  Raises:
    ConfigError: the size is below 1, the fraction is outside (0, 1], the interpolation is unknown, there are
      not three means and three stds, or a std is not above 0.
  """

  size: int = 224
  crop_fraction: float | None = 0.875
  interpolation: str = "bilinear"
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  upright: bool = True

  def __post_init__(self) -> None:
    if self.size < 1:
      raise ConfigError(f"size is {self.size}; expected pixels, at least 1")
    if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
      raise ConfigError(f"crop_fraction is {self.crop_fraction}; expected above 0 and at most 1")
    if self.interpolation not in INTERPOLATIONS:
      raise ConfigError(
        f"interpolation is {self.interpolation!r}; expected one of {', '.join(INTERPOLATIONS)}"
      )
    if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
      raise ConfigError(f"mean {self.mean} and std {self.std}; expected three numbers each, the stds above 0")

  @property
  def resize_to(self) -> int | tuple[int, int]:
    """The keyword `size` of `resize`: the shorter side, or (height, width)."""
    if self.crop_fraction is None:
      return self.size, self.size
    # Round down, as timm does; the small term keeps 224 / 0.875 = 256 from becoming 255.
    return math.floor(self.size / self.crop_fraction + 1e-9)

  def specs(self) -> list[dict[str, Any]]:
    """Returns the transforms as a config writes them."""
    resize = dict(fn=".data.resize", size=self.resize_to, interpolation=self.interpolation)
    normalize = dict(fn=".data.normalize", mean=list(self.mean), std=list(self.std))
    decode = [] if self.upright else [dict(fn=".data.to_rgb", upright=False)]
    if self.crop_fraction is None:
      return [*decode, resize | {"size": [self.size, self.size]}, normalize]
    return [*decode, resize, dict(fn=".data.center_crop", size=self.size), normalize]

  @classmethod
  def of(cls, specs: Sequence[Mapping[str, Any]], *, size: int) -> Preprocessing | None:
    """Recognises the preprocessing that a list of transforms performs.

    Args:
      specs: transforms as a config writes them.
      size: side of the images that the model sees, used if the transforms do not specify it.

    Returns:
      The preprocessing; None unless the transforms only decode, resize, crop the centre and normalise.
    """
    found = {str(spec.get("fn", "")): spec for spec in specs}
    names = [".data.to_rgb", ".data.resize", ".data.center_crop", ".data.normalize"]
    if len(found) != len(specs) or list(found) != [name for name in names if name in found]:
      return None
    decode, resize, crop, normalize = (found.get(name) for name in names)
    if normalize is None:
      return None
    side: Any = (crop or resize or {}).get("size", size)
    before: Any = (resize or {}).get("size", side)
    if not isinstance(side, int) and len(set(side)) == 1:
      side = side[0]
    if not isinstance(side, int):
      return None
    return cls(
      size=side,
      crop_fraction=side / before if isinstance(before, int) and crop is not None else None,
      interpolation=(resize or {}).get("interpolation", "bilinear"),
      mean=tuple(normalize.get("mean", IMAGENET_MEAN)),
      std=tuple(normalize.get("std", IMAGENET_STD)),
      upright=(decode or {}).get("upright", True),
    )
