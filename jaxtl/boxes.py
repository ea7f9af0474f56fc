"""Boxes: their overlap, and their code relative to anchors.

A box is (y0, x0, y1, x1) in pixels, half open: its height is y1 - y0. Everything is computed in float32.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxtl.errors import DataError
from jaxtl.types import Array

# Largest log-ratio of a decoded side to that of its anchor: a code of a network that is not trained yet must
# not overflow. The value is Detectron's, and the TPU detectors'.
LARGEST_RATIO = math.log(1000 / 16)

Corners = tuple[Array, Array, Array, Array]


def area(boxes: Array) -> Array:
  """Computes the areas [...] of boxes [..., 4]; a box with a negative side has area 0."""
  return _area(corners(boxes))


def iou(boxes: Array, others: Array) -> Array:
  """Computes the intersection over union of each box with each other box.

  >>> import jax.numpy as jnp
  >>> iou(jnp.array([[0, 0, 32, 32]]), jnp.array([[0, 0, 32, 16], [0, 32, 32, 64]])).tolist()
  [[0.5, 0.0]]

  Args:
    boxes: [..., N, 4].
    others: [..., M, 4].

  Returns:
    float32 [..., N, M] from 0 to 1; 0 where both boxes are empty.

  Raises:
    DataError: the last axis does not have four entries.
  """
  one, other = corners(boxes), corners(others)
  y0, x0, y1, x1 = (x[..., :, None] for x in one)
  b0, a0, b1, a1 = (x[..., None, :] for x in other)
  return overlap((y0, x0, y1, x1), (b0, a0, b1, a1))


def overlap(one: Corners, other: Corners) -> Array:
  """Computes the intersection over union of boxes given as arrays y0, x0, y1, x1 that broadcast.

  The last axis of many boxes [N, 4] is too short for vector units; this form is several times faster there.
  """
  height = jnp.minimum(one[2], other[2]) - jnp.maximum(one[0], other[0])
  width = jnp.minimum(one[3], other[3]) - jnp.maximum(one[1], other[1])
  shared = jnp.maximum(height, 0) * jnp.maximum(width, 0)
  union = _area(one) + _area(other) - shared
  return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def corners(boxes: Array) -> Corners:
  """Returns the arrays y0, x0, y1, x1 [...] of boxes [..., 4]."""
  boxes = checked(boxes)
  return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def encode(boxes: Array, anchors: Array) -> Array:
  """Computes the code of each box relative to its anchor.

  The code is ((yc - yc_a) / h_a, (xc - xc_a) / w_a, ln(h / h_a), ln(w / w_a)), with centres yc, xc and sides
  h, w.

  Ren, He, Girshick, Sun, "Faster R-CNN", 2015, arXiv 1506.01497; no scaling by variances.

  Args:
    boxes: [..., 4], with sides above 0.
    anchors: [..., 4].

  Returns:
    float32 [..., 4].
  """
  centres, sides = _centred(boxes)
  anchor_centres, anchor_sides = _centred(anchors)
  return jnp.concatenate([(centres - anchor_centres) / anchor_sides, jnp.log(sides / anchor_sides)], axis=-1)


def decode(codes: Array, anchors: Array, *, legacy: bool = False) -> Array:
  """Computes the boxes of codes, the inverse of `encode`.

  Args:
    codes: [..., 4]; the log-ratios are clipped above at ln(1000 / 16).
    anchors: [..., 4].
    legacy: decodes with the convention of Detectron and of the TPU detectors, whose pixels are closed, so
      that a side is y1 - y0 + 1. It does not invert `encode`, and belongs to weights that were released with
      it.

  Returns:
    float32 [..., 4].
  """
  codes, pixel = checked(codes), float(legacy)
  centres, sides = _centred(anchors)
  sides, centres = sides + pixel, centres + pixel / 2
  centres = codes[..., :2] * sides + centres
  sides = jnp.exp(jnp.minimum(codes[..., 2:], LARGEST_RATIO)) * sides
  return jnp.concatenate([centres - sides / 2, centres + sides / 2 - pixel], axis=-1)


def clip(boxes: Array, limits: Array) -> Array:
  """Clips boxes to an image.

  Args:
    boxes: [..., 4].
    limits: [2], or [..., 2] for each box: the largest y and x, which are the height and width of the image,
      since boxes are half open.

  Returns:
    float32 [..., 4].
  """
  boxes, limits = checked(boxes), jnp.asarray(limits, jnp.float32)
  return jnp.clip(boxes, 0, jnp.broadcast_to(jnp.concatenate([limits, limits], axis=-1), boxes.shape))


def checked(boxes: Array) -> Array:
  """Casts boxes to float32.

  Raises:
    DataError: the last axis does not have four entries.
  """
  boxes = jnp.asarray(boxes)
  if not boxes.ndim or boxes.shape[-1] != 4:
    raise DataError(f"boxes have shape {list(boxes.shape)}; expected [..., 4], (y0, x0, y1, x1) in pixels")
  return boxes.astype(jnp.float32)


def _area(box: Corners) -> Array:
  y0, x0, y1, x1 = box
  return jnp.maximum(y1 - y0, 0) * jnp.maximum(x1 - x0, 0)


def _centred(boxes: Array) -> tuple[Array, Array]:
  """Returns the centres [..., 2] and the sides [..., 2]."""
  boxes = checked(boxes)
  return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
