"""NAS-FPN: a feature pyramid whose connections were found by search.

Ghiasi, Lin, Pang, Le, "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019,
arXiv 1904.07392, in the form of the TPU detectors (tensorflow/tpu, models/official/detection).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.pyramid import Neck, Pyramid, Style, Tap, check_levels, cropped, resample
from jaxtl.types import Array

NUM_LEVELS = 5


class Node(NamedTuple):
  """A node of the cell: it combines two earlier nodes, of which 0 to 4 are the cell's inputs.

  Attributes:
    level: of the node, counted from the finest level of the pyramid.
    gated: whether they are combined by global pooling attention; else they are added.
    first, second: the nodes that it combines.
    extra: a further node of the same level that is added, since nothing else reads it.
    output: whether it is one of the cell's outputs.
  """

  level: int
  gated: bool
  first: int
  second: int
  extra: int | None = None
  output: bool = True


CELL = (
  Node(1, True, 1, 3, output=False),
  Node(1, False, 1, 5, output=False),
  Node(0, False, 0, 6),
  Node(1, False, 6, 7),
  Node(2, True, 7, 8, extra=2),
  Node(4, True, 6, 9, extra=4),
  Node(3, True, 9, 10),
)


class SeparableConv(nn.Module):
  """A depthwise convolution and a 1x1 with a bias, without norm or activation between them."""

  width: int
  kernel: int
  style: Style

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = functools.partial(self.style.numerics.conv, init=self.style.kernel_init)
    x = conv(x.shape[-1], kernel=self.kernel, groups=x.shape[-1], name="depthwise")(x)
    y: Array = conv(self.width, kernel=1, bias=True, name="pointwise")(x)
    return y


class NasPyramid(nn.Module):
  """Projections of the backbone's maps to one width, and repeats of the cell."""

  width: int
  repeats: int
  separable: bool
  min_level: int
  taps: tuple[Tap, ...]
  style: Style

  @nn.compact
  def __call__(self, maps: dict[str, Array], train: bool, frozen_stats: bool) -> Pyramid:
    norm = functools.partial(self.style.norm, train=train, frozen_stats=frozen_stats)
    levels: list[Array] = []
    for number in range(NUM_LEVELS):
      if number >= len(self.taps):
        levels.append(resample(levels[-1], number - 1, number))
        continue
      x = self.taps[number].read(maps)
      if x.shape[-1] != self.width:
        level = self.min_level + number
        x = norm(self._conv(1, f"project{level}")(x), name=f"project{level}_bn")
      levels.append(x)
    for repeat in range(1, self.repeats + 1):
      levels = self._cell(levels, f"cell{repeat}", norm)
    return {f"p{self.min_level + number}": x for number, x in enumerate(levels)}

  def _conv(self, kernel: int, name: str) -> Callable[[Array], Array]:
    if self.separable:
      return SeparableConv(self.width, kernel, self.style, name=name)
    return self.style.numerics.conv(
      self.width, kernel=kernel, bias=True, init=self.style.kernel_init, name=name
    )

  def _cell(self, inputs: list[Array], cell: str, norm: Callable[..., Array]) -> list[Array]:
    nodes, levels, outputs = list(inputs), list(range(NUM_LEVELS)), dict[int, Array]()
    for node in CELL:
      number, like = len(nodes), inputs[node.level]
      first, second = (
        cropped(resample(nodes[i], levels[i], node.level), like) for i in (node.first, node.second)
      )
      if not node.gated:
        x = first + second
      elif levels[node.first] >= levels[node.second]:
        x = gate(first, second)
      else:
        x = gate(second, first)
      if node.extra is not None:
        x = x + nodes[node.extra]
      x = norm(self._conv(3, f"{cell}_node{number}")(nn.relu(x)), name=f"{cell}_node{number}_bn")
      nodes.append(x)
      levels.append(node.level)
      if node.output:
        outputs[node.level] = x
    return [outputs[level] for level in range(NUM_LEVELS)]


def gate(coarse: Array, fine: Array) -> Array:
  """Computes global pooling attention: coarse + fine * sigmoid(max over the map of coarse), channel by
  channel.

  Args:
    coarse: [B, h, w, D], the node that comes from the coarser level.
    fine: [B, h, w, D].
  """
  return coarse + fine * nn.sigmoid(jnp.max(coarse, axis=(1, 2), keepdims=True))


def nasfpn(*, width: int = 256, repeats: int = 7, separable: bool = True, min_level: int = 3) -> Neck:
  """Returns NAS-FPN with five levels, for `retinanet` and `segmenter`.

  Ghiasi, Lin, Pang, Le, "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019,
  arXiv 1904.07392. The backbone's maps are projected to `width` by a 1x1 and a norm where their width
  differs. The levels that it lacks are max-pooled from the level before. Each node is ReLU, 3x3 and a norm.

  Args:
    width: channels of every level.
    repeats: number of cells, each with its own parameters; 7 in the segmenters of Zoph, Ghiasi, Lin,
      Cui, Liu, Cubuk, Le, "Rethinking Pre-training and Self-training", 2020, arXiv 2006.06882.
    separable: makes every convolution a depthwise one and a 1x1, as those segmenters have them.
    min_level: the finest level; level l has stride 2^l.

  Raises:
    ConfigError: a value is not a positive integer, or the level is not from 0 to 5.
  """
  layers.check_count("width", width)
  layers.check_count("repeats", repeats)
  max_level = min_level + NUM_LEVELS - 1 if isinstance(min_level, int) else min_level
  check_levels(min_level, max_level)

  def module(taps: tuple[Tap, ...], style: Style) -> Callable[..., nn.Module]:
    return functools.partial(NasPyramid, width, repeats, separable, min_level, taps, style)

  return Neck("nasfpn", min_level, max_level, module)
