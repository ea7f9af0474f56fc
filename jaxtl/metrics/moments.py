"""Feature moments: sums over images that add over batches, devices and hosts, and from which scores follow.

One pass over a data set accumulates `Moments`. On a device, `batch_moments` is jitted by the caller and runs
in float32 with matrix products of the highest precision. A running float32 sum over 10^6 images loses three
digits, so a long pass moves its sums to float64 on the host every 64 batches: `add(total, on_host(sums))`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.types import Array

# Wider features need a projection first: the second moment alone would take over 128 MiB in float64.
MOST_FEATURES = 4096
# Rows that are held in float64 at a time.
ROWS = 4096


class Moments(NamedTuple):
  """Sums over images of g = feature - shift; every field but `shift` adds over disjoint sets of images.

  Attributes:
    shift: [D], the same for all sums that are added. A mean of some features keeps cancellation small.
    count: [K] images by class.
    total: [K, D] sum of g by class.
    squares: [K, D] sum of g^2 by class.
    second: [D, D] sum of g g'.
    norm4: [] sum of |g|^4.
    norm2_total: [D] sum of |g|^2 g.

  Moments by fold have a leading axis [V] in all fields but `shift`.
  """

  shift: Any
  count: Any
  total: Any
  squares: Any
  second: Any
  norm4: Any
  norm2_total: Any


def batch_moments(features: Array, labels: Array, mask: Array, shift: Array, *, num_classes: int) -> Moments:
  """Sums the moments of one batch in float32; pure, so that it can be jitted and sharded.

  Args:
    features: [B, D].
    labels: int [B], from 0 to num_classes - 1.
    mask: bool [B], or [V, B] for moments by fold (`fold_masks`). Rows that are False may hold anything.
    shift: [D], for example the mean of the first batch.
    num_classes: K.
  """
  if mask.ndim == 2:
    return _by_fold(features, labels, mask, shift, num_classes)
  g = jnp.where(mask[:, None], features.astype(jnp.float32) - shift[None], 0)
  classes = jax.nn.one_hot(labels, num_classes) * mask[:, None]
  norm2 = jnp.sum(g**2, axis=1)

  def product(a: Array, b: Array) -> Array:
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)

  return Moments(
    shift=shift,
    count=jnp.sum(classes, axis=0),
    total=product(classes, g),
    squares=product(classes, g**2),
    second=product(g, g),
    norm4=jnp.sum(norm2**2),
    norm2_total=jnp.sum(norm2[:, None] * g, axis=0),
  )


def _by_fold(features: Array, labels: Array, masks: Array, shift: Array, num_classes: int) -> Moments:
  # A loop instead of vmap: [V, B, D] never exists.
  parts = [batch_moments(features, labels, mask, shift, num_classes=num_classes) for mask in masks]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
  return stacked._replace(shift=shift)


def fold_masks(folds: Array, mask: Array, *, num_folds: int = 5) -> Array:
  """Returns bool [V, B], the rows of each fold, from the fold number [B] of each row and its mask [B]."""
  return (folds[None] == jnp.arange(num_folds)[:, None]) & mask[None]


def on_host(moments: Moments) -> Moments:
  """Returns the moments as float64 arrays of NumPy."""
  return Moments(*(np.asarray(leaf, np.float64) for leaf in moments))


def add(a: Moments, b: Moments) -> Moments:
  """Adds the moments of two disjoint sets of images.

  Raises:
    ConfigError: the shifts or the shapes differ.
  """
  shapes = [tuple(np.shape(leaf) for leaf in moments) for moments in (a, b)]
  if shapes[0] != shapes[1] or not np.array_equal(np.asarray(a.shift), np.asarray(b.shift)):
    raise ConfigError("moments add only if shift and shapes agree; fix the shift before the first batch")
  return Moments(a.shift, *(x + y for x, y in zip(a[1:], b[1:])))


def over_folds(moments: Moments, *, without: int | None = None) -> Moments:
  """Sums moments by fold over the folds, or over all folds but `without`."""
  total = Moments(moments.shift, *(np.sum(leaf, axis=0) for leaf in moments[1:]))
  if without is None:
    return total
  return Moments(moments.shift, *(whole - leaf[without] for whole, leaf in zip(total[1:], moments[1:])))


def moments_of(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int | None = None,
  folds: np.ndarray | None = None,
  weights: np.ndarray | None = None,
  shift: np.ndarray | None = None,
) -> Moments:
  """Sums the moments of features that are held on the host, in float64, a block of rows at a time.

  Args:
    features: [N, D].
    labels: int [N].
    num_classes: K; None means the largest label + 1.
    folds: int [N], from 0; gives moments by fold.
    weights: [N] how often each image counts, for example from a bootstrap; None means once.
    shift: [D]; None means the mean of the first block.

  Raises:
    ConfigError: the features are wider than `MOST_FEATURES`, or the shapes do not fit.
  """
  features, labels = np.asarray(features), np.asarray(labels)
  if features.ndim != 2 or labels.shape != features.shape[:1] or not features.size:
    raise ConfigError(
      f"features have shape {features.shape} and labels {labels.shape}; expected [N, D] and [N], not empty"
    )
  if features.shape[1] > MOST_FEATURES:
    raise ConfigError(
      f"features have {features.shape[1]} columns; expected at most {MOST_FEATURES}: "
      "project them first, for example with random_projection(features, dim=2048)"
    )
  num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
  shift = np.asarray(features[:ROWS].mean(axis=0, dtype=np.float64) if shift is None else shift)
  once = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
  if folds is None:
    return _sums(features, labels, once, shift, num_classes)
  parts = [
    _sums(features[folds == fold], labels[folds == fold], once[folds == fold], shift, num_classes)
    for fold in range(int(np.max(folds)) + 1)
  ]
  return Moments(shift, *(np.stack(leaves) for leaves in zip(*(part[1:] for part in parts))))


def _sums(
  features: np.ndarray, labels: np.ndarray, weights: np.ndarray, shift: np.ndarray, num_classes: int
) -> Moments:
  dim = features.shape[1]
  shapes = ((num_classes,), (num_classes, dim), (num_classes, dim), (dim, dim), (), (dim,))
  count, total, squares, second, norm4, norm2_total = (np.zeros(shape) for shape in shapes)
  for first in range(0, len(labels), ROWS):
    part = slice(first, first + ROWS)
    g = features[part].astype(np.float64) - shift
    weight = weights[part]
    weighted = g if np.all(weight == 1) else g * weight[:, None]
    norm2 = np.sum(g**2, axis=1)
    count += np.bincount(labels[part], weights=weight, minlength=num_classes)
    total += class_sums(weighted, labels[part], num_classes=num_classes)
    squares += class_sums(weighted * g, labels[part], num_classes=num_classes)
    second += weighted.T @ g
    norm4 += weight @ norm2**2
    norm2_total += (weight * norm2) @ g
  return Moments(shift, count, total, squares, second, np.asarray(norm4), norm2_total)


def class_sums(rows: np.ndarray, labels: np.ndarray, *, num_classes: int) -> np.ndarray:
  """Sums rows [N, D] by class, [K, D]; labels are from 0 to K - 1."""
  sums = np.zeros((num_classes, rows.shape[1]))
  if len(labels):
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    sums[classes] = np.add.reduceat(rows[order], starts, axis=0)
  return sums


def random_projection(features: np.ndarray, *, dim: int = 2048, seed: int = 0) -> np.ndarray:
  """Projects features [N, D] with a matrix [D, dim] of independent Gaussian entries of variance 1 / dim.

  Squared lengths are kept on average. Features with at most `dim` columns are returned as they are.
  """
  width = features.shape[1]
  if width <= dim:
    return features
  directions = np.random.default_rng(seed).normal(scale=dim**-0.5, size=(width, dim))
  return (features @ directions).astype(features.dtype)
