"""Transforms of a whole batch that mix pairs of images and their labels.

Row r is mixed with row r + 1 if r is even, and with row r - 1 if r is odd. The order of the batch is already
random, so these pairs are as random as any others. They do not depend on how the batch is divided among
processes, provided that each process has an even number of rows. The last row of an odd number is not mixed.
One weight is drawn per batch, as in the authors' code of both papers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.declared import MIXED_LABELS, declares, gives
from jaxtl.data.transforms.draws import beta, fold
from jaxtl.data.transforms.ranges import check_alpha
from jaxtl.errors import ConfigError

Batch = Mapping[str, Any]  # of tensors
BatchTransform = Callable[..., Any]  # (batch, seed) -> batch


def _check_mixup(*, alpha: float) -> None:
  check_alpha("mixup", alpha=alpha, off=" (leave mixup out to switch it off)")


def _check_cutmix(*, alpha: float) -> None:
  check_alpha("cutmix", alpha=alpha, off=" (leave cutmix out to switch it off)")


@declares(check=_check_mixup, gives=(MIXED_LABELS,))
def mixup(batch: Batch, seed: tf.Tensor, *, alpha: float = 0.2) -> Batch:
  """Computes weight x + (1 - weight) x_b, with weight ~ Beta(alpha, alpha).

  Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2017, arXiv 1710.09412 (0.1
  to 0.4 on ImageNet).

  Args:
    batch: `image` float32 [B, H, W, 3], `label` [B].
    seed: int [2].
    alpha: parameter of the Beta distribution, above 0.

  Returns:
    The batch with mixed images, `label_b` [B] and `weight` float32 [B].

  Raises:
    ConfigError: alpha is not above 0, or the batch is already mixed.
  """
  _check_mixup(alpha=alpha)
  refuse_mixed(batch, name="mixup")
  weight = beta(seed, alpha=alpha)
  partner = partners(batch)
  image = batch["image"]
  mixed = weight * image + (1 - weight) * tf.gather(image, partner)
  return _with_labels(batch, mixed, partner, weight)


@declares(check=_check_cutmix, gives=(MIXED_LABELS,))
def cutmix(batch: Batch, seed: tf.Tensor, *, alpha: float = 1.0) -> Batch:
  """Pastes a rectangle of the partner image; its relative area before clipping is 1 - w.

  The weight is w ~ Beta(alpha, alpha).

  Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
  Features", 2019, arXiv 1905.04899 (alpha 1).

  Args:
    batch: `image` float32 [B, H, W, 3], `label` [B].
    seed: int [2].
    alpha: parameter of the Beta distribution, above 0.

  Returns:
    The batch with mixed images, `label_b` [B], and `weight` float32 [B], the exact share of retained pixels.

  Raises:
    ConfigError: alpha is not above 0, or the batch is already mixed.
  """
  _check_cutmix(alpha=alpha)
  refuse_mixed(batch, name="cutmix")
  share = beta(seed, alpha=alpha)
  partner = partners(batch)
  image = batch["image"]
  height, width = tf.shape(image)[1], tf.shape(image)[2]
  pasted = inside(box(fold(seed, 2), share=share, height=height, width=width), height=height, width=width)
  mixed = tf.where(pasted[None, :, :, None], tf.gather(image, partner), image)
  kept = 1 - tf.reduce_mean(tf.cast(pasted, tf.float32))
  return _with_labels(batch, mixed, partner, kept)


def _check_one_of_batch(
  *, transforms: Sequence[BatchTransform], probabilities: Sequence[float] | None
) -> None:
  if not transforms:
    raise ConfigError("one_of_batch transforms is empty; expected batch transforms (for example .data.mixup)")
  if probabilities is not None:
    if len(probabilities) != len(transforms):
      raise ConfigError(
        f"one_of_batch has {len(transforms)} transforms and {len(probabilities)} probabilities; expected "
        "one for each, or None for equal ones"
      )
    if min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
      raise ConfigError(
        f"one_of_batch probabilities are {list(probabilities)}; expected numbers from 0 to 1 with the sum 1"
      )
  if len({frozenset(gives(transform)) for transform in transforms}) > 1:
    raise ConfigError("one_of_batch chooses between transforms of which only some mix labels; expected all")


@declares(check=_check_one_of_batch)
def one_of_batch(
  batch: Batch,
  seed: tf.Tensor,
  *,
  transforms: Sequence[BatchTransform],
  probabilities: Sequence[float] | None = None,
) -> Batch:
  """Applies one of several batch transforms, drawn once for the whole batch.

  The draw depends on the run's seed and the number of the batch, so that every process makes the same choice.
  torchvision's `RandomChoice` over its CutMix and MixUp, both with alpha 1, is
  `one_of_batch(transforms=[cutmix, partial(mixup, alpha=1.0)])`.

  Args:
    batch: what the transforms take.
    seed: int [2].
    transforms: functions (batch, seed) -> batch that return the same keys, types and shapes.
    probabilities: one for each transform, with the sum 1; None means equal ones.

  Returns:
    The batch that the chosen transform returns.

  Raises:
    ConfigError: the numbers of transforms and probabilities differ, the probabilities are not a
      distribution, or the transforms return different batches.
  """
  _check_one_of_batch(transforms=transforms, probabilities=probabilities)
  shares = [1 / len(transforms)] * len(transforms) if probabilities is None else list(probabilities)
  edges = tf.constant(np.cumsum(shares)[:-1], tf.float32)
  number = tf.reduce_sum(tf.cast(tf.random.stateless_uniform([], seed) >= edges, tf.int32))
  forms: list[dict[str, Any]] = []

  def mixed(at: int) -> dict[str, Any]:
    found = dict(transforms[at](batch, fold(seed, 1 + at)))
    # `switch_case` reports a difference by an assertion about its own tensors.
    forms.append({key: (value.dtype, value.shape.rank) for key, value in found.items()})
    if forms[-1] != forms[0]:
      raise ConfigError(
        "the transforms of one_of_batch return batches with different keys, types or shapes; give all of "
        "them the same label smoothing"
      )
    return found

  # One branch would leave nothing to switch.
  if len(transforms) == 1:
    return mixed(0)
  found: Batch = tf.switch_case(number, [functools.partial(mixed, at) for at in range(len(transforms))])
  return found


def refuse_mixed(batch: Batch, *, name: str) -> None:
  """Raises ConfigError if the labels of a batch are mixed already."""
  if "label_b" in batch or batch["label"].dtype.is_floating:
    raise ConfigError(
      f"{name} got a batch that is mixed already; give one of the transforms that mix labels, or draw one "
      "for each batch with one_of_batch"
    )


def partners(batch: Batch) -> tf.Tensor:
  """Returns int32 [B]: the row that each row is mixed with."""
  rows = tf.shape(batch["label"])[0]
  return tf.minimum(tf.bitwise.bitwise_xor(tf.range(rows), 1), rows - 1)


def box(seed: tf.Tensor, *, share: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
  """Draws CutMix's box int32 [4], (top, left, bottom, right), of relative area 1 - share before clipping."""
  sides = tf.stack([height, width])
  centre = tf.random.stateless_uniform([2], seed)
  half = tf.cast(tf.sqrt(1 - share) * tf.cast(sides, tf.float32), tf.int32) // 2
  middle = tf.cast(centre * tf.cast(sides, tf.float32), tf.int32)
  return tf.concat([tf.maximum(middle - half, 0), tf.minimum(middle + half, sides)], 0)


def inside(boxes: tf.Tensor, *, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
  """Returns bool [..., H, W]: the pixels inside boxes int32 [..., 4] of (top, left, bottom, right)."""
  top, left, bottom, right = (boxes[..., at, None, None] for at in range(4))
  rows, columns = tf.range(height)[:, None], tf.range(width)[None, :]
  return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def _with_labels(batch: Batch, image: tf.Tensor, partner: tf.Tensor, weight: tf.Tensor) -> Batch:
  rows = tf.shape(batch["label"])[0]
  label_b = tf.gather(batch["label"], partner)
  return {**batch, "image": image, "label_b": label_b, "weight": tf.fill([rows], weight)}
