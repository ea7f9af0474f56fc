"""One exact pass over a data set: sums on the device, divided once at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl import metrics
from jaxtl.host.processes import whole
from jaxtl.metrics import Mean
from jaxtl.train import compiled
from jaxtl.train.sharding import put_batch
from jaxtl.types import Array, Batch, Model, Params


def evaluate(
  measure: Callable[[Params, Params, Batch], Mapping[str, Mean]],
  params: Params,
  batch_stats: Params,
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  mesh: Any,
) -> dict[str, float]:
  """Computes the measures over all unmasked rows of `batches`.

  Args:
    measure: a jitted (params, batch_stats, batch) -> {name: Mean}.
    batches: this process's share, with the same number of batches on every process.
  """
  total: Mapping[str, Mean] | None = None
  for batch in batches:
    part = measure(params, batch_stats, put_batch(batch, mesh))
    # Waits one batch late: the devices always have work, and progress counts only batches that are done.
    jax.block_until_ready(total)
    total = part if total is None else metrics.merge(total, part)
  return metrics.compute(total or {})


@compiled.kept
def make_features(model: Model) -> Callable[[Params, Params, Array], Array]:
  """Jits (params, batch_stats, image) -> pooled features [B, D], computed with the stored statistics."""
  return jax.jit(lambda params, batch_stats, image: model.apply(params, batch_stats, image)[0]["pooled"])


@compiled.kept
def make_logits(model: Model) -> Callable[[Params, Params, Array], Array]:
  """Jits (params, batch_stats, image) -> logits [B, K], computed with the stored statistics."""
  return jax.jit(lambda params, batch_stats, image: model.apply(params, batch_stats, image)[0]["logits"])


def collect_features(
  features: Callable[[Params, Params, Array], Array],
  params: Params,
  batch_stats: Params,
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  mesh: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """Collects features float32 [N, D], or logits, and labels int32 [N] of all unmasked rows on every host."""
  rows, labels = [], []
  for batch in batches:
    there = put_batch(batch, mesh)
    mask = whole(there["mask"])
    rows.append(whole(features(params, batch_stats, there["image"]))[mask])
    labels.append(whole(there["label"])[mask])
  return np.concatenate(rows), np.concatenate(labels)
