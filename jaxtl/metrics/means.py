"""Means that stay exact over uneven batches, padding and devices: sum and weight, divided once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxtl.types import Array


class Mean(NamedTuple):
  """A weighted mean, kept as its sum and its weight."""

  total: Array
  weight: Array

  @classmethod
  def of(cls, values: Array, mask: Array) -> Mean:
    """Takes the mean of `values` [B] where `mask` [B] is true; other rows may hold anything, even NaN."""
    values = jnp.where(mask, values.astype(jnp.float32), 0)
    return cls(jnp.sum(values), jnp.sum(mask, dtype=jnp.float32))


def merge(a: Mapping[str, Mean], b: Mapping[str, Mean]) -> dict[str, Mean]:
  """Merges the means of two parts into those of both together."""
  return {key: Mean(a[key].total + b[key].total, a[key].weight + b[key].weight) for key in a}


def compute(means: Mapping[str, Mean]) -> dict[str, float]:
  """Divides each sum by its weight; a mean over nothing is NaN."""
  return {
    key: float(mean.total) / float(mean.weight) if float(mean.weight) else float("nan")
    for key, mean in means.items()
  }
