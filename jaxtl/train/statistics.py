"""Normalisation statistics of weights that no training has passed through: a merge moves every activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.train import compiled
from jaxtl.train.sharding import put_batch
from jaxtl.types import Array, Model, Params


def reestimated(
  model: Model, params: Params, batch_stats: Params, images: Iterable[np.ndarray], *, mesh: Any
) -> Params:
  """The statistics of `params` over all images together: the mean of means, and the variance around it.

  Each batch is normalised by itself while it is counted, as in training, so batches should not be small.
  Interpolated statistics are not those of interpolated weights (Izmailov et al., "Averaging Weights Leads to
  Wider Optima and Better Generalization", 2018, arXiv 1803.05407, section 3.2).

  Args:
    model, params: the network; its head may be missing.
    batch_stats: the stored statistics, for their structure; returned where the network has none.
    images: float32 [B, H, W, 3] each, of one size.
    mesh: the devices.

  Raises:
    ConfigError: there are no images, or the network keeps its statistics whatever it sees.
  """
  if not jax.tree.leaves(batch_stats):
    return batch_stats
  batch = _batch_statistics(model)
  total, count = None, 0
  for image in images:
    found = batch(params, batch_stats, put_batch({"image": image}, mesh)["image"])
    total = found if total is None else tree.add(total, found)
    count += 1
  if total is None:
    raise ConfigError("there are no images to estimate statistics from; give at least one batch")
  if tree.first_nonfinite(total):
    raise ConfigError(
      f"{model.name} keeps its statistics whatever it sees (batch_norm='stored'); write statistics_batches=0"
    )
  return _around_the_mean(tree.scale(1 / count, total))


@compiled.kept
def _batch_statistics(model: Model) -> Callable[[Params, Params, Array], Params]:
  """(params, batch_stats, images) -> mean, and mean of squares, of each normalised activation in the batch.

  A layer keeps m old + (1 - m) new, and says neither m nor the new ones; with 0 and with 1 as the old ones it
  gives both.
  """

  def moved(params: Params, old: Params, images: Array) -> Params:
    # A key for networks that draw noise: where it is before a normalisation, it is part of training, too.
    return model.apply(params, old, images, train=True, key=jax.random.key(0), stop=model.head)[1]

  @jax.jit
  def statistics(params: Params, batch_stats: Params, images: Array) -> Params:
    from_zero = moved(params, tree.zeros_like(batch_stats), images)
    from_one = moved(params, jax.tree.map(jnp.ones_like, batch_stats), images)
    found = jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), from_zero, from_one)
    return _with_means(lambda var, mean: var + mean**2, found)

  return statistics


def _around_the_mean(moments: Params) -> Params:
  return _with_means(lambda square, mean: jnp.maximum(square - mean**2, 0), moments)


def _with_means(change: Callable[[Array, Array], Array], statistics: Params) -> Params:
  """The same tree, each `var` changed by what it is and the `mean` beside it."""
  if "var" in statistics and "mean" in statistics:
    return {**statistics, "var": change(statistics["var"], statistics["mean"])}
  return {
    name: _with_means(change, part) if isinstance(part, dict) else part for name, part in statistics.items()
  }
