"""Losses that compare the predictions for several versions of the same images."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtl.errors import DataError
from jaxtl.types import Array

# The mixture is clipped at this probability, as in google-research/augmix, so that no divergence explodes.
_LEAST = 1e-7


def jensen_shannon(logits: Array, *, versions: int = 3) -> Array:
  """Computes the Jensen-Shannon divergence between the predictions for the versions of each image.

  With M the mean of the versions' distributions p_v, clipped to [1e-7, 1], it is mean_v KL(p_v || M).
  Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan, "AugMix: A Simple Data Processing Method to Improve
  Robustness and Uncertainty", 2019, arXiv 1912.02781, add 12 times this to the cross-entropy of the first
  version.

  >>> import jax.numpy as jnp
  >>> sure = 100 * jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
  >>> float((12 * jensen_shannon(sure))[0].round(4))
  7.638199806213379

  Args:
    logits: [versions * B, K] class scores: all images in their first version, then all in the second, ...
    versions: number of versions of each image.

  Returns:
    float32 [B], in nats: from 0, if all versions agree, to log(versions).

  Raises:
    DataError: the number of rows is not a multiple of the number of versions.
  """
  rows = logits.shape[0]
  if rows % versions:
    raise DataError(f"jensen_shannon got {rows} rows for {versions} versions of each image; give a multiple")
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32).reshape(versions, rows // versions, -1))
  p = jnp.exp(log_p)
  log_mixture = jnp.log(jnp.clip(jnp.mean(p, axis=0, keepdims=True), _LEAST, 1.0))
  return jnp.mean(jnp.sum(p * (log_p - log_mixture), axis=-1), axis=0)
