"""A backbone, the tasks that it answers through separate heads, and the scores along a path of weights.

The backbone is compiled once for all tasks, and each head adds one small program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl import curvature, losses
from jaxtl import data as data_lib
from jaxtl import weights as weights_lib
from jaxtl.config import Spec
from jaxtl.errors import NonFiniteError
from jaxtl.measure.passes import FORWARD, GRADIENT, PassCounter
from jaxtl.metrics import Mean, in_top
from jaxtl.studies.patching.backbone import Backbone
from jaxtl.studies.patching.frozen_heads import HeadInputs, no_images
from jaxtl.studies.patching.settings import PatchTask
from jaxtl.train import compiled, sharding
from jaxtl.train.batch_stats import reestimated
from jaxtl.train.evaluate import collect_features, evaluate
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.train.step import shapes_of
from jaxtl.types import Array, Batch, Model, Params

HostBatch = Mapping[str, np.ndarray]
Scores = dict[str, float]
# Maximum bytes of cached images, over all tasks; they are cached because every alpha reads them again.
MEMORY = 4 << 30
# Maximum bytes of training batches cached in addition, for estimating statistics at the next alpha.
MEMORY_FOR_STATISTICS = MEMORY // 8


class Tasks:
  """The tasks of a study, their heads and images, and the scores of any weights on them.

  The backbone is compiled once for all tasks; only the head is specific to a task.
  """

  def __init__(
    self, tasks: Mapping[str, PatchTask], backbone: Backbone, runtime: Runtime, *, head: Spec, seed: int
  ):
    self.backbone, self.runtime = backbone, runtime
    self._tasks, self._head, self._seed = tasks, head, seed
    self._heads: dict[str, Params] = {}
    self._left = MEMORY
    self.meter = PassCounter(runtime)
    self._batches: dict[tuple[str, str], list[HostBatch]] = {}
    self._statistics_batches: tuple[Any, list[HostBatch]] = (None, [])

  def classes(self, name: str) -> tuple[str, ...]:
    classes: tuple[str, ...] = self.runtime.open(self._tasks[name].test).classes
    return classes

  def head(self, name: str) -> Params:
    """Returns the frozen head of a task, which is made once."""
    if name not in self._heads:
      task = self._tasks[name]
      around = HeadInputs(
        name=name,
        start=self.backbone.start,
        head=self.backbone.head,
        classes=self.classes(name),
        features=functools.partial(self._features, name),
        seed=self._seed,
        beat=self.runtime.beat,
        has_images=task.train is not None,
        note=self.runtime.progress.note,
      )
      made = (task.head or self._head).realize()(around)
      self._heads[name] = jax.tree.map(np.asarray, made)
      self._check_head(name, self._heads[name])
    return self._heads[name]

  def scores(self, name: str, part: str, weights: Params) -> Scores:
    """Returns mean cross-entropy and top-1 accuracy: {"loss", "top1"}.

    Args:
      name: name of the task.
      part: "validation" or "test".
      weights: {"params", "batch_stats"} of a backbone, and "heads" {task: head} that replace frozen ones.

    Raises:
      NonFiniteError: the loss is not finite.
    """
    mesh = self.runtime.mesh
    head = sharding.put_replicated(weights.get("heads", {}).get(name, self.head(name)), mesh)
    params, stats = (sharding.put_replicated(weights[key], mesh) for key in ("params", "batch_stats"))
    hidden, measure = _hidden(self.backbone.model(0)), _measure(self._model(name))

    def measured(params: Params, batch_stats: Params, batch: Batch) -> dict[str, Mean]:
      return measure(head, hidden(params, batch_stats, batch["image"]), batch)

    batches = self.meter.watch(self._images(name, part), cost=FORWARD, what=f"{name} {part}")
    found = evaluate(measured, params, stats, batches, mesh=mesh)
    if not np.isfinite(found["loss"]):
      raise NonFiniteError(f"the {part} loss of {name!r} is {found['loss']}")
    return found

  def gradient(self, name: str, body: Params, batch_stats: Params) -> Params:
    """Returns the gradient of the mean validation loss by the backbone, over the whole split."""
    loss_fn = _summed(self._model(name))
    return curvature.gradient_over_batches(loss_fn, self._inputs(name, batch_stats))(body)[1]

  def fisher_diagonal(self, name: str, weights: Params, *, num_examples: int) -> Params:
    """Returns the diagonal of the backbone's Fisher information on some validation images of a task."""
    drawn = data_lib.subset(
      source=self.runtime.open(self._tasks[name].validation), num_examples=num_examples, seed=self._seed
    )
    few = max(jax.device_count(), 8)  # memory holds as many copies of the weights
    data = dataclasses.replace(self._tasks[name].validation, batch_size=few)
    put = functools.partial(sharding.put_replicated, mesh=self.runtime.mesh)
    extra = {"head": put(self.head(name)), "batch_stats": put(weights["batch_stats"])}
    batches = (
      {**sharding.put_batch(batch, self.runtime.mesh), **extra}
      for batch in self.meter.watch(self.runtime.eval_batches_of(drawn, data), cost=GRADIENT, what=name)
    )
    predict, key = _logits(self._model(name)), jax.random.key(self._seed)
    return jax.device_get(curvature.fisher_diagonal(predict, put(weights["params"]), batches, key))

  def statistics(self, names: Sequence[str], num_batches: int, body: Params, batch_stats: Params) -> Params:
    """Estimates normalisation statistics from training images of the tasks in turn, not augmented."""
    batches = self._batches_for_statistics(names, num_batches)
    images = (batch["image"] for batch in self.meter.watch(batches, cost=FORWARD, what="statistics"))
    return reestimated(self.backbone.model(0), body, batch_stats, images, mesh=self.runtime.mesh)

  def _batches_for_statistics(self, names: Sequence[str], num_batches: int) -> Iterator[HostBatch]:
    """Yields training batches of the tasks in turn; caches the last ones read for the next alpha."""
    key = (*names, num_batches)
    if self._statistics_batches[0] == key:
      yield from self.runtime.moving(self._statistics_batches[1])
      return
    plain = [self._plain(name) for name in names]
    feeds = [self.runtime.train_batches(data, seed=self._seed, start_step=0) for data in plain]
    drawn = (next(feeds[number % len(feeds)]) for number in range(num_batches))
    read: list[HostBatch] = []
    for batch in self.runtime.moving(drawn):
      if (len(read) + 1) * batch["image"].nbytes <= MEMORY_FOR_STATISTICS:
        read.append(batch)
      yield batch
    if len(read) == num_batches:
      self._statistics_batches = (key, read)

  def _inputs(self, name: str, batch_stats: Params) -> Callable[[], Iterator[Any]]:
    extra = {"head": sharding.put_replicated(self.head(name), self.runtime.mesh), "batch_stats": batch_stats}

    def batches() -> Iterator[Any]:
      for batch in self.meter.watch(self._images(name, "validation"), cost=GRADIENT, what="gradient"):
        yield {**sharding.put_batch(batch, self.runtime.mesh), **extra}

    return batches

  def _images(self, name: str, part: str) -> Iterable[HostBatch]:
    """Returns one exact pass over the images of a part, cached in memory if they fit."""
    if (name, part) not in self._batches:
      data: Data = getattr(self._tasks[name], part)
      batches = self.runtime.eval_batches(data)
      size = len(self.runtime.open(data)) * self.backbone.side**2 * 3 * 4
      if size > self._left:
        return batches
      self._left -= size
      self._batches[name, part] = list(batches)
    return self.runtime.moving(self._batches[name, part])

  def _plain(self, name: str) -> Data:
    """Returns the training images with the test transforms, not augmented."""
    task = self._tasks[name]
    if task.train is None:
      raise no_images(name)
    return dataclasses.replace(task.train, transforms=task.test.transforms, batch_transforms=())

  def _features(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    mesh, backbone = self.runtime.mesh, self.backbone
    params, stats = (sharding.put_replicated(x, mesh) for x in (backbone.params, backbone.batch_stats))
    hidden, pool = _hidden(backbone.model(0)), _pooled(backbone.model(0))
    batches = self.meter.watch(self.runtime.eval_batches(self._plain(name)), cost=FORWARD, what=name)
    return collect_features(lambda *given: pool(hidden(*given)), params, stats, batches, mesh=mesh)

  def _model(self, name: str) -> Model:
    return self.backbone.model(len(self.classes(name)))

  def _check_head(self, name: str, head: Params) -> None:
    wanted = shapes_of(self._model(name), (self.backbone.side, self.backbone.side, 3))["params"]
    weights_lib.match({self.backbone.head: head}, {self.backbone.head: wanted[self.backbone.head]})


@compiled.kept
def _hidden(model: Model) -> Callable[[Params, Params, Array], Array]:
  """Returns (backbone, batch_stats, images) -> input of the head; one program for all tasks."""
  return jax.jit(lambda params, stats, images: model.prefix(params, stats, images, stop=model.head))


@compiled.kept
def _measure(model: Model) -> Callable[[Params, Array, Batch], dict[str, Mean]]:
  def measure(head: Params, hidden: Array, batch: Batch) -> dict[str, Mean]:
    logits = model.suffix({model.head: head}, {}, hidden, start=model.head)["logits"]
    labels, mask = batch["label"], batch["mask"]
    return {
      "loss": Mean.of(losses.softmax_cross_entropy(logits, labels), mask),
      "top1": Mean.of(in_top(logits, labels), mask),
    }

  return jax.jit(measure)


@compiled.kept
def _pooled(model: Model) -> Callable[[Array], Array]:
  return jax.jit(lambda hidden: model.suffix({}, {}, hidden, start=model.head)["pooled"])


@compiled.kept
def _summed(model: Model) -> Callable[[Params, Batch], tuple[Array, Array]]:
  """Returns (backbone, batch with its head) -> (sum of the cross-entropies, their number)."""

  def loss_fn(body: Params, batch: Batch) -> tuple[Array, Array]:
    logits, mask = _logits(model)(body, batch)
    mean = Mean.of(losses.softmax_cross_entropy(logits, batch["label"]), mask)
    return mean.total, mean.weight

  return loss_fn


@compiled.kept
def _logits(model: Model) -> Callable[[Params, Batch], tuple[Array, Array]]:
  """Returns (backbone, batch with its head) -> (logits [B, K], mask [B])."""

  def logits(body: Params, batch: Batch) -> tuple[Array, Array]:
    params = {**body, model.head: batch["head"]}
    return model.apply(params, batch["batch_stats"], batch["image"])[0]["logits"], batch["mask"]

  return logits
