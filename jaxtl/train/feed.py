"""What a training step reads: the batch, and beside it what its gradient rule asks for.

All of it is a function of (seed, step), so that a resumed run reads what an uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxtl import optim
from jaxtl.train import sharding
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import GradientRule

NumpyBatch = Mapping[str, Any]
# The weak batch's order and noise are those of another run: seeds of runs are far below this.
WEAK = 2**32


class BatchStream(Protocol):
  """Batches from any step on, of a training order and of single draws: what a kept prefix gives."""

  def train_batches(self, *, batch_size: int, seed: int, start_step: int) -> Iterator[NumpyBatch]: ...

  def resampled_batches(self, *, batch_size: int, seed: int, start_step: int) -> Iterator[NumpyBatch]: ...


def batches(
  data: Data,
  gradient: GradientRule,
  runtime: Runtime,
  *,
  seed: int,
  start_step: int,
  kept: BatchStream | None = None,
) -> Iterator[NumpyBatch]:
  """The endless stream of what the steps read, from any step on.

  Args:
    data: what to train on.
    gradient: the rule, which may want a weak batch of its own size beside each.
    seed: of the run.
    kept: reads hidden states instead of making images.
  """
  size = data.batch_size
  rows = optim.weak_rows(gradient, size)
  beside: Iterator[NumpyBatch]
  if kept is not None:
    stream = kept.train_batches(batch_size=size, seed=seed, start_step=start_step)
  else:
    stream = runtime.train_batches(data, seed=seed, start_step=start_step)
  if not rows:
    return stream
  if kept is not None:
    beside = kept.resampled_batches(batch_size=rows, seed=seed + WEAK, start_step=start_step)
  else:
    beside = runtime.resampled_batches(data, batch_size=rows, seed=seed + WEAK, start_step=start_step)
  return ({**batch, "weak": weak} for batch, weak in zip(stream, beside, strict=False))


def shapes(
  gradient: GradientRule,
  *,
  batch_size: int,
  image_size: int,
  hidden: jax.ShapeDtypeStruct | None = None,
  where: Any = None,
) -> Any:
  """What one step reads, as shapes.

  Args:
    gradient: the rule.
    batch_size: the global one.
    image_size: side of the images in pixels.
    hidden: one hidden state [1, ...], where such are kept instead of images.
    where: the arrays' sharding.
  """

  def of(rows: int) -> dict[str, Any]:
    shown = ((image_size, image_size, 3), jnp.float32) if hidden is None else (hidden.shape[1:], hidden.dtype)
    parts = {
      "image" if hidden is None else "hidden": shown,
      "label": ((), jnp.int32),
      "mask": ((), jnp.bool_),
    }
    return {
      name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=where)
      for name, (shape, dtype) in parts.items()
    }

  rows = optim.weak_rows(gradient, batch_size)
  return {**of(batch_size), "weak": of(rows)} if rows else of(batch_size)


def check(gradient: GradientRule, batch_size: int, mesh: Any) -> None:
  """Refuses a weak batch that does not split evenly over the devices."""
  rows = optim.weak_rows(gradient, batch_size)
  if rows:
    sharding.check_batch_size(rows, mesh, at="gradient.weak_batch_size")
