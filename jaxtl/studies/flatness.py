"""Flatness: the largest curvature of the loss at a checkpoint, on a fixed set of images."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import curvature, losses, optim
from jaxtl import data as data_lib
from jaxtl.metrics import Mean
from jaxtl.train import checkpoint, sharding
from jaxtl.train.experiment import Program, make_model
from jaxtl.train.loop import Observer
from jaxtl.train.processes import remember
from jaxtl.train.runtime import Data, Runtime
from jaxtl.train.step import TrainState
from jaxtl.types import Array, Batch, Model, Params

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Flatness:
  """The largest eigenvalue of the Hessian of the mean cross-entropy, by power iteration.

  The largest in the algebraic sense: where a negative one is larger in magnitude, the iteration is shifted.

  Curvatures of different losses cannot be compared; the cross-entropy's can, whatever a weight was trained
  with. Normalisation uses the stored statistics, and images are not augmented.

  Attributes:
    data: images to measure on, with evaluation transforms; batches are streamed.
    num_examples: how many, drawn evenly over the classes.
    seed: of the draw, and of the first vector.
    num_iters: most Hessian products.
    tolerance: relative residual |Hv - lambda v| / |lambda| to stop at. The eigenvalue's own relative error
      is far smaller: it is quadratic in the residual over the gap to the next eigenvalue.
  """

  data: Data
  num_examples: int = 512
  seed: int = 0
  num_iters: int = 60
  tolerance: float = 1e-2

  def __post_init__(self) -> None:
    config_lib.require(
      num_examples=(self.num_examples, self.num_examples >= 1, "at least 1"),
      num_iters=(self.num_iters, self.num_iters >= 1, "at least 1"),
      tolerance=(self.tolerance, self.tolerance > 0, "a number above 0"),
    )


@dataclasses.dataclass(frozen=True)
class FlatnessOf:
  """The study: one checkpoint per arm.

  Attributes:
    start: the checkpoint, a run's folder.
    flatness: how to measure.
  """

  start: str
  flatness: Flatness


def rows(study: FlatnessOf, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """One row: the curvature at the checkpoint; `seed` draws another subset."""
  trained = checkpoint.load(study.start)
  model = make_model(trained.model_spec(trust=runtime.trust), num_classes=len(trained.classes))
  flatness = dataclasses.replace(study.flatness, seed=study.flatness.seed + seed)
  yield remember(
    workdir / "flatness.json",
    lambda: {"kind": "flatness"} | measure(flatness, model, trained.params, trained.batch_stats, runtime),
  )


def measure(
  flatness: Flatness, model: Model, params: Params, batch_stats: Params, runtime: Runtime
) -> dict[str, Any]:
  """lambda_max with its residual, on the device mesh of `runtime`.

  Returns:
    `lambda_max`, `residual`, `num_products`, `converged`, `num_examples`, `seconds`.
  """
  began = time.monotonic()
  batches = [dict(sharding.put_batch(batch, runtime.mesh)) for batch in _subset(flatness, runtime)]
  params = sharding.put_replicated(params, runtime.mesh)
  batch_stats = sharding.put_replicated(batch_stats, runtime.mesh)

  matvec = curvature.hvp_over_batches(
    _summed_cross_entropy(model),
    params,
    lambda: runtime.moving([{**b, "batch_stats": batch_stats} for b in batches]),
  )
  pair = curvature.top_algebraic_eigenpair(
    matvec,
    params,
    jax.random.key(flatness.seed),
    num_iters=flatness.num_iters,
    tolerance=flatness.tolerance,
  )
  return {
    "lambda_max": float(pair.value),
    "residual": float(pair.residual),
    "num_products": int(pair.num_products),
    "converged": bool(pair.converged),
    "num_examples": int(sum(float(jnp.sum(b["mask"])) for b in batches)),
    "seconds": time.monotonic() - began,
  }


def observer(flatness: Flatness, runtime: Runtime) -> Callable[[Program], Observer]:
  """Measures during training, as `flatness/*` in the metrics."""
  _subset(flatness, runtime)  # a source that gives no subset shows now, and not at the first checkpoint

  def make(program: Program) -> Observer:
    def observe(state: TrainState) -> dict[str, float]:
      params = optim.averaged(state.opt_state, state.params)
      found = measure(flatness, program.model, params, state.batch_stats, runtime)
      return {f"flatness/{name}": float(value) for name, value in found.items()}

    return observe

  return make


@functools.cache
def _summed_cross_entropy(model: Model) -> Callable[[Params, Batch], tuple[Array, Array]]:
  """(params, batch) -> (sum over the examples, their number); one function per model, compiled once."""

  def loss_fn(params: Params, batch: Batch) -> tuple[Array, Array]:
    features, _ = model.apply(params, batch["batch_stats"], batch["image"])
    mean = Mean.of(losses.softmax_cross_entropy(features["logits"], batch["label"]), batch["mask"])
    return mean.total, mean.weight

  return loss_fn


def _subset(flatness: Flatness, runtime: Runtime) -> Iterable[Mapping[str, np.ndarray]]:
  data = flatness.data
  chosen = data_lib.subset(source=runtime.open(data), num_examples=flatness.num_examples, seed=flatness.seed)
  return runtime.eval_batches_of(chosen, data)
