"""The loss of a dense detector: assignment of anchors to ground truth, focal loss, box regression.

Each function takes a whole batch with a fixed number of boxes per image, of which `valid` marks the real
ones, and returns sums and their weights per image, so that the caller normalises per image or per batch.
Losses are float32 whatever the type of the network's outputs.

The defaults are those of the TPU detectors (tensorflow/tpu, models/official/detection), which differ from the
RetinaNet paper in gamma, in the loss of the boxes and in anchors that are never ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl import boxes as geometry
from jaxtl.errors import ConfigError, DataError
from jaxtl.losses import labels as targets
from jaxtl.losses.classification import focal_term
from jaxtl.types import Array

# Assignments that are not the number of a box.
BACKGROUND, IGNORED = -1, -2

ErrorLoss = Callable[[Array], Array]


class AnchorLosses(NamedTuple):
  """The losses of the images of a batch, neither normalised nor weighted.

  Attributes:
    classes: float32 [B], the focal loss, summed over anchors and classes.
    boxes: float32 [B], the loss of the codes, averaged over the four coordinates and summed over the positive
      anchors.
    positives: float32 [B], how many anchors are positive.
  """

  classes: Array
  boxes: Array
  positives: Array


def huber(errors: Array, *, delta: float = 0.1) -> Array:
  """Computes d^2 / 2 where |d| <= delta, else delta |d| - delta^2 / 2, elementwise.

  Huber, "Robust Estimation of a Location Parameter", 1964.

  Args:
    errors: [...] differences d.
    delta: above 0; 0.1 in the TPU detectors.

  Returns:
    float32 [...].

  Raises:
    ConfigError: delta is not a finite number above 0.
  """
  delta = targets.positive("delta", delta)
  size = jnp.abs(jnp.asarray(errors).astype(jnp.float32))
  near = jnp.minimum(size, delta)
  return near * (size - near / 2)


def smooth_l1(errors: Array, *, beta: float = 0.0) -> Array:
  """Computes d^2 / (2 beta) where |d| <= beta, else |d| - beta / 2, elementwise.

  Girshick, "Fast R-CNN", 2015, arXiv 1504.08083.

  Args:
    errors: [...] differences d.
    beta: 0 or more; 0, the default, is |d|, the loss of torchvision's RetinaNet.

  Returns:
    float32 [...].

  Raises:
    ConfigError: beta is negative or not finite.
  """
  if not 0 <= beta < float("inf"):
    raise ConfigError(f"beta is {beta}; write a finite number of 0 or more")
  if beta == 0:
    return jnp.abs(jnp.asarray(errors).astype(jnp.float32))
  return huber(errors, delta=beta) / beta


def assign(
  anchors: Array, boxes: Array, valid: Array, *, positive: float = 0.5, negative: float = 0.5
) -> Array:
  """Assigns each anchor of an image to a box, to the background, or to neither.

  An anchor belongs to the box that it overlaps most, if their intersection over union is at least `positive`;
  below `negative` it is background, and between them it is ignored. In addition, each box gets the anchor
  that overlaps it most, the first one of several, whatever their overlap, unless it is zero. Of two boxes
  with the same such anchor, the first one gets it.

  The boxes are visited one after the other, so that the memory grows with the anchors alone. No operation
  mixes images, so a batch stays split over devices.

  Args:
    anchors: [A, 4].
    boxes: [B, N, 4], with any values where they are not valid.
    valid: bool [B, N].
    positive, negative: thresholds in [0, 1]; 0.5 and 0.4 in the RetinaNet paper.

  Returns:
    int32 [B, A], the number of a box, BACKGROUND or IGNORED.

  Raises:
    ConfigError: the thresholds are not in order.
    DataError: shapes do not fit.
  """
  if not 0 <= negative <= positive <= 1:
    raise ConfigError(
      f"positive is {positive} and negative is {negative}; expected 0 <= negative <= positive <= 1 (for "
      "example 0.5 and 0.4)"
    )
  boxes, valid = _checked_boxes(boxes, valid)
  one = functools.partial(_assign, geometry.corners(anchors), positive=positive, negative=negative)
  return jax.vmap(one)(boxes, valid)


def _assign(
  anchors: geometry.Corners, boxes: Array, valid: Array, *, positive: float, negative: float
) -> Array:
  """Assigns the anchors of one image; see `assign`."""
  count = len(anchors[0])
  places, numbers = jnp.arange(count, dtype=jnp.int32), jnp.arange(len(boxes), dtype=jnp.int32)

  def visit(best: tuple[Array, Array], box: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple]:
    number, corners, is_valid = box
    overlap = jnp.where(is_valid, geometry.overlap(anchors, geometry.corners(corners)), -1)
    largest = jnp.max(overlap)
    # The first of the largest; on the CPU an argmax takes longer than these two reductions.
    claim = jnp.min(jnp.where(overlap == largest, places, count))
    better = overlap > best[0]
    best = jnp.where(better, overlap, best[0]), jnp.where(better, number, best[1])
    return best, (claim, largest > 0)

  start = jnp.full(count, -1.0), jnp.full(count, BACKGROUND, jnp.int32)
  (overlap, nearest), (claims, claimed) = jax.lax.scan(visit, start, (numbers, boxes, valid))
  assigned = jnp.where(overlap >= positive, nearest, jnp.where(overlap < negative, BACKGROUND, IGNORED))
  nobody = len(boxes)
  owner = jnp.full(count, nobody, jnp.int32).at[claims].min(jnp.where(claimed, numbers, nobody))
  return jnp.where(owner < nobody, owner, assigned)


def focal_sum(logits: Array, channels: Array, *, gamma: float = 1.5, alpha: float = 0.25) -> Array:
  """Computes the focal loss of each class against the rest, summed over the anchors of an image.

  Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017, arXiv 1708.02002.

  Args:
    logits: [B, A, C].
    channels: int [B, A]: the channel of the anchor's class, BACKGROUND, or IGNORED, which costs nothing. With
      any other number the loss of the image is NaN.
    gamma: exponent of 0 or more; 1.5 in the TPU detectors, 2 in the paper.
    alpha: weight in [0, 1] of the positives; 1 - alpha is that of the negatives.

  Returns:
    float32 [B].

  Raises:
    ConfigError: a hyperparameter is out of its range.
    DataError: shapes do not fit.
  """
  if not 0 <= gamma < float("inf"):
    raise ConfigError(f"gamma is {gamma}; write a finite number of 0 or more")
  if not 0 <= alpha <= 1:
    raise ConfigError(f"alpha is {alpha}; write a number from 0 to 1")
  logits, channels = jnp.asarray(logits), jnp.asarray(channels)
  if logits.ndim != 3 or channels.shape != logits.shape[:2]:
    raise DataError(
      f"logits have shape {list(logits.shape)} and channels {list(channels.shape)}; expected [B, A, C] and "
      "[B, A]"
    )
  logits, num_channels = logits.astype(jnp.float32), logits.shape[-1]
  is_class = channels[..., None] == jnp.arange(num_channels)[None, None]
  weight = jnp.where(is_class, alpha, 1 - alpha)
  terms = weight * focal_term(jnp.where(is_class, logits, -logits), gamma)
  # Summed by anchor first: in one long sum the many small terms of the negatives would be rounded away.
  values = jnp.where(channels == IGNORED, 0, jnp.sum(terms, axis=-1))
  known = (channels >= IGNORED) & (channels < num_channels)
  return jnp.where(jnp.all(known, axis=-1), jnp.sum(values, axis=-1), jnp.nan)


def box_sum(codes: Array, wanted: Array, positive: Array, *, error: ErrorLoss = huber) -> Array:
  """Computes the loss of the codes of the positive anchors, summed over them.

  Args:
    codes: [B, A, 4].
    wanted: [B, A, 4], the codes of the boxes; any finite values where the anchor is not positive.
    positive: bool [B, A].
    error: differences -> losses, elementwise.

  Returns:
    float32 [B]; each anchor counts with the mean over its four coordinates.
  """
  codes, wanted = geometry.checked(codes), geometry.checked(wanted)
  losses = jnp.mean(error(codes - wanted), axis=-1)
  return jnp.sum(jnp.where(positive, losses, 0), axis=-1)


def anchor_losses(
  logits: Array,
  codes: Array,
  anchors: Array,
  boxes: Array,
  labels: Array,
  valid: Array,
  *,
  gamma: float = 1.5,
  alpha: float = 0.25,
  error: ErrorLoss = huber,
  positive: float = 0.5,
  negative: float = 0.5,
) -> AnchorLosses:
  """Computes the two losses of a dense detector on the ground truth of a batch.

  Args:
    logits: [B, A, C].
    codes: [B, A, 4], of boxes relative to their anchors.
    anchors: [A, 4].
    boxes: [B, N, 4] in pixels; see `jaxtl.boxes`.
    labels: int [B, N], the channel of each box's class in `logits`.
    valid: bool [B, N], which boxes are real; the others only fill the batch.
    gamma, alpha: see `focal_sum`.
    error: see `box_sum`; `huber` of the TPU detectors, or `smooth_l1` of torchvision, which sums over the
      four coordinates instead of averaging.
    positive, negative: see `assign`.

  Returns:
    The losses of each image. The TPU detectors weigh the boxes by 50 and divide both by the number of
    positives of the whole batch plus 1: `per_batch(classes + 50 * boxes, positives, mask, plus=1)`.

  Raises:
    ConfigError: a hyperparameter is out of its range.
    DataError: shapes do not fit.
  """
  boxes, valid = _checked_boxes(boxes, valid)
  if labels.shape != valid.shape:
    raise DataError(f"labels have shape {list(labels.shape)}; expected {list(valid.shape)}, one for each box")
  assigned = assign(anchors, boxes, valid, positive=positive, negative=negative)
  is_box = assigned >= 0
  number = jnp.maximum(assigned, 0)
  channel = jnp.where(is_box, jnp.take_along_axis(labels.astype(jnp.int32), number, axis=1), assigned)
  # A label below 0 would read as background.
  channel = jnp.where(is_box & (channel < 0), logits.shape[-1], channel)
  # An anchor without a box stands for its own, whose code is finite.
  matched = jnp.take_along_axis(boxes, number[..., None], axis=1)
  wanted = geometry.encode(jnp.where(is_box[..., None], matched, anchors[None]), anchors[None])
  return AnchorLosses(
    focal_sum(logits, channel, gamma=gamma, alpha=alpha),
    box_sum(codes, wanted, is_box, error=error),
    jnp.sum(is_box, axis=-1, dtype=jnp.float32),
  )


def per_image(sums: Array, weights: Array) -> Array:
  """Divides the sum of each image by its own weight, or by 1 if that is less: the mean is over images.

  Args:
    sums, weights: [B].

  Returns:
    float32 [B].
  """
  return sums / jnp.maximum(weights, 1)


def per_batch(sums: Array, weights: Array, mask: Array, *, plus: float = 0.0) -> Array:
  """Divides the sums of a batch by the weight of all its images.

  Args:
    sums, weights: [B]; any values where `mask` is false.
    mask: bool [B], which images are real.
    plus: added to the total weight, which is otherwise at least 1.

  Returns:
    float32 [B], whose mean over the real images is sum(sums) / (sum(weights) + plus); 0 for the other images.
  """
  total = jnp.maximum(jnp.sum(jnp.where(mask, weights, 0)) + plus, 1)
  return jnp.where(mask, sums, 0) * (jnp.sum(mask, dtype=jnp.float32) / total)


def _checked_boxes(boxes: Any, valid: Any) -> tuple[Array, Array]:
  boxes, valid = jnp.asarray(boxes), jnp.asarray(valid)
  if boxes.ndim != 3 or boxes.shape[-1] != 4 or valid.shape != boxes.shape[:2] or not boxes.shape[1]:
    raise DataError(
      f"boxes have shape {list(boxes.shape)} and valid {list(valid.shape)}; expected [B, N, 4] and [B, N] "
      "with N of at least 1"
    )
  return boxes.astype(jnp.float32), valid.astype(bool)
