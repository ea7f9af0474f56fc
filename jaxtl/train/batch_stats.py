"""Normalisation statistics of weights that no training has passed through: merges change all activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.host.processes import whole
from jaxtl.train import compiled
from jaxtl.train.sharding import put_batch
from jaxtl.types import Array, Model, Params

# Far above any statistic, so that the part of it that a layer keeps is the momentum, to the last digit.
LARGE = 2.0**100


def reestimated(
  model: Model, params: Params, batch_stats: Params, images: Iterable[np.ndarray], *, mesh: Any
) -> Params:
  """Estimates the statistics of `params` over all images: the mean of means, and the variance around it.

  Each batch is normalised by its own statistics, as in training, so batches should not be small. Batches are
  weighted by their number of images. Interpolated statistics are not those of interpolated weights (Izmailov
  et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018, arXiv 1803.05407, section
  3.2).

  Args:
    model, params: the network; its head may be missing.
    batch_stats: the stored statistics, for their structure; returned unchanged if the network has none.
    images: float32 [B, H, W, 3] each, of one size.
    mesh: the devices.

  Raises:
    ConfigError: there are no images, or the network never updates its statistics.
  """
  if not jax.tree.leaves(batch_stats):
    return batch_stats
  moved = _moved(model)
  shares: Params | None = None
  total: Params | None = None
  count = 0
  for image in images:
    there = put_batch({"image": image}, mesh)["image"]
    if shares is None:
      shares = jax.tree.map(_share, moved(params, jax.tree.map(_filled, batch_stats), there))
      _check_shares(shares, model)
    kept = moved(params, tree.zeros_like(batch_stats), there)
    batch = jax.tree.map(lambda kept, share: whole(kept).astype(np.float64) / share, kept, shares)
    size = there.shape[0]
    total = batch if total is None else _pooled(total, batch, size / (count + size))
    count += size
  if total is None:
    raise ConfigError("there are no images to estimate statistics from; give at least one batch")
  return jax.tree.map(lambda x, like: x.astype(like.dtype), total, batch_stats)


@compiled.kept
def _moved(model: Model) -> Callable[[Params, Params, Array], Params]:
  """Returns (params, old statistics, images) -> m old + (1 - m) new; layers expose neither m nor the new."""

  def moved(params: Params, old: Params, images: Array) -> Params:
    # The key is for networks that draw noise: noise before a normalisation is part of training, too.
    return model.apply(params, old, images, train=True, key=jax.random.key(0), stop=model.head)[1]

  return jax.jit(moved)


def _filled(x: Array) -> Array:
  return jnp.full_like(x, LARGE)


def _share(kept: Array) -> float:
  """Returns the weight of the new statistics in a layer, 1 - m, from the part of `LARGE` that it kept.

  The difference from 1 magnifies the rounding of m, so m is read as the decimal that a config writes.
  """
  momentum = np.float32(whole(kept).ravel()[0] / LARGE)
  return 1.0 - float(str(momentum))


def _check_shares(shares: Params, model: Model) -> None:
  if any(share == 0 for share in jax.tree.leaves(shares)):
    raise ConfigError(
      f"{model.name} never updates its statistics (batch_norm='stored'); write statistics_batches=0"
    )


def _pooled(old: Params, new: Params, share: float) -> Params:
  """Pools the mean and variance of two sets of images; `share` is the part of the new set.

  The variance is that around the common mean. Computed as a mean of squares minus a squared mean, it would
  lose the digits that the two have in common.
  """
  if "var" in old and "mean" in old:
    apart = new["mean"] - old["mean"]
    within = (1 - share) * old["var"] + share * new["var"]
    return {
      **new,
      "mean": old["mean"] + share * apart,
      "var": within + share * (1 - share) * apart**2,
    }
  return {
    name: _pooled(part, new[name], share) if isinstance(part, dict) else part for name, part in old.items()
  }
