"""Anchors: the boxes of fixed places and shapes that a detector classifies and corrects."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxtl.types import Array

# (height, width, level) -> anchors [height * width * PER_CELL, 4] of a map, (y0, x0, y1, x1) in pixels.
Anchors = Callable[[int, int, int], Array]
NUM_SCALES = 3
PER_CELL = 9


def octave_anchors(height: int, width: int, level: int) -> Array:
  """Places anchors of three scales per octave and three aspect ratios around the centre of each cell.

  Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017, arXiv 1708.02002, section
  4; the order is that of the TPU detectors: scales outermost, ratios width / height = 1, 2, 0.5 innermost.

  Args:
    height, width: of the map, in cells.
    level: of the pyramid; a cell has 2^level pixels a side, and the smallest square anchor four times that.

  Returns:
    float32 [height * width * 9, 4], cells in row-major order.
  """
  stride = 2.0**level
  bases = 4 * stride * 2 ** (np.arange(NUM_SCALES) / NUM_SCALES)
  roots = np.sqrt([1.0, 2.0, 0.5])
  sides = [(base / root, base * root) for base in bases for root in roots]
  return _placed(np.array(sides), height, width, stride=stride, first=stride / 2)


def rounded_anchors(height: int, width: int, level: int) -> Array:
  """Places the anchors of torchvision's RetinaNet: rounded to whole pixels, around the corner of each cell.

  The aspect ratios height / width = 0.5, 1, 2 are outermost, the scales innermost. The side before rounding
  is truncated to an integer.

  Args, Returns: as in `octave_anchors`.
  """
  stride = 2**level
  bases = np.array([int(4 * stride * 2 ** (scale / NUM_SCALES)) for scale in range(NUM_SCALES)])
  roots = np.sqrt([0.5, 1.0, 2.0])
  sides = [(base * root, base / root) for root in roots for base in bases]
  return _placed(2 * np.round(np.array(sides) / 2), height, width, stride=float(stride), first=0.0)


def _placed(sides: np.ndarray, height: int, width: int, *, stride: float, first: float) -> Array:
  """Centres boxes of sides [n, 2] at every cell, the first one at `first`."""
  y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
  centres = first + stride * jnp.stack([y, x], axis=-1).reshape(-1, 1, 2)
  half = jnp.asarray(sides, jnp.float32)[None] / 2
  return jnp.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4)
