"""Wide residual networks for small images.

Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn

from jaxtl.errors import ConfigError
from jaxtl.models import layers
from jaxtl.models.layers import Numerics
from jaxtl.models.linen import Chain, from_linen
from jaxtl.types import Array, Model


class WideResNetStem(nn.Module):
  """A stem of one 3x3 convolution, which the first block normalises."""

  width: int
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    return self.numerics.conv(self.width, kernel=3, name="conv1")(x)


class WideResNetBlock(nn.Module):
  """A pre-activation block: norm, ReLU, 3x3, norm, ReLU, dropout, 3x3.

  A shortcut that changes the shape starts after the first ReLU.
  """

  width: int
  stride: int
  dropout: float
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    conv = functools.partial(self.numerics.conv, self.width)
    norm = functools.partial(self.numerics.norm, train=train, frozen_stats=frozen_stats)
    y = nn.relu(norm(name="bn1")(x))
    if self.stride != 1 or x.shape[-1] != self.width:
      x = conv(kernel=1, stride=self.stride, name="shortcut_conv")(y)
    y = conv(kernel=3, stride=self.stride, name="conv1")(y)
    y = nn.relu(norm(name="bn2")(y))
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    return x + conv(kernel=3, name="conv2")(y)


class WideResNetNorm(nn.Module):
  """The normalisation and ReLU after the last block."""

  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    return nn.relu(self.numerics.norm(train=train, frozen_stats=frozen_stats, name="bn")(x))


def wide_resnet28_10(
  *,
  num_classes: int,
  depth: int = 28,
  width: int = 10,
  dropout: float = 0.0,
  dtype: str = "float32",
  remat: bool = False,
  padding: str = "symmetric",
  bn_epsilon: float = 1e-5,
  bn_momentum: float = 0.9,
  batch_norm: str = "batch",
  head: str = "linear",
) -> Model:
  """Returns a WideResNet-28-10 for 32-pixel images; keywords set other depths and widths.

  Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146. Pre-activation blocks of two 3x3
  convolutions in three stages. Features: `stage1` .. `stage3` [B, h, w, D], `pooled` [B, D], `logits` [B, K].

  Args:
    num_classes: K; 0 omits the classifier.
    depth: number of convolutions, 6 n + 4.
    width: factor of the widths 16, 32 and 64.
    dropout: dropout rate between the two convolutions of a block.
    dtype: type of the computation, "float32" or "bfloat16"; parameters, `pooled` and `logits` are float32.
    remat: recompute each block in the backward pass instead of storing its activations.
    padding: "symmetric" as in torch, or "same" as in TensorFlow (see `layers.Numerics`).
    bn_epsilon: epsilon of batch normalisation.
    bn_momentum: the statistics are updated to bn_momentum * old + (1 - bn_momentum) * new.
    batch_norm: "batch" normalises by the batch in training and updates the stored statistics; "stored" always
      uses the stored statistics and never updates them.
    head: "linear"; "cosine" and "scaled_cosine" give cosines (see `layers.Head`).

  Raises:
    ConfigError: a value is not one of those above.
  """
  layers.check_head(num_classes, head)
  layers.check_count("width", width)
  layers.check_count("depth", depth)
  layers.check_rate("dropout", dropout)
  if depth < 10 or (depth - 4) % 6:
    near = max(round((depth - 4) / 6), 1) * 6 + 4
    raise ConfigError(f"depth={depth} is not 6 n + 4; write depth={near}")
  numerics = Numerics.of(
    dtype=dtype, padding=padding, bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm
  )
  make = functools.partial(
    nn.remat(WideResNetBlock, static_argnums=(2, 3)) if remat else WideResNetBlock, dropout=dropout
  )
  per_stage = (depth - 4) // 6
  blocks: list[tuple[str, Callable[..., nn.Module]]] = [
    ("stem", functools.partial(WideResNetStem, 16, numerics))
  ]
  for stage in range(3):
    for number in range(per_stage):
      stride = 2 if stage > 0 and number == 0 else 1
      block = functools.partial(make, 16 * width * 2**stage, stride, numerics=numerics)
      blocks.append((f"stage{stage + 1}_block{number + 1}", block))
  blocks.append(("norm", functools.partial(WideResNetNorm, numerics)))
  blocks.append(("head", functools.partial(layers.Head, num_classes, head)))
  taps = {f"stage{stage}": f"stage{stage}_block{per_stage}" for stage in (1, 2, 3)}
  chain = Chain(tuple(blocks), taps, strides={"stage1": 1, "stage2": 2, "stage3": 4})
  return from_linen("wide_resnet28_10", chain, [name for name, _ in blocks])
