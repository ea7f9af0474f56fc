"""Semantic segmentation: a class for each position, from the sum of a pyramid's levels.

The head is that of Zoph, Ghiasi, Lin, Cui, Liu, Cubuk, Le, "Rethinking Pre-training and Self-training", 2020,
arXiv 2006.06882. Its levels are fused as in Kirillov, Girshick, He, Dollar, "Panoptic Feature Pyramid
Networks", 2019, arXiv 1901.02446, without convolutions on the way.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.models import layers
from jaxtl.models.layers import Numerics
from jaxtl.models.nasfpn import nasfpn
from jaxtl.models.parameters import traced_once
from jaxtl.models.pyramid import Neck, Pyramid, Style, by_level, with_pyramid
from jaxtl.types import Array, Model

_init = traced_once(nn.initializers.normal(0.01))


class SegmentationHead(nn.Module):
  """The sum of all levels at one stride, 3x3 convolutions with norm and ReLU, and the classifier."""

  num_classes: int
  width: int
  num_convs: int
  stride: int
  style: Style

  @nn.compact
  def __call__(self, pyramid: Pyramid, train: bool, frozen_stats: bool) -> dict[str, Array]:
    conv = functools.partial(self.style.numerics.conv, bias=True, init=_init)
    x = fused(pyramid, stride=self.stride)
    for number in range(1, self.num_convs + 1):
      x = conv(self.width, kernel=3, name=f"conv{number}")(x)
      x = nn.relu(self.style.norm(x, train=train, frozen_stats=frozen_stats, name=f"bn{number}"))
    return {"logits": conv(self.num_classes, kernel=1, name="output")(x).astype(jnp.float32)}


def fused(pyramid: Pyramid, *, stride: int) -> Array:
  """Resizes every level bilinearly to a stride and adds them.

  Pixels are placed by their centres, unlike in TensorFlow 1.

  Args:
    pyramid: maps [B, h, w, D] of one width.
    stride: at most that of the finest level.

  Returns:
    [B, h', w', D].
  """
  finest, like = by_level(pyramid)[0]
  factor = 2**finest // stride
  size = (like.shape[1] * factor, like.shape[2] * factor)
  resized = [jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear") for _, x in by_level(pyramid)]
  return functools.reduce(jnp.add, resized)


def segmenter(
  *,
  num_classes: int,
  backbone: Model,
  neck: Neck | None = None,
  width: int = 256,
  num_convs: int = 3,
  stride: int = 4,
  padding: str = "same",
  dtype: str = "float32",
  bn_epsilon: float = 1e-3,
  bn_momentum: float = 0.997,
  batch_norm: str = "batch",
) -> Model:
  """Returns a network that classifies each position of an image.

  Zoph, Ghiasi, Lin, Cui, Liu, Cubuk, Le, "Rethinking Pre-training and Self-training", 2020, arXiv 2006.06882.
  Features: `logits` float32 [B, H / stride, W / stride, K], and the backbone's stages. The blocks are those
  of the backbone up to its last map, `neck` and `head`.

  Args:
    num_classes: K, including the background if it is a class, as in PASCAL VOC.
    backbone: a model with feature maps; its head and the layers after its last map are dropped.
    neck: the feature pyramid; None means `nasfpn()`. A small one is `fpn(max_level=5)` with width=128 and
      num_convs=2.
    width: channels of the convolutions.
    num_convs: 3x3 convolutions before the classifier.
    stride: pixels of the image per position of the logits: a power of two, at most that of the finest level.
    padding: "same" as in TensorFlow, or "symmetric" as in torch (see `layers.Numerics`).
    dtype: type of the computation above the backbone, "float32" or "bfloat16"; parameters are float32.
    bn_epsilon: epsilon of batch normalisation above the backbone.
    bn_momentum: the statistics are updated to bn_momentum * old + (1 - bn_momentum) * new.
    batch_norm: "batch" normalises by the batch in training and updates the stored statistics; "stored" always
      uses the stored statistics and never updates them.

  Raises:
    ConfigError: a value is not one of those above, or the backbone lacks a level of the pyramid.
  """
  for keyword, value in dict(num_classes=num_classes, width=width, stride=stride).items():
    layers.check_count(keyword, value)
  layers.check_count("num_convs", num_convs, least=0)
  chosen = nasfpn() if neck is None else neck
  numerics = Numerics.of(
    dtype=dtype, batch_norm=batch_norm, padding=padding, bn_epsilon=bn_epsilon, bn_momentum=bn_momentum
  )
  style = Style(numerics)
  head = functools.partial(SegmentationHead, num_classes, width, num_convs, stride, style)
  model = with_pyramid("segmenter", backbone, chosen, head, style)
  if 2**chosen.min_level % stride:
    raise ConfigError(
      f"stride={stride} does not divide {2**chosen.min_level}, the stride of the finest level of the "
      f"{chosen.name}; write stride={min(4, 2**chosen.min_level)}"
    )
  return model
