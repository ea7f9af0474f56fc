"""The loss of a segmentation: cross-entropy at each position, except where the annotation is void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from jaxtl.errors import DataError
from jaxtl.losses.classification import softmax_cross_entropy
from jaxtl.types import Array

# The value of pixels without a class in PASCAL VOC, and of padding.
VOID = 255


class SegmentLosses(NamedTuple):
  """The losses of the images of a batch.

  Attributes:
    sums: float32 [B], summed over the positions that are not void.
    pixels: float32 [B], the number of these positions.
  """

  sums: Array
  pixels: Array


def at_stride(segments: Array, shape: Sequence[int]) -> Array:
  """Reduces class ids to the size of the logits by taking every s-th pixel; ids are never interpolated.

  Args:
    segments: int [B, H, W].
    shape: height and width of the logits, both H / s and W / s rounded up.

  Returns:
    [B, h, w].

  Raises:
    DataError: the sizes do not fit.
  """
  segments = jnp.asarray(segments)
  if segments.ndim != 3:
    raise DataError(f"segments have shape {list(segments.shape)}; expected int [B, H, W]")
  stride = -(-segments.shape[1] // max(shape[0], 1))
  reduced = segments[:, ::stride, ::stride]
  if reduced.shape[1:] != tuple(shape):
    raise DataError(
      f"segments of {segments.shape[1]} x {segments.shape[2]} pixels do not fit logits of {shape[0]} x "
      f"{shape[1]}; give images whose sides are multiples of the pyramid's coarsest stride"
    )
  return reduced


def segment_losses(
  logits: Array, segments: Array, *, void: int = VOID, label_smoothing: float = 0.0
) -> SegmentLosses:
  """Computes softmax cross-entropy at each position, at the resolution of the logits.

  Args:
    logits: [B, h, w, K].
    segments: int [B, H, W], the class of each pixel, where H / h is the stride of the logits. An id that is
      neither a class nor void makes the loss of its image NaN.
    void: id of pixels that do not count.
    label_smoothing: see `softmax_cross_entropy`.

  Returns:
    `SegmentLosses`. The mean over the valid pixels of the batch is `per_batch(sums, pixels, mask)`.

  Raises:
    DataError: shapes do not fit.
  """
  logits = jnp.asarray(logits)
  if logits.ndim != 4:
    raise DataError(f"logits have shape {list(logits.shape)}; expected [B, h, w, K]")
  reduced = at_stride(segments, logits.shape[1:3])
  counts = reduced != void
  flat = softmax_cross_entropy(
    logits.reshape(-1, logits.shape[-1]),
    jnp.where(counts, reduced, 0).reshape(-1),
    label_smoothing=label_smoothing,
  )
  values = jnp.where(counts, flat.reshape(counts.shape), 0)
  return SegmentLosses(jnp.sum(values, axis=(1, 2)), jnp.sum(counts, axis=(1, 2), dtype=jnp.float32))
