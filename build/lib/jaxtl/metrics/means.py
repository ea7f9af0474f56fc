"""Means that stay exact over uneven batches, padding and devices: sum and weight, divided once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxtl.types import Array


class Mean(NamedTuple):
  """A weighted mean in the making."""

  total: Array
  weight: Array

  @classmethod
  def of(cls, values: Array, mask: Array) -> Mean:
    """The mean of `values` [B] where `mask` [B] is true; other rows may hold anything, NaN included."""
    values = jnp.where(mask, values.astype(jnp.float32), 0)
    return cls(jnp.sum(values), jnp.sum(mask, dtype=jnp.float32))


def merge(a: Mapping[str, Mean], b: Mapping[str, Mean]) -> dict[str, Mean]:
  """The means of both parts together."""
  return {key: Mean(a[key].total + b[key].total, a[key].weight + b[key].weight) for key in a}


def compute(means: Mapping[str, Mean]) -> dict[str, float]:
  """The numbers; a mean over nothing is NaN."""
  return {
    key: float(mean.total) / float(mean.weight) if float(mean.weight) else float("nan")
    for key, mean in means.items()
  }
