"""A backbone, a feature pyramid and a head as one model of pure functions.

A level l of a pyramid is a map on which a position stands for 2^l pixels of the image, rows and columns
alike; pyramids are dicts {"p3": [B, h, w, D], ...}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.models.kernels.pooling import max_pool
from jaxtl.models.layers import Numerics
from jaxtl.models.linen import Chain, from_linen
from jaxtl.models.parameters import traced_once
from jaxtl.types import Array, Model

Pyramid = dict[str, Array]
# U(+-sqrt(6 / (fan_in + fan_out))), TensorFlow's default: Glorot and Bengio, "Understanding the difficulty of
# training deep feedforward neural networks", 2010.
glorot_uniform = traced_once(nn.initializers.xavier_uniform())


class Tap(NamedTuple):
  """The feature of a backbone from which a level of the pyramid is made."""

  level: int
  feature: str
  stride: int

  def read(self, maps: Mapping[str, Array]) -> Array:
    """Returns the feature at the level's size."""
    return resample(maps[self.feature], self.stride.bit_length() - 1, self.level)


@dataclasses.dataclass(frozen=True)
class Style:
  """The numerics of the layers above a backbone.

  Attributes:
    numerics: padding, type and constants of normalisation.
    normalised: whether convolutions are followed by batch normalisation.
    kernel_init: initialiser of the pyramid's kernels.
  """

  numerics: Numerics
  normalised: bool = True
  kernel_init: Any = glorot_uniform

  def norm(self, x: Array, *, train: bool, frozen_stats: bool, name: str) -> Array:
    """Normalises a map; call it inside a compact method."""
    if not self.normalised:
      return x
    y: Array = self.numerics.norm(train=train, frozen_stats=frozen_stats, name=name)(x)
    return y


@dataclasses.dataclass(frozen=True)
class Neck:
  """A feature pyramid that fits any backbone.

  Attributes:
    name: the function that made it.
    min_level, max_level: the levels that it returns.
    module: (taps, style) -> constructor that takes `name` of the block.
  """

  name: str
  min_level: int
  max_level: int
  module: Callable[[tuple[Tap, ...], Style], Callable[..., nn.Module]]


def with_pyramid(
  name: str, backbone: Model, neck: Neck, head: Callable[..., nn.Module], style: Style
) -> Model:
  """Replaces what follows the last feature map of a backbone by the blocks `neck` and `head`.

  The other blocks keep their names and, for the same key, their initial values, so that a checkpoint of the
  backbone fits by path.

  Raises:
    ConfigError: `backbone` is not a model with feature maps, `neck` is not a `Neck`, or the backbone lacks a
      level that the neck starts from.
  """
  if not isinstance(neck, Neck):
    raise ConfigError(f"{name} needs a neck, such as dict(make='.models.fpn'); got {neck!r}")
  chain = backbone.module if isinstance(backbone, Model) else None
  if not isinstance(chain, Chain) or not chain.strides:
    given = backbone.name if isinstance(backbone, Model) else repr(backbone)
    raise ConfigError(
      f"{name} needs a backbone with feature maps, such as dict(make='.models.resnet50'); got {given}"
    )
  taps = choose_taps(backbone.name, chain.strides, neck)
  features = tuple(dict.fromkeys(tap.feature for tap in taps))
  last = max(backbone.blocks.index(chain.taps[feature]) for feature in features)
  blocks = (*chain.blocks[: last + 1], ("neck", neck.module(taps, style)), ("head", head))
  names = [block for block, _ in blocks]
  kept = {feature: block for feature, block in chain.taps.items() if block in names}
  whole = Chain(blocks, kept, chain.as_map, chain.strides, {"neck": features})
  return from_linen(name, whole, names)


def choose_taps(name: str, strides: Mapping[str, int], neck: Neck) -> tuple[Tap, ...]:
  """Chooses the feature of each level that the backbone has: the last one with the level's stride.

  A backbone whose features all have one stride 2^k, as a vision transformer, gives its last feature to the
  levels k - 1, k and k + 1, resampled. One map suffices: Li, Mao, Girshick, He, "Exploring Plain
  Vision Transformer Backbones for Object Detection", 2022, arXiv 2203.16527.

  Args:
    name: of the backbone, for messages.
    strides: feature -> stride.
    neck: the pyramid.

  Returns:
    Taps of consecutive levels, the finest first.

  Raises:
    ConfigError: a stride is not a power of two, or the finest level of the neck is finer than all features.
  """
  if wrong := [stride for stride in strides.values() if stride & (stride - 1)]:
    raise ConfigError(f"{name} has maps of stride {wrong[0]}; a pyramid needs strides that are powers of two")
  last = {stride.bit_length() - 1: feature for feature, stride in strides.items()}
  if len(last) == 1:
    ((level, feature),) = last.items()
    last = dict.fromkeys((level - 1, level, level + 1), feature)
  levels = [level for level in range(neck.min_level, neck.max_level + 1) if level in last]
  if not levels or levels[0] != neck.min_level:
    raise ConfigError(
      f"{name} has maps of the levels {', '.join(map(str, sorted(last)))} (strides 2^level), and {neck.name} "
      f"starts at level {neck.min_level}; write min_level={min(last)} or another of them"
    )
  return tuple(Tap(level, last[level], strides[last[level]]) for level in levels)


def resample(x: Array, level: int, to: int) -> Array:
  """Brings a map [B, h, w, D] from one level to another: max pooling, or repetition of each position."""
  if to >= level:
    factor = 2 ** (to - level)
    return x if factor == 1 else max_pool(x, window=factor, stride=factor, padding="SAME")
  factor = 2 ** (level - to)
  batch, height, width, depth = x.shape
  spread = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, factor, width, factor, depth))
  return spread.reshape(batch, height * factor, width * factor, depth)


def cropped(x: Array, like: Array) -> Array:
  """Cuts rows and columns at the end, which a map has too many after repetition if a size was odd."""
  return x[:, : like.shape[1], : like.shape[2]]


def by_level(pyramid: Mapping[str, Array]) -> list[tuple[int, Array]]:
  """Returns (level, map) of a pyramid, the finest first."""
  return sorted((int(name.removeprefix("p")), x) for name, x in pyramid.items())


def check_levels(min_level: Any, max_level: Any) -> None:
  """Raises ConfigError unless both are integers from 0 to 9, in this order."""
  for keyword, value in dict(min_level=min_level, max_level=max_level).items():
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
      raise ConfigError(f"{keyword} must be an integer from 0 to 9; got {value!r} (for example 3)")
  if max_level < min_level:
    raise ConfigError(
      f"max_level={max_level} is below min_level={min_level}; write max_level={min_level + 4}"
    )
