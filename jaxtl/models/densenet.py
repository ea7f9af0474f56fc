"""Densely connected networks.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2017, arXiv 1608.06993.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.kernels.pooling import max_pool
from jaxtl.models.layers import Numerics
from jaxtl.models.linen import Chain, from_linen
from jaxtl.models.parameters import traced_once
from jaxtl.types import Array, Model

# N(0, 2 / fan_in), the initial values of torchvision's DenseNets.
_kaiming = traced_once(nn.initializers.variance_scaling(2.0, "fan_in", "normal"))


class DenseNetStem(nn.Module):
  """A stem: 7x7 convolution with stride 2, norm, ReLU, 3x3 max pooling."""

  width: int
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    x = self.numerics.conv(self.width, kernel=7, stride=2, init=_kaiming, name="conv0")(x)
    x = nn.relu(self.numerics.norm(train=train, frozen_stats=frozen_stats, name="norm0")(x))
    edges = ((1, 1), (1, 1)) if self.numerics.padding == "symmetric" else "SAME"
    return max_pool(x, window=3, stride=2, padding=edges)


class Layer(nn.Module):
  """A dense layer: norm, ReLU, 1x1 to 4 x growth, norm, ReLU, 3x3 to growth, appended to the input."""

  growth: int
  dropout: float
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    norm = functools.partial(self.numerics.norm, train=train, frozen_stats=frozen_stats)
    conv = functools.partial(self.numerics.conv, init=_kaiming)
    y = conv(4 * self.growth, kernel=1, name="conv1")(nn.relu(norm(name="norm1")(x)))
    y = conv(self.growth, kernel=3, name="conv2")(nn.relu(norm(name="norm2")(y)))
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
  """A transition: norm, ReLU, 1x1 to half the channels, 2x2 mean pooling."""

  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    y = nn.relu(self.numerics.norm(train=train, frozen_stats=frozen_stats, name="norm")(x))
    y = self.numerics.conv(x.shape[-1] // 2, kernel=1, init=_kaiming, name="conv")(y)
    return nn.avg_pool(y, (2, 2), strides=(2, 2))


class DenseNetNorm(nn.Module):
  """The normalisation and ReLU after the last layer."""

  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    return nn.relu(self.numerics.norm(train=train, frozen_stats=frozen_stats, name="norm5")(x))


def _densenet(
  name: str,
  depths: Sequence[int],
  *,
  num_classes: int,
  growth: int,
  width: int,
  dropout: float,
  remat: bool,
  head: str,
  **numerics: Any,
) -> Model:
  """Builds the stem, `depths[s]` layers in stage s + 1, transitions between stages, a norm and the head."""
  layers.check_head(num_classes, head)
  layers.check_count("growth", growth)
  layers.check_count("width", width)
  layers.check_rate("dropout", dropout)
  how = Numerics.of(**numerics)
  layer = nn.remat(Layer, static_argnums=(2, 3)) if remat else Layer
  blocks: list[tuple[str, Callable[..., nn.Module]]] = [("stem", functools.partial(DenseNetStem, width, how))]
  for stage, depth in enumerate(depths, start=1):
    for number in range(1, depth + 1):
      blocks.append((f"stage{stage}_layer{number}", functools.partial(layer, growth, dropout, how)))
    if stage < len(depths):
      blocks.append((f"transition{stage}", functools.partial(Transition, how)))
  blocks.append(("norm", functools.partial(DenseNetNorm, how)))
  blocks.append(("head", functools.partial(layers.Head, num_classes, head, bias_init=layers.zero_bias)))
  taps = {f"stage{stage}": f"stage{stage}_layer{depth}" for stage, depth in enumerate(depths, start=1)}
  chain = Chain(
    tuple(blocks), taps, strides={stage: 2 * 2**number for number, stage in enumerate(taps, start=1)}
  )
  return from_linen(name, chain, [block for block, _ in blocks])


def _sized(name: str, depths: Sequence[int], growth: int, width: int) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    growth: int = growth,
    width: int = width,
    dropout: float = 0.0,
    dtype: str = "float32",
    remat: bool = False,
    padding: str = "symmetric",
    bn_epsilon: float = 1e-5,
    bn_momentum: float = 0.9,
    batch_norm: str = "batch",
    head: str = "linear",
  ) -> Model:
    shape: dict[str, Any] = dict(num_classes=num_classes, growth=growth, width=width, head=head)
    norm: dict[str, Any] = dict(bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm)
    rest: dict[str, Any] = dict(dropout=dropout, remat=remat, dtype=dtype, padding=padding)
    return _densenet(name, depths, **shape, **norm, **rest)

  title = f"{name.replace('densenet', 'DenseNet-')} as torchvision's, stages of {depths} layers."
  return layers.named(make, name, f"{title}\n{_DOC}")


_DOC = f"""
  Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2017, arXiv 1608.06993.
  Convolutions start as N(0, 2 / fan_in), the head as U(+-1/(3 sqrt(fan_in))) with zero biases. Features:
  `stage1` .. `stage4` [B, h, w, D], the whole map behind each stage's last layer; `pooled` [B, D], `logits`
  [B, K].

  Args:
    num_classes: K; 0 leaves the classifier out.
    growth: channels that each layer adds.
    width: channels of the stem.
    dropout: rate at the end of each layer.
{layers.COMPUTE_DOC}{layers.NORM_DOC}{layers.HEAD_DOC}
  Raises:
    ConfigError: a value that is none of those above.
  """

densenet121 = _sized("densenet121", (6, 12, 24, 16), growth=32, width=64)
densenet161 = _sized("densenet161", (6, 12, 36, 24), growth=48, width=96)
densenet169 = _sized("densenet169", (6, 12, 32, 32), growth=32, width=64)
densenet201 = _sized("densenet201", (6, 12, 48, 32), growth=32, width=64)
