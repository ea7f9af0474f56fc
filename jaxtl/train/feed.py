"""The input of a training step: the batch, and the additional batch that its gradient rule asks for.

All input is a function of (seed, step), so that a resumed run reads the same as an uninterrupted one.
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
# Added to the seed for the weak batch, so that its order and noise are those of another run; the seeds of
# runs are far below this.
WEAK = 2**32


class BatchStream(Protocol):
  """Streams of batches from any step on, in training order or resampled, as a cached prefix provides them."""

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
  """Returns the endless stream of the inputs of steps, from any step on.

  Args:
    data: what to train on.
    gradient: the rule, which may ask for a weak batch of another size with each batch.
    seed: of the run.
    kept: provides cached hidden states instead of images.
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
  inputs: Mapping[str, tuple[tuple[int, ...], Any]],
  *,
  batch_size: int,
  hidden: jax.ShapeDtypeStruct | None = None,
  where: Any = None,
) -> Any:
  """Returns the input of one step as shapes.

  Args:
    gradient: the rule.
    inputs: what the task needs: name -> (shape of one example, dtype); see `Task.inputs`.
    batch_size: the global batch size.
    hidden: one hidden state [1, ...], if hidden states are cached in place of images.
    where: the arrays' sharding.
  """

  def of(rows: int) -> dict[str, Any]:
    parts = {**inputs, "mask": ((), jnp.bool_)}
    if hidden is not None:
      del parts["image"]
      parts["hidden"] = hidden.shape[1:], hidden.dtype
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
