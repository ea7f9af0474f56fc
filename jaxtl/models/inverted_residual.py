"""Networks of inverted residual blocks: EfficientNet, EfficientNet-Lite and MobileNetV2.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
arXiv 1801.04381; squeeze and excitation: Hu et al., 2018, arXiv 1709.01507.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.layers import Numerics
from jaxtl.models.linen import Chain, from_linen
from jaxtl.models.parameters import traced_once
from jaxtl.types import Array, Model

Activation = Callable[[Array], Array]
# N(0, 2 / (k k)), since a depthwise kernel has one output channel per group.
_depthwise_init = traced_once(nn.initializers.variance_scaling(2.0, "fan_in", "normal"))


class Stage(NamedTuple):
  """A stage of `repeats` blocks, the first of which has the stride and changes the width."""

  repeats: int
  kernel: int
  stride: int
  expand: int
  width: int


@dataclasses.dataclass(frozen=True)
class Shape:
  """The properties in which the families differ.

  Attributes:
    stem, top: widths of the first and the last convolution.
    stages: the stages in forward order.
    activation: activation after every norm except the last one of a block.
    squeeze: width of squeeze and excitation as a fraction of the block's input width; 0 omits it.
    top_init, bias_init: initial values of the classifier, see `layers.Head`.
  """

  stem: int
  stages: tuple[Stage, ...]
  top: int
  activation: Activation
  squeeze: float = 0.0
  top_init: Any = layers.uniform_fan_in
  bias_init: Callable[[int], Any] = layers.uniform_bias


class ConvNorm(nn.Module):
  """A convolution, its norm and the activation; used as the first block and as the last before the head."""

  width: int
  kernel: int
  stride: int
  activation: Activation
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    x = self.numerics.conv(self.width, kernel=self.kernel, stride=self.stride, name="conv")(x)
    return self.activation(self.numerics.norm(train=train, frozen_stats=frozen_stats, name="bn")(x))


class SqueezeExcite(nn.Module):
  """Squeeze and excitation: scales each channel by a function of the channels' spatial means."""

  width: int
  activation: Activation
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = functools.partial(self.numerics.conv, kernel=1, bias=True)
    y = jnp.mean(x, axis=(1, 2), keepdims=True)
    y = self.activation(conv(self.width, name="reduce")(y))
    return x * nn.sigmoid(conv(x.shape[-1], name="expand")(y))


class InvertedResidual(nn.Module):
  """An inverted residual block: 1x1 expansion, depthwise filter, excitation, 1x1 projection.

  The result is added to the input if their shapes agree.
  """

  width: int
  kernel: int
  stride: int
  expand: int
  squeeze: float
  drop_path: float
  activation: Activation
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    conv = self.numerics.conv
    norm = functools.partial(self.numerics.norm, train=train, frozen_stats=frozen_stats)
    wide = x.shape[-1] * self.expand
    y = x
    if self.expand != 1:
      y = self.activation(norm(name="expand_bn")(conv(wide, kernel=1, name="expand")(y)))
    y = conv(
      wide, kernel=self.kernel, stride=self.stride, groups=wide, init=_depthwise_init, name="depthwise"
    )(y)
    y = self.activation(norm(name="depthwise_bn")(y))
    if self.squeeze:
      squeezed = max(1, int(x.shape[-1] * self.squeeze))
      y = SqueezeExcite(squeezed, self.activation, self.numerics, name="squeeze_excite")(y)
    y = norm(name="project_bn")(conv(self.width, kernel=1, name="project")(y))
    if self.stride != 1 or x.shape[-1] != self.width:
      return y
    return x + layers.DropPath(self.drop_path)(y, train)


def inverted_network(
  name: str,
  shape: Shape,
  *,
  num_classes: int,
  dropout: float,
  drop_path: float,
  remat: bool,
  head: str,
  **numerics: Any,
) -> Model:
  """Builds the stem, the blocks `stage{s}_block{n}`, the last convolution `top`, and the head.

  `drop_path` grows over the blocks: block i of L, counted from 0, is dropped at the rate drop_path * i / L.
  """
  layers.check_head(num_classes, head)
  layers.check_rate("dropout", dropout)
  layers.check_rate("drop_path", drop_path)
  how = Numerics.of(**numerics)
  cls = nn.remat(InvertedResidual, static_argnums=(2, 3)) if remat else InvertedResidual
  make = functools.partial(cls, squeeze=shape.squeeze, activation=shape.activation, numerics=how)
  total = sum(stage.repeats for stage in shape.stages)
  blocks: list[tuple[str, Callable[..., nn.Module]]] = [
    ("stem", functools.partial(ConvNorm, shape.stem, 3, 2, shape.activation, how))
  ]
  for number, stage in enumerate(shape.stages, start=1):
    for repeat in range(stage.repeats):
      rate = drop_path * (len(blocks) - 1) / total
      stride = stage.stride if repeat == 0 else 1
      block = functools.partial(make, stage.width, stage.kernel, stride, stage.expand, drop_path=rate)
      blocks.append((f"stage{number}_block{repeat + 1}", block))
  blocks.append(("top", functools.partial(ConvNorm, shape.top, 1, 1, shape.activation, how)))
  classifier = dict(dropout=dropout, kernel_init=shape.top_init, bias_init=shape.bias_init)
  blocks.append(("head", functools.partial(layers.Head, num_classes, head, **classifier)))
  taps = {
    f"stage{number}": f"stage{number}_block{stage.repeats}"
    for number, stage in enumerate(shape.stages, start=1)
  }
  strides = itertools.accumulate((stage.stride for stage in shape.stages), operator.mul, initial=2)
  chain = Chain(tuple(blocks), taps, strides=dict(zip(taps, [*strides][1:], strict=True)))
  return from_linen(name, chain, [block for block, _ in blocks])


def divisible(width: float, *, by: int = 8) -> int:
  """Rounds `width` to a multiple of `by`, but never down by more than a tenth."""
  rounded = max(by, int(width + by / 2) // by * by)
  return rounded + by if rounded < 0.9 * width else rounded
