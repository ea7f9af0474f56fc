"""MobileNets V1 and V2.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
arXiv 1704.04861; Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", 2018, arXiv 1801.04381.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxtl.errors import ConfigError
from jaxtl.models import layers
from jaxtl.models.inverted_residual import ConvNorm, Shape, Stage, divisible, inverted_network
from jaxtl.models.layers import Numerics
from jaxtl.models.linen import Chain, from_linen
from jaxtl.models.parameters import traced_once
from jaxtl.types import Array, Model

_V2 = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(3, 3, 2, 6, 32),
  Stage(4, 3, 2, 6, 64),
  Stage(3, 3, 1, 6, 96),
  Stage(3, 3, 2, 6, 160),
  Stage(1, 3, 1, 6, 320),
)
# (blocks, width) of the stages of V1; every stage except the first begins with stride 2.
_V1 = ((1, 64), (2, 128), (2, 256), (6, 512), (2, 1024))


class Separable(nn.Module):
  """A separable convolution: a depthwise 3x3 and a 1x1, each followed by norm and ReLU6."""

  width: int
  stride: int
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    norm = functools.partial(self.numerics.norm, train=train, frozen_stats=frozen_stats)
    channels = x.shape[-1]
    x = self.numerics.conv(channels, kernel=3, stride=self.stride, groups=channels, name="depthwise")(x)
    x = nn.relu6(norm(name="depthwise_bn")(x))
    return nn.relu6(norm(name="pointwise_bn")(self.numerics.conv(self.width, kernel=1, name="pointwise")(x)))


def mobilenet_v1(
  *,
  num_classes: int,
  width_factor: float = 1.0,
  dropout: float = 0.0,
  dtype: str = "float32",
  remat: bool = False,
  padding: str = "same",
  bn_epsilon: float = 1e-3,
  bn_momentum: float = 0.99,
  batch_norm: str = "batch",
  head: str = "linear",
) -> Model:
  """Returns a MobileNetV1.

  Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
  arXiv 1704.04861. Features: `stage1` .. `stage5` [B, h, w, D], at strides 2, 4, 8, 16, 32; `pooled` [B, D],
  `logits` [B, K].

  Args:
    num_classes: K; 0 omits the classifier.
    width_factor: factor of the channel widths, above 0.
    dropout: dropout rate before the classifier.
    dtype: type of the computation, "float32" or "bfloat16"; parameters, `pooled` and `logits` are float32.
    remat: recompute each block in the backward pass instead of storing its activations.
    padding: "same" as in TensorFlow, or "symmetric" as in torch (see `layers.Numerics`).
    bn_epsilon: epsilon of batch normalisation.
    bn_momentum: the statistics are updated to bn_momentum * old + (1 - bn_momentum) * new.
    batch_norm: "batch" normalises by the batch in training and updates the stored statistics; "stored" always
      uses the stored statistics and never updates them.
    head: "linear"; "cosine" and "scaled_cosine" give cosines (see `layers.Head`).

  Raises:
    ConfigError: a value is not one of those above.
  """
  layers.check_head(num_classes, head)
  layers.check_rate("dropout", dropout)
  _check_width(width_factor)
  how = Numerics.of(
    dtype=dtype, padding=padding, bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm
  )
  make = nn.remat(Separable, static_argnums=(2, 3)) if remat else Separable
  blocks: list[tuple[str, Callable[..., nn.Module]]] = [
    ("stem", functools.partial(ConvNorm, divisible(32 * width_factor), 3, 2, nn.relu6, how))
  ]
  for stage, (repeats, width) in enumerate(_V1, start=1):
    for number in range(1, repeats + 1):
      stride = 2 if stage > 1 and number == 1 else 1
      block = functools.partial(make, divisible(width * width_factor), stride, how)
      blocks.append((f"stage{stage}_block{number}", block))
  blocks.append(("head", functools.partial(layers.Head, num_classes, head, dropout=dropout)))
  taps = {f"stage{stage}": f"stage{stage}_block{repeats}" for stage, (repeats, _) in enumerate(_V1, start=1)}
  chain = Chain(tuple(blocks), taps, strides={stage: 2**number for number, stage in enumerate(taps, start=1)})
  return from_linen("mobilenet_v1", chain, [name for name, _ in blocks])


def mobilenet_v2(
  *,
  num_classes: int,
  width_factor: float = 1.0,
  dropout: float = 0.2,
  drop_path: float = 0.0,
  dtype: str = "float32",
  remat: bool = False,
  padding: str = "symmetric",
  bn_epsilon: float = 1e-5,
  bn_momentum: float = 0.9,
  batch_norm: str = "batch",
  head: str = "linear",
) -> Model:
  """Returns a MobileNetV2 with torchvision's padding and epsilon.

  Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
  arXiv 1801.04381. Convolutions start as N(0, 2 / fan_out), the classifier as N(0, 0.01^2) with zero biases.
  Features: `stage1` .. `stage7` [B, h, w, D], at strides 2, 4, 8, 16, 16, 32, 32; `pooled` [B, D], `logits`
  [B, K].

  Args:
    num_classes: K; 0 omits the classifier.
    width_factor: factor of the channel widths, above 0; below 1, the last convolution keeps its 1,280
      channels.
    dropout: dropout rate before the classifier.
    drop_path: block i of L is dropped at the rate drop_path * i / L (Huang et al., 2016, arXiv 1603.09382).
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
  _check_width(width_factor)
  shape = Shape(
    stem=divisible(32 * width_factor),
    stages=tuple(stage._replace(width=divisible(stage.width * width_factor)) for stage in _V2),
    top=divisible(1280 * max(1.0, width_factor)),
    activation=nn.relu6,
    top_init=traced_once(nn.initializers.normal(0.01)),
    bias_init=layers.zero_bias,
  )
  norm: dict[str, Any] = dict(bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm)
  rest: dict[str, Any] = dict(dropout=dropout, drop_path=drop_path, remat=remat, dtype=dtype, head=head)
  return inverted_network("mobilenet_v2", shape, num_classes=num_classes, padding=padding, **norm, **rest)


def _check_width(width_factor: float) -> None:
  if not width_factor > 0:
    raise ConfigError(f"width_factor must be above 0; got {width_factor!r}")
