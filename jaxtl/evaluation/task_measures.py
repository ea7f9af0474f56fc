"""Evaluation of a checkpoint of any task: its measures, and its loss on every example, in one pass."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl import data as data_lib
from jaxtl import metrics
from jaxtl.errors import DataError, NonFiniteError
from jaxtl.evaluation.evaluate import batches_of, observations
from jaxtl.measure.losses import training_loss
from jaxtl.measure.prepared import Prepared
from jaxtl.tasks import Task
from jaxtl.train import sharding
from jaxtl.train.experiment import check_source_targets, check_target_shapes
from jaxtl.train.image_size import fitted
from jaxtl.train.runtime import Runtime
from jaxtl.types import Batch, Model, Params


@dataclasses.dataclass(frozen=True, eq=False)
class TaskEvaluation:
  """The result of an evaluation by the measures of a task.

  Attributes:
    plan, source: the checkpoint and its data.
    rows: int64 [N] indices of the readable examples in the source, from 0.
    losses: float32 [N] their training losses.
    scores: the numbers by name: the mean `loss`, the measures of the task, and the speed of the pass.
    num_unreadable: number of images that were skipped.
  """

  plan: Prepared
  source: Any
  rows: np.ndarray
  losses: np.ndarray
  scores: dict[str, float]
  num_unreadable: int


def evaluate_task(
  plan: Prepared, source: Any, *, batch_size: int, runtime: Runtime, bad_records: data_lib.BadRecords
) -> TaskEvaluation:
  """Measures a checkpoint on every example of a source, as its task measures in training.

  Args:
    plan: the checkpoint and its preprocessing.
    source: the data, with the targets that the task reads.
    batch_size: images per batch, over all devices and processes.
    runtime: the devices and the status line.
    bad_records: the budget of unreadable images.

  Raises:
    DataError: a target is missing, the images do not have the size that the model needs, or none can be read.
    ConfigError: the batch does not split over the devices, or the model refuses the images' size.
    NonFiniteError: the loss of an example is not finite.
  """
  sharding.check_batch_size(batch_size, runtime.mesh, at="--batch-size")
  model, params = fitted(plan.model, plan.weights, plan.image_shape[0])
  task = plan.task.realize(num_classes=len(plan.weights.classes))
  check_source_targets(source, task, plan.task.path)
  batches = batches_of(plan, source, batch_size=batch_size, bad_records=bad_records)
  observe = make_task_observe(model, task, runtime.mesh)
  first = next(batches)
  check_target_shapes(first, task, name=source.name)
  batches = itertools.chain([first], batches)
  parts, seconds = observations(
    observe, params, plan.weights.batch_stats, batches, runtime, total=len(source)
  )
  mask = np.concatenate([part["mask"] for part in parts])
  losses = np.concatenate([part["loss"] for part in parts])[mask]
  if not len(losses):
    raise DataError(f"{source.name}: no image can be read")
  if wrong := int(np.sum(~np.isfinite(losses))):
    raise NonFiniteError(f"{plan.weights.path} has no finite loss for {wrong} of {len(losses)} images")
  scores = {
    "loss": float(np.mean(losses, dtype=np.float64)),
    **metrics.compute(functools.reduce(metrics.merge, (part["means"] for part in parts))),
    "seconds": seconds,
    "images_per_second": len(losses) / seconds,
  }
  return TaskEvaluation(plan, source, np.flatnonzero(mask), losses, scores, len(bad_records))


def make_task_observe(
  model: Model, task: Task, mesh: Any
) -> Callable[[Params, Params, Batch], Mapping[str, Any]]:
  """Returns the jitted function (params, batch_stats, batch) -> {mask [B], loss [B], means}.

  `means` holds the sums and weights of the task's measures over the batch.
  """
  measure, loss = task.measure(model), training_loss(task)

  def observe(params: Params, batch_stats: Params, batch: Batch) -> dict[str, Any]:
    features, _ = model.apply(params, batch_stats, batch["image"])
    means = measure(params, batch_stats, batch)
    return {"mask": batch["mask"], "loss": loss(features, batch), "means": dict(means)}

  return jax.jit(observe, out_shardings=sharding.replicated(mesh))
