"""Measures of a segmentation over a whole data set, from counts of pixels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import DataError
from jaxtl.metrics.means import Mean
from jaxtl.types import Array


def segments_of(logits: Array, size: tuple[int, int]) -> Array:
  """Predicts the class of each pixel: the largest logit after bilinear interpolation to the size of the
  image.

  Pixels are placed by their centres, unlike in TensorFlow 1.

  Args:
    logits: [B, h, w, K].
    size: height and width of the image.

  Returns:
    int32 [B, H, W].
  """
  shape = (logits.shape[0], *size, logits.shape[-1])
  return jnp.argmax(jax.image.resize(logits.astype(jnp.float32), shape, "bilinear"), axis=-1).astype(
    jnp.int32
  )


def pixel_confusion(
  predicted: Array, segments: Array, mask: Array, *, num_classes: int, void: int = 255
) -> Array:
  """Counts how many pixels of class i (row) were predicted as class j (column), over the images of a batch.

  The counts are integers: add those of all batches on the host in int64, and take `mean_iou` of the sum.

  Args:
    predicted: int [B, H, W], from 0 to K - 1.
    segments: int [B, H, W], the true classes; pixels of any other id are left out, as those that are void.
    mask: bool [B], which images count.
    num_classes: K.
    void: id of pixels that do not count even if it is below K.

  Returns:
    int32 [K, K].

  Raises:
    DataError: shapes do not fit.
  """
  predicted, segments = jnp.asarray(predicted), jnp.asarray(segments)
  if predicted.ndim != 3 or predicted.shape != segments.shape or mask.shape != predicted.shape[:1]:
    raise DataError(
      f"predictions have shape {list(predicted.shape)}, segments {list(segments.shape)} and mask "
      f"{list(mask.shape)}; expected [B, H, W], the same, and [B]"
    )
  true = segments.astype(jnp.int32)
  counts = (true >= 0) & (true < num_classes) & (true != void) & mask[:, None, None]
  cells = jnp.where(counts, true * num_classes + predicted.astype(jnp.int32), num_classes**2)
  return jnp.bincount(cells.reshape(-1), length=num_classes**2 + 1)[:-1].reshape(num_classes, num_classes)


def class_overlaps(confusion: Any) -> tuple[Any, Any]:
  """Returns the intersection TP and the union TP + FP + FN of each class.

  Both add over batches, so their quotient is the class's intersection over union of a whole data set.

  Args:
    confusion: [..., K, K] counts, true classes in the rows; an array of JAX or NumPy.

  Returns:
    ([..., K], [..., K]).
  """
  rows, columns = confusion.sum(-1), confusion.sum(-2)
  diagonal = confusion.diagonal(axis1=-2, axis2=-1)
  return diagonal, rows + columns - diagonal


def class_means(confusion: Array, *, prefix: str = "iou/") -> dict[str, Mean]:
  """Returns the intersection over union of each class as a `Mean`, for a loop that merges measures.

  Args:
    confusion: int [K, K] of a batch. A `Mean` adds in float32, which is exact up to 2^24 pixels of a class.
    prefix: of the names, which end with the number of the class.

  Returns:
    {prefix + class: Mean(TP, TP + FP + FN)}.
  """
  shared, union = (x.astype(jnp.float32) for x in class_overlaps(confusion))
  return {f"{prefix}{k}": Mean(shared[k], union[k]) for k in range(len(shared))}


def class_iou(confusion: np.ndarray) -> np.ndarray:
  """Returns each class's intersection over union TP / (TP + FP + FN), NaN for a class that never occurs.

  >>> class_iou(np.array([[3, 1], [0, 4]])).tolist()
  [0.75, 0.8]

  Args:
    confusion: [K, K] counts, true classes in the rows.

  Returns:
    float64 [K].
  """
  shared, union = class_overlaps(np.asarray(confusion, np.int64))
  return np.where(union > 0, shared / np.maximum(union, 1), np.nan)


def mean_iou(confusion: np.ndarray) -> float:
  """Returns the mean of `class_iou` over the classes that occur, or are predicted, anywhere in the data.

  Everingham, Eslami, Van Gool, Williams, Winn, Zisserman, "The Pascal Visual Object Classes Challenge: A
  Retrospective", International Journal of Computer Vision 111, 2015: the background is one of the classes.

  Args:
    confusion: [K, K] counts of the whole data set.

  Returns:
    A number from 0 to 1; NaN if there are no pixels.
  """
  values = class_iou(confusion)
  return float(np.nanmean(values)) if np.any(~np.isnan(values)) else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
  """Returns the share of the pixels that are predicted correctly; NaN if there are none."""
  total = np.sum(confusion, dtype=np.int64)
  return float(np.trace(confusion) / total) if total else float("nan")
