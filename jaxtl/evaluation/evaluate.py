"""A full evaluation of a checkpoint: one pass over a data set, with a result for every example.

The pass stores a few numbers per example and no logits. The images that the page shows are read again.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import data as data_lib
from jaxtl import losses, metrics
from jaxtl.errors import DataError, InputError, NonFiniteError
from jaxtl.evaluation.label_map import LabelMap
from jaxtl.measure.prepared import Prepared
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train import sharding
from jaxtl.train.image_size import fitted
from jaxtl.train.runtime import Runtime
from jaxtl.types import Array, Batch, Model, Params

Observe = Callable[[Params, Params, Batch], Mapping[str, Any]]
_TOP = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """The results of each readable example, in the order of the source.

  Attributes:
    row: int64 [N] index in the source, from 0.
    label, predicted: int32 [N] classes of the data. They are equal where `top1` is true: among classes with
      equal scores, a wrong one counts as predicted.
    top1, top5, top1_all: bool [N], the true class is the first or among the first five of the data's classes,
      and the first of all of the model's.
    confidence: float32 [N] the highest probability, from 0 to 1.
    loss, cross_entropy: float32 [N], the training loss and, in nats, the cross-entropy.
  """

  row: np.ndarray
  label: np.ndarray
  predicted: np.ndarray
  top1: np.ndarray
  top5: np.ndarray
  top1_all: np.ndarray
  confidence: np.ndarray
  loss: np.ndarray
  cross_entropy: np.ndarray

  def __len__(self) -> int:
    return len(self.row)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """The result of an evaluation.

  Attributes:
    plan, labels, source: the checkpoint, its class mapping and its data.
    examples: the results of each example.
    scores: the numbers by name; see `scores_of`.
    num_unreadable: number of images that were skipped.
  """

  plan: Prepared
  labels: LabelMap
  source: Any
  examples: Examples
  scores: dict[str, float]
  num_unreadable: int

  @property
  def confusion(self) -> np.ndarray:
    """int64 [K, K] counts, with true classes in the rows."""
    return metrics.confusion_matrix(
      self.examples.label, self.examples.predicted, num_classes=len(self.labels.classes)
    )


def evaluate(
  plan: Prepared,
  source: Any,
  labels: LabelMap,
  *,
  batch_size: int,
  runtime: Runtime,
  bad_records: data_lib.BadRecords,
) -> Evaluation:
  """Measures a checkpoint on every example of a source.

  Args:
    plan: the checkpoint and its preprocessing.
    source: the data.
    labels: its classes among the model's.
    batch_size: images per batch, over all devices and processes.
    runtime: the devices and the status line.
    bad_records: the budget of unreadable images.

  Raises:
    DataError: the images do not have the size that the model needs, or none can be read.
    ConfigError: the batch does not split over the devices, or the model refuses the images' size.
    NonFiniteError: a logit is not finite.
  """
  sharding.check_batch_size(batch_size, runtime.mesh, at="--batch-size")
  model, params = fitted(plan.model, plan.weights, plan.image_shape[0])
  batch_stats = plan.weights.batch_stats
  task = plan.task.realize(num_classes=len(labels.classes))
  if task.loss is None:
    raise InputError(
      f"{plan.weights.path} was trained on {plan.task.path}, which is not a classification; use evaluate_task"
    )
  observe = make_observe(model, task.loss, labels, mesh=runtime.mesh)
  batches = batches_of(plan, source, batch_size=batch_size, bad_records=bad_records)
  examples, seconds = _one_pass(observe, params, batch_stats, batches, runtime, total=len(source))
  if not len(examples):
    raise DataError(f"{source.name}: no image can be read")
  wrong = int(np.sum(~np.isfinite(examples.confidence)))
  if wrong:
    raise NonFiniteError(f"{plan.weights.path} has no finite logits for {wrong} of {len(examples)} images")
  scores = scores_of(examples, labels) | {"seconds": seconds, "images_per_second": len(examples) / seconds}
  return Evaluation(plan, labels, source, examples, scores, len(bad_records))


def batches_of(
  plan: Prepared, source: Any, *, batch_size: int, bad_records: data_lib.BadRecords
) -> Iterator[Mapping[str, np.ndarray]]:
  """Yields this process's batches of one pass; raises DataError if their images have another size."""
  batches = data_lib.eval_batches(
    source,
    [spec.realize() for spec in plan.transforms],
    batch_size=batch_size,
    shard=(jax.process_index(), jax.process_count()),
    bad_records=bad_records,
  )
  return _checked(batches, plan, source.name)


def make_observe(model: Model, loss: PerExampleLoss, labels: LabelMap, *, mesh: Any) -> Observe:
  """Returns the jitted function (params, batch_stats, batch) -> arrays [B].

  The arrays are named as in `Examples`; the mask is one of them. The arrays of the whole batch are on every
  device, so that every process can read them.
  """
  columns = np.asarray(labels.columns, np.int32)

  def observe(params: Params, batch_stats: Params, batch: Batch) -> dict[str, Array]:
    features, _ = model.apply(params, batch_stats, batch["image"])
    label, all_logits = batch["label"], features["logits"]
    logits = all_logits[:, columns] if labels.restricted else all_logits
    top1 = metrics.in_top(logits, label)
    # Unless the true class is ahead of all others, it is not the predicted one either.
    own = jnp.arange(logits.shape[-1])[None, :] == label[:, None]
    others = jnp.where(own & (top1 == 0)[:, None], -jnp.inf, logits)
    return {
      "mask": batch["mask"],
      "label": label,
      "predicted": jnp.argmax(others, axis=-1),
      "top1": top1 > 0,
      "top5": metrics.in_top(logits, label, k=_TOP) > 0,
      "top1_all": metrics.in_top(all_logits, jnp.asarray(columns)[label]) > 0,
      "confidence": jnp.max(jax.nn.softmax(logits), axis=-1),
      "loss": loss(logits, label),
      "cross_entropy": losses.softmax_cross_entropy(logits, label),
    }

  return jax.jit(observe, out_shardings=sharding.replicated(mesh))


def scores_of(examples: Examples, labels: LabelMap) -> dict[str, float]:
  """Averages over the examples.

  Returns:
    `top1`; `top5` if there are more than five classes; `top1_all`, among all of the model's classes, if the
    scores are restricted to the data's; `balanced_accuracy`, the mean over classes of top-1; `loss`, the
    training loss; `cross_entropy` in nats; `ece`, the expected calibration error in 15 bins.
  """
  confusion = metrics.confusion_matrix(examples.label, examples.predicted, num_classes=len(labels.classes))
  found = {"top1": _mean(examples.top1)}
  if len(labels.classes) > _TOP:
    found["top5"] = _mean(examples.top5)
  if labels.restricted:
    found["top1_all"] = _mean(examples.top1_all)
  return found | {
    "balanced_accuracy": metrics.balanced_accuracy(confusion),
    "loss": _mean(examples.loss),
    "cross_entropy": _mean(examples.cross_entropy),
    "ece": metrics.expected_calibration_error(examples.confidence, examples.top1),
  }


def _mean(values: np.ndarray) -> float:
  return float(np.mean(values, dtype=np.float64))


def _one_pass(
  observe: Observe,
  params: Params,
  batch_stats: Params,
  batches: Iterable[Mapping[str, np.ndarray]],
  runtime: Runtime,
  *,
  total: int,
) -> tuple[Examples, float]:
  """Returns the unmasked examples, and the seconds of the pass without compilation."""
  parts, seconds = observations(observe, params, batch_stats, batches, runtime, total=total)
  columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
  mask = columns.pop("mask")
  kept = {key: values[mask] for key, values in columns.items()}
  return Examples(row=np.flatnonzero(mask), **kept), seconds


def observations(
  observe: Observe,
  params: Params,
  batch_stats: Params,
  batches: Iterable[Mapping[str, np.ndarray]],
  runtime: Runtime,
  *,
  total: int,
) -> tuple[list[dict[str, Any]], float]:
  """Returns what `observe` computes for every batch, and the seconds of the pass without compilation.

  Args:
    observe: (params, batch_stats, batch) -> a tree of arrays that every process can read.
    params, batch_stats: the network.
    batches: at least one batch.
    runtime: the devices and the status line.
    total: number of images, for the status line.
  """
  params = sharding.put_replicated(params, runtime.mesh)
  batch_stats = sharding.put_replicated(batch_stats, runtime.mesh)
  feed = iter(batches)
  first = next(feed)
  jax.block_until_ready(observe(params, batch_stats, sharding.put_batch(first, runtime.mesh)))
  parts: list[dict[str, Any]] = []
  running: Mapping[str, Any] | None = None
  start = time.perf_counter()
  runtime.progress.title = "evaluate"
  runtime.progress.expect(total)
  for batch in _timed(itertools.chain([first], feed), runtime, total=total, start=start):
    # Read one batch late: the host reads the last batch's numbers while the devices compute this one.
    ahead, running = running, observe(params, batch_stats, sharding.put_batch(batch, runtime.mesh))
    if ahead is not None:
      parts.append(jax.device_get(ahead))
  parts.append(jax.device_get(running))
  seconds = time.perf_counter() - start
  runtime.progress.close()
  return parts, seconds


def _timed(
  batches: Iterator[Mapping[str, np.ndarray]], runtime: Runtime, *, total: int, start: float
) -> Iterator[Mapping[str, np.ndarray]]:
  """Yields the same batches, and updates the status line."""
  waited, done, told, asked = 0.0, 0, 0, time.perf_counter()
  for batch in batches:
    now = time.perf_counter()
    waited += now - asked
    yield batch
    asked = time.perf_counter()
    done = min(done + len(batch["mask"]) * jax.process_count(), total)
    elapsed = asked - start
    if elapsed > 1:  # before that, only the start has been timed
      speed = dict(images_per_second=done / elapsed, waiting=waited / elapsed)
      runtime.progress.advance(done - told, f"image {done} of {total}", **speed)
      told = done


def _checked(
  batches: Iterable[Mapping[str, np.ndarray]], plan: Prepared, name: str
) -> Iterator[Mapping[str, np.ndarray]]:
  """Yields the same batches; raises DataError if their image size differs from that of the plan."""
  for batch in batches:
    shape, (height, width) = batch["image"].shape[1:3], plan.image_shape
    if shape != (height, width):
      advice = f"; write --image-size {height}" if height == width else ""
      raise DataError(
        f"{name} gives images of {shape[0]} x {shape[1]}, and the checkpoint's preprocessing does not resize "
        f"them to its {height} x {width}{advice}"
      )
    yield batch


def images_at(plan: Prepared, source: Any, rows: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the images of some source rows, in that order, as the network sees them: float32 [H, W, 3]."""
  transforms = [spec.realize() for spec in plan.transforms]
  size = min(max(len(rows), 1), 64)
  if hasattr(source, "take"):
    batches = data_lib.eval_batches(source.take(rows), transforms, batch_size=size)
    yield from (image for batch in batches for image in batch["image"][batch["mask"]])
    return
  # A stream of records has no random access; it is read again up to the last wanted row.
  wanted = set(map(int, rows))
  found: dict[int, np.ndarray] = {}
  for number, batch in enumerate(data_lib.eval_batches(source, transforms, batch_size=64)):
    found |= {row: batch["image"][row - 64 * number] for row in wanted if row // 64 == number}
    if len(found) == len(wanted):
      break
  yield from (found[int(row)] for row in rows)
