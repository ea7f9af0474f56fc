"""RetinaNet: a dense detector.

Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017, arXiv 1708.02002.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.anchors import PER_CELL, Anchors, octave_anchors, rounded_anchors
from jaxtl.models.fpn import fpn
from jaxtl.models.layers import Numerics
from jaxtl.models.parameters import traced_once
from jaxtl.models.pyramid import Neck, Pyramid, Style, by_level, glorot_uniform, with_pyramid
from jaxtl.types import Array, Model

# Every anchor starts with this probability of each class, so that the many negatives do not dominate the
# first steps (section 3.3 of the paper).
PRIOR = 0.01
PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)
_tower_init = traced_once(nn.initializers.normal(0.01))


class Preset(NamedTuple):
  """The properties in which implementations of RetinaNet differ.

  Attributes:
    padding: see `layers.Numerics`.
    normalised: whether pyramid and towers have batch normalisation.
    kernel_init: initialiser of the pyramid's kernels.
    output_std: standard deviation of the kernels that compute logits and codes.
    unused: number of channels before that of the first class; no anchor is ever a positive of them.
    anchors: the anchors of one level.
  """

  padding: str
  normalised: bool
  kernel_init: Any
  output_std: float
  unused: int
  anchors: Anchors


PRESETS = {
  "tpu": Preset("same", True, glorot_uniform, 1e-5, 1, octave_anchors),
  "torchvision": Preset(
    "symmetric",
    False,
    traced_once(nn.initializers.variance_scaling(1.0, "fan_in", "uniform")),
    0.01,
    0,
    rounded_anchors,
  ),
}


class Tower(nn.Module):
  """3x3 convolutions whose kernels all levels share, with a norm for each level, and the output layer."""

  width: int
  num_convs: int
  outputs: int
  output_std: float
  output_bias: float
  style: Style

  @nn.compact
  def __call__(self, pyramid: Pyramid, train: bool, frozen_stats: bool) -> Array:
    conv = functools.partial(self.style.numerics.conv, kernel=3, bias=True)
    tower = [
      conv(self.width, init=_tower_init, name=f"conv{number}") for number in range(1, self.num_convs + 1)
    ]
    output = conv(
      PER_CELL * self.outputs,
      init=nn.initializers.normal(self.output_std),
      bias_init=nn.initializers.constant(self.output_bias),
      name="output",
    )
    results = []
    for level, x in by_level(pyramid):
      for number, layer in enumerate(tower, start=1):
        name = f"p{level}_bn{number}"
        x = nn.relu(self.style.norm(layer(x), train=train, frozen_stats=frozen_stats, name=name))
      # In float32 from here on: the loss sums over all anchors.
      results.append(output(x).astype(jnp.float32).reshape(x.shape[0], -1, self.outputs))
    return jnp.concatenate(results, axis=1)


class RetinaNetHead(nn.Module):
  """The towers for classes and boxes, and the anchors that their outputs belong to."""

  channels: int
  width: int
  num_convs: int
  preset: Preset
  style: Style

  @nn.compact
  def __call__(self, pyramid: Pyramid, train: bool, frozen_stats: bool) -> dict[str, Array]:
    tower: Callable[..., Callable[..., Array]] = functools.partial(
      Tower, width=self.width, num_convs=self.num_convs, output_std=self.preset.output_std, style=self.style
    )
    classes = tower(outputs=self.channels, output_bias=PRIOR_LOGIT, name="classes")
    codes = tower(outputs=4, output_bias=0.0, name="boxes")
    anchors = [self.preset.anchors(x.shape[1], x.shape[2], level) for level, x in by_level(pyramid)]
    return {
      "logits": classes(pyramid, train, frozen_stats),
      "codes": codes(pyramid, train, frozen_stats),
      "anchors": jnp.concatenate(anchors),
    }


def retinanet(
  *,
  num_classes: int,
  backbone: Model,
  neck: Neck | None = None,
  preset: str = "tpu",
  width: int = 256,
  num_convs: int = 4,
  dtype: str = "float32",
  bn_epsilon: float = 1e-4,
  bn_momentum: float = 0.997,
  batch_norm: str = "batch",
) -> Model:
  """Returns a RetinaNet on a backbone and a feature pyramid.

  Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017, arXiv 1708.02002. Features:
  `logits` [B, A, C] of the sigmoids of the classes, `codes` [B, A, 4] of boxes relative to their anchors (see
  `jaxtl.boxes`), `anchors` [A, 4] in pixels, all float32, and the backbone's stages. The A anchors are
  ordered by level, row, column and shape, nine of them at each position. The blocks are those of the backbone
  up to its last map, `neck` and `head`.

  Args:
    num_classes: K, without a background class.
    backbone: a model with feature maps; its head and the layers after its last map are dropped.
    neck: the feature pyramid; None means `fpn()`.
    preset: "tpu", the TPU detectors', with batch normalisation in pyramid and towers, TensorFlow's padding,
      anchors around the centres of cells, and C = K + 1 logits, of which the first is never a positive (the
      91 ids of COCO are K = 90). "torchvision", torchvision's, without normalisation, with anchors rounded to
      whole pixels around the corners of cells, and C = K.
    width: channels of the towers.
    num_convs: 3x3 convolutions of a tower before its output.
    dtype: type of the computation above the backbone, "float32" or "bfloat16"; parameters are float32.
    bn_epsilon: epsilon of batch normalisation above the backbone; the released configs of the TPU detectors
      have 1e-4 or 1e-3.
    bn_momentum: the statistics are updated to bn_momentum * old + (1 - bn_momentum) * new.
    batch_norm: "batch" normalises by the batch in training and updates the stored statistics; "stored" always
      uses the stored statistics and never updates them.

  Raises:
    ConfigError: a value is not one of those above, or the backbone lacks a level of the pyramid.
  """
  layers.check_count("num_classes", num_classes)
  layers.check_count("width", width)
  layers.check_count("num_convs", num_convs, least=0)
  layers.check_choice("preset", preset, tuple(PRESETS))
  chosen = PRESETS[preset]
  numerics = Numerics.of(
    dtype=dtype, batch_norm=batch_norm, padding=chosen.padding, bn_epsilon=bn_epsilon, bn_momentum=bn_momentum
  )
  style = Style(numerics, chosen.normalised, chosen.kernel_init)
  head: Callable[..., nn.Module] = functools.partial(
    RetinaNetHead, num_classes + chosen.unused, width, num_convs, chosen, style
  )
  return with_pyramid("retinanet", backbone, fpn() if neck is None else neck, head, style)
