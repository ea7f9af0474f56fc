"""Transforms of a whole batch that mix pairs of images and their labels.

Row r is mixed with row r + 1 if r is even, and with row r - 1 if r is odd. The order of the batch is already
random, so these pairs are as random as any others. They do not depend on how the batch is divided among
processes, provided that each process has an even number of rows. The last row of an odd number is not mixed.
One weight is drawn per batch, as in the authors' code of both papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.errors import ConfigError

Batch = Mapping[str, Any]  # of tensors


def mixup(batch: Batch, seed: tf.Tensor, *, alpha: float = 0.2) -> Batch:
  """Computes weight x + (1 - weight) x_b, with weight ~ Beta(alpha, alpha).

  Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017, arXiv 1710.09412 (0.1 to 0.4 on ImageNet).

  Args:
    batch: `image` float32 [B, H, W, 3], `label` [B].
    seed: int [2].
    alpha: parameter of the Beta distribution, above 0.

  Returns:
    The batch with mixed images, `label_b` [B] and `weight` float32 [B].

  Raises:
    ConfigError: alpha is not above 0, or the batch is already mixed.
  """
  weight = _share(batch, seed, alpha=alpha, name="mixup")
  partner = _partners(batch)
  image = batch["image"]
  mixed = weight * image + (1 - weight) * tf.gather(image, partner)
  return _with_labels(batch, mixed, partner, weight)


def cutmix(batch: Batch, seed: tf.Tensor, *, alpha: float = 1.0) -> Batch:
  """Pastes a rectangle of the partner image; its relative area before clipping is 1 - w.

  The weight is w ~ Beta(alpha, alpha).

  Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019,
  arXiv 1905.04899 (alpha 1).

  Args:
    batch: `image` float32 [B, H, W, 3], `label` [B].
    seed: int [2].
    alpha: parameter of the Beta distribution, above 0.

  Returns:
    The batch with mixed images, `label_b` [B], and `weight` float32 [B], the exact share of retained pixels.

  Raises:
    ConfigError: alpha is not above 0, or the batch is already mixed.
  """
  share = _share(batch, seed, alpha=alpha, name="cutmix")
  partner = _partners(batch)
  image = batch["image"]
  height, width = tf.shape(image)[1], tf.shape(image)[2]
  sides = tf.stack([height, width])
  centre = tf.random.stateless_uniform([2], tf.random.experimental.stateless_fold_in(seed, 2))
  half = tf.cast(tf.sqrt(1 - share) * tf.cast(sides, tf.float32), tf.int32) // 2
  middle = tf.cast(centre * tf.cast(sides, tf.float32), tf.int32)
  low, high = tf.maximum(middle - half, 0), tf.minimum(middle + half, sides)
  rows, columns = tf.range(height)[:, None], tf.range(width)[None, :]
  pasted = (rows >= low[0]) & (rows < high[0]) & (columns >= low[1]) & (columns < high[1])
  mixed = tf.where(pasted[None, :, :, None], tf.gather(image, partner), image)
  kept = 1 - tf.reduce_mean(tf.cast(pasted, tf.float32))
  return _with_labels(batch, mixed, partner, kept)


def _share(batch: Batch, seed: tf.Tensor, *, alpha: float, name: str) -> tf.Tensor:
  if alpha <= 0:
    raise ConfigError(
      f"{name} alpha is {alpha:g}; expected a number above 0 (leave {name} out to switch it off)"
    )
  if "label_b" in batch:
    raise ConfigError(f"{name} got a batch that is mixed already; give one of mixup and cutmix")
  # If a and b are Gamma(alpha), then a / (a + b) is Beta(alpha, alpha). In float64, since a small alpha gives
  # tiny numbers.
  gammas = tf.random.stateless_gamma([2], seed, alpha=tf.constant(alpha, tf.float64), dtype=tf.float64)
  return tf.cast(tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1]), tf.float32)


def _partners(batch: Batch) -> tf.Tensor:
  rows = tf.shape(batch["label"])[0]
  return tf.minimum(tf.bitwise.bitwise_xor(tf.range(rows), 1), rows - 1)


def _with_labels(batch: Batch, image: tf.Tensor, partner: tf.Tensor, weight: tf.Tensor) -> Batch:
  rows = tf.shape(batch["label"])[0]
  label_b = tf.gather(batch["label"], partner)
  return {**batch, "image": image, "label_b": label_b, "weight": tf.fill([rows], weight)}
