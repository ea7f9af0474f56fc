"""EfficientNets B0 to B7 and L2, and EfficientNet-Lite 0 to 4.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv 1905.11946;
L2: Xie, Luong, Hovy, Le, "Self-training with Noisy Student improves ImageNet classification", 2020,
arXiv 1911.04252.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxtl.models import layers
from jaxtl.models.inverted_residual import Shape, Stage, divisible, inverted_network
from jaxtl.types import Model

_BASE = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)


def _shape(width: float, depth: float, *, lite: bool) -> Shape:
  """Scales the base stages; Lite keeps the stem, the top and the depth of the first and last stage."""

  def scaled(number: int, stage: Stage) -> Stage:
    outer = lite and number in (0, len(_BASE) - 1)
    repeats = stage.repeats if outer else math.ceil(depth * stage.repeats)
    return stage._replace(repeats=repeats, width=divisible(stage.width * width))

  return Shape(
    stem=32 if lite else divisible(32 * width),
    stages=tuple(scaled(number, stage) for number, stage in enumerate(_BASE)),
    top=1280 if lite else divisible(1280 * width),
    activation=nn.relu6 if lite else nn.silu,
    squeeze=0.0 if lite else 0.25,
    bias_init=layers.zero_bias,
  )


def _sized(
  name: str,
  width: float,
  depth: float,
  *,
  size: int,
  dropout: float,
  padding: str = "symmetric",
  bn_epsilon: float = 1e-5,
  bn_momentum: float = 0.9,
) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    width_factor: float = width,
    depth_factor: float = depth,
    dropout: float = dropout,
    drop_path: float = 0.2,
    dtype: str = "float32",
    remat: bool = False,
    padding: str = padding,
    bn_epsilon: float = bn_epsilon,
    bn_momentum: float = bn_momentum,
    batch_norm: str = "batch",
    head: str = "linear",
  ) -> Model:
    shape = _shape(width_factor, depth_factor, lite="lite" in name)
    norm: dict[str, Any] = dict(bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm)
    rest: dict[str, Any] = dict(dropout=dropout, drop_path=drop_path, remat=remat, dtype=dtype)
    return inverted_network(name, shape, num_classes=num_classes, padding=padding, head=head, **norm, **rest)

  title = f"{_title(name)}: width x {width}, depth x {depth}, made for {size} pixels."
  return layers.named(make, name, f"{title}\n{_DOC}")


def _title(name: str) -> str:
  size = name.removeprefix("efficientnet_")
  return f"EfficientNet-{size.capitalize()}" if "lite" in size else f"EfficientNet-{size.upper()}"


_DOC = f"""
  Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv 1905.11946.
  B0 to B7 have the padding, epsilon and momentum of torchvision's weights; those of TensorFlow and of timm's
  `tf_` models need padding="same", bn_epsilon=1e-3, which are the defaults of L2. Lite has no squeeze and
  excitation, ReLU6 instead of swish, and TensorFlow's padding and epsilon. Convolutions start as
  N(0, 2 / fan_out), depthwise ones as N(0, 2 / k^2), the classifier as U(+-1/sqrt(D)) with zero
  biases: the reference's U(+-1/sqrt(K)) is 25 times too wide for two classes.
  Features: `stage1` .. `stage7` [B, h, w, D], at strides 2, 4, 8, 16, 16, 32, 32; `pooled` [B, D], `logits`
  [B, K].

  Args:
    num_classes: K; 0 leaves the classifier out.
    width_factor: of the channels.
    depth_factor: of the number of blocks in a stage.
    dropout: rate before the classifier.
    drop_path: block i of L is left out at the rate drop_path * i / L (Huang et al., 2016, arXiv 1603.09382).
{layers.COMPUTE_DOC}{layers.NORM_DOC}{layers.HEAD_DOC}
  Raises:
    ConfigError: a value that is none of those above.
  """

_TF: dict[str, Any] = dict(padding="same", bn_epsilon=1e-3, bn_momentum=0.99)
_LARGE: dict[str, Any] = dict(bn_epsilon=1e-3, bn_momentum=0.99)

efficientnet_b0 = _sized("efficientnet_b0", 1.0, 1.0, size=224, dropout=0.2)
efficientnet_b1 = _sized("efficientnet_b1", 1.0, 1.1, size=240, dropout=0.2)
efficientnet_b2 = _sized("efficientnet_b2", 1.1, 1.2, size=260, dropout=0.3)
efficientnet_b3 = _sized("efficientnet_b3", 1.2, 1.4, size=300, dropout=0.3)
efficientnet_b4 = _sized("efficientnet_b4", 1.4, 1.8, size=380, dropout=0.4)
efficientnet_b5 = _sized("efficientnet_b5", 1.6, 2.2, size=456, dropout=0.4, **_LARGE)
efficientnet_b6 = _sized("efficientnet_b6", 1.8, 2.6, size=528, dropout=0.5, **_LARGE)
efficientnet_b7 = _sized("efficientnet_b7", 2.0, 3.1, size=600, dropout=0.5, **_LARGE)
efficientnet_l2 = _sized("efficientnet_l2", 4.3, 5.3, size=800, dropout=0.5, **_TF)

efficientnet_lite0 = _sized("efficientnet_lite0", 1.0, 1.0, size=224, dropout=0.2, **_TF)
efficientnet_lite1 = _sized("efficientnet_lite1", 1.0, 1.1, size=240, dropout=0.2, **_TF)
efficientnet_lite2 = _sized("efficientnet_lite2", 1.1, 1.2, size=260, dropout=0.3, **_TF)
efficientnet_lite3 = _sized("efficientnet_lite3", 1.2, 1.4, size=280, dropout=0.3, **_TF)
efficientnet_lite4 = _sized("efficientnet_lite4", 1.4, 1.8, size=300, dropout=0.3, **_TF)
