"""Image classification: from features to a loss to train on and measures to report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxtl import losses
from jaxtl.metrics import Mean, in_top
from jaxtl.types import Array, Aux, Batch, ExampleLoss, LossFn, Model, ModelLoss, Params

PerExampleLoss = Callable[[Array, Array], Array]
Measures = dict[str, Mean]


@dataclasses.dataclass(frozen=True)
class Task:
  """A task as functions of a model.

  Attributes:
    loss_fn: model -> LossFn, the mean loss of a batch to train on.
    measure: model -> ((params, batch_stats, batch) -> {name: Mean}), on the stored statistics.
    example_loss: (features, batch) -> [B], the values of which `loss_fn` is the mean.
    inputs: image size -> what a batch needs besides `mask`: name -> (shape of one example, dtype).
    loss: (logits [B, K], labels) -> [B] of a classification; None for other tasks.
  """

  loss_fn: Callable[[Model], LossFn]
  measure: Callable[[Model], Callable[[Params, Params, Batch], Measures]]
  example_loss: ExampleLoss
  inputs: Callable[[int], Mapping[str, tuple[tuple[int, ...], Any]]]
  loss: PerExampleLoss | None = None


def image_and_label(image_size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns the inputs of a classification: an image and the class of it."""
  return {"image": ((image_size, image_size, 3), jnp.float32), "label": ((), jnp.int32)}


def classification(*, loss: PerExampleLoss, frozen_stats: bool = False) -> Task:
  """Makes a task with one class per image.

  Args:
    loss: (logits [B, K], labels) -> [B].
    frozen_stats: normalises with the stored statistics and does not update them. The transfer study
      fine-tunes this way unless its task says otherwise.

  Returns:
    A task that measures `loss` (the training loss), `cross_entropy` (comparable between losses), `top1`,
    and `top5` if there are more than five classes.
  """

  def loss_fn(model: Model) -> LossFn:
    def mean_loss(params: Params, batch_stats: Params, batch: Batch, key: Array) -> tuple[Array, Aux]:
      features, stats = model.apply(
        params, batch_stats, batch["image"], train=True, frozen_stats=frozen_stats, key=key
      )
      values = example_loss(loss, features["logits"], batch)
      mean = _mean(values, batch)
      return mean, Aux(stats, {"accuracy": _mean(_hits(features["logits"], batch), batch)})

    return mean_loss

  def measure(model: Model) -> Callable[[Params, Params, Batch], Measures]:
    def measures(params: Params, batch_stats: Params, batch: Batch) -> Measures:
      features, _ = model.apply(params, batch_stats, batch["image"])
      logits, labels, mask = features["logits"], batch["label"], batch["mask"]
      values: dict[str, Any] = {
        "loss": loss(logits, labels),
        "cross_entropy": losses.softmax_cross_entropy(logits, labels),
        "top1": in_top(logits, labels),
      }
      if logits.shape[-1] > 5:
        values["top5"] = in_top(logits, labels, k=5)
      return {name: Mean.of(value, mask) for name, value in values.items()}

    return measures

  return Task(
    lambda model: ModelLoss(model, loss_fn),
    measure,
    LogitsLoss(loss),
    image_and_label,
    loss,
  )


@dataclasses.dataclass(frozen=True)
class LogitsLoss:
  """The loss of a classification as an `ExampleLoss`.

  Equal losses make equal objects, so that checkpoints and arms share what is compiled for one of them.

  Attributes:
    loss: (logits [B, K], labels) -> [B].
  """

  loss: PerExampleLoss

  def __call__(self, features: Mapping[str, Array], batch: Batch) -> Array:
    return example_loss(self.loss, features["logits"], batch)


CROSS_ENTROPY = LogitsLoss(losses.softmax_cross_entropy)


def example_loss(loss: PerExampleLoss, logits: Array, batch: Batch) -> Array:
  """Computes the loss per example [B], of both labels if mixup or cutmix gave two."""
  if "label_b" in batch:
    return losses.mixed(loss, logits, batch["label"], batch["label_b"], batch["weight"])
  return loss(logits, batch["label"])


def _hits(logits: Array, batch: Batch) -> Array:
  label = batch["label"]
  return in_top(logits, label if label.ndim == 1 else jnp.argmax(label, axis=-1))


def _mean(values: Array, batch: Batch) -> Array:
  if "mask" not in batch:
    return jnp.mean(values)
  mean = Mean.of(values, batch["mask"])
  return mean.total / jnp.maximum(mean.weight, 1)
