"""The feature pyramid network.

Lin, Dollar, Girshick, He, Hariharan, Belongie, "Feature Pyramid Networks for Object Detection", 2017,
arXiv 1612.03144, in the form of the TPU detectors (tensorflow/tpu, models/official/detection).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn

from jaxtl.models import layers
from jaxtl.models.pyramid import Neck, Pyramid, Style, Tap, check_levels, cropped, resample
from jaxtl.types import Array


class FeaturePyramid(nn.Module):
  """Lateral 1x1, top-down sum, 3x3 on every level, further levels by 3x3 of stride 2, norm on every level."""

  width: int
  max_level: int
  taps: tuple[Tap, ...]
  style: Style

  @nn.compact
  def __call__(self, maps: dict[str, Array], train: bool, frozen_stats: bool) -> Pyramid:
    conv = functools.partial(
      self.style.numerics.conv, self.width, bias=True, init=self.style.kernel_init, kernel=3
    )
    levels: dict[int, Array] = {}
    for tap in reversed(self.taps):
      lateral = conv(kernel=1, name=f"lateral{tap.level}")(tap.read(maps))
      if levels:
        lateral = lateral + cropped(resample(levels[tap.level + 1], tap.level + 1, tap.level), lateral)
      levels[tap.level] = lateral
    levels = {level: conv(name=f"post{level}")(levels[level]) for level in sorted(levels)}
    last = self.taps[-1].level
    for level in range(last + 1, self.max_level + 1):
      # The first further level starts from the output of the 3x3, not from the backbone.
      finer = levels[level - 1] if level == last + 1 else nn.relu(levels[level - 1])
      levels[level] = conv(stride=2, name=f"down{level}")(finer)
    norm = functools.partial(self.style.norm, train=train, frozen_stats=frozen_stats)
    return {f"p{level}": norm(x, name=f"bn{level}") for level, x in levels.items()}


def fpn(*, width: int = 256, min_level: int = 3, max_level: int = 7) -> Neck:
  """Returns a feature pyramid network, for `retinanet` and `segmenter`.

  Lin, Dollar, Girshick, He, Hariharan, Belongie, "Feature Pyramid Networks for Object Detection", 2017,
  arXiv 1612.03144. The levels that the backbone lacks are made by convolutions of stride 2, the first from
  the last level after its 3x3. Each level is normalised, without an activation.

  Args:
    width: channels of every level.
    min_level, max_level: first and last level; level l has stride 2^l. The defaults are RetinaNet's.

  Raises:
    ConfigError: a value is not a positive integer, or the levels are not in order.
  """
  layers.check_count("width", width)
  check_levels(min_level, max_level)

  def module(taps: tuple[Tap, ...], style: Style) -> Callable[..., nn.Module]:
    return functools.partial(FeaturePyramid, width, max_level, taps, style)

  return Neck("fpn", min_level, max_level, module)
