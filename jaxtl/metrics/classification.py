"""Classification measures, one value per example."""

from __future__ import annotations

import jax.numpy as jnp

from jaxtl.types import Array


def in_top(logits: Array, labels: Array, *, k: int = 1) -> Array:
  """Returns whether the true class is among the k highest scores.

  Ties count against the model: a class is in the top k when fewer than k others score at least as high, so
  constant logits have accuracy 0 and not 1 (for k below the number of classes).

  Args:
    logits: [B, K] scores.
    labels: [B] true classes.

  Returns:
    [B] float32 of 0 and 1; 0 where the score of the true class is NaN.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  ahead = jnp.sum(logits >= own, axis=-1) - 1
  return ((ahead < k) & ~jnp.isnan(own[:, 0])).astype(jnp.float32)
