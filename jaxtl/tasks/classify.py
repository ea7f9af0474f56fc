"""Image classification: from features to a loss to train on and measures to report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxtl import losses
from jaxtl.errors import ConfigError
from jaxtl.metrics import Mean, in_top
from jaxtl.types import Array, Aux, Batch, ExampleLoss, LossFn, Model, ModelLoss, Params

PerExampleLoss = Callable[[Array, Array], Array]
Measures = dict[str, Mean]
_VIEWS = 2  # of each image, beyond the image itself


@dataclasses.dataclass(frozen=True)
class Task:
  """A task as functions of a model.

  Attributes:
    loss_fn: model -> LossFn, the mean loss of a batch to train on.
    measure: model -> ((params, batch_stats, batch) -> {name: Mean}), on the stored statistics.
    example_loss: (features, batch) -> [B], the values of which `loss_fn` is the mean.
    inputs: image size -> what a batch needs besides `mask`: name -> (shape of one example, dtype).
    loss: (logits [B, K], labels) -> [B] of a classification; None for other tasks.
    reads: what the task uses if transforms give it: "mixed_labels" or "views" (`jaxtl.data.MIXED_LABELS`,
      `VIEWS`). Transforms that give anything else are refused.
  """

  loss_fn: Callable[[Model], LossFn]
  measure: Callable[[Model], Callable[[Params, Params, Batch], Measures]]
  example_loss: ExampleLoss
  inputs: Callable[[int], Mapping[str, tuple[tuple[int, ...], Any]]]
  loss: PerExampleLoss | None = None
  reads: tuple[str, ...] = ()


def image_and_label(image_size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns the inputs of a classification: an image and the class of it."""
  return {"image": ((image_size, image_size, 3), jnp.float32), "label": ((), jnp.int32)}


def classification(*, loss: PerExampleLoss, frozen_stats: bool = False, consistency: float = 0.0) -> Task:
  """Makes a task with one class per image.

  Args:
    loss: (logits [B, K], labels) -> [B].
    frozen_stats: normalises with the stored statistics and does not update them. The transfer study
      fine-tunes this way unless its task says otherwise.
    consistency: weight of the Jensen-Shannon divergence between the predictions for an image and for the two
      views that `.data.aug_mix_jsd` gives; AugMix's authors use 12. The three go through the network as one
      batch [3B, H, W, 3]: the images, then their first and their second views. Only the images enter `loss`.

  Returns:
    A task that measures `loss` (the training loss), `cross_entropy` (comparable between losses), `top1`,
    and `top5` if there are more than five classes. Training reports `accuracy`, unless labels are mixed.

  Raises:
    ConfigError: `consistency` is below 0 or not finite.
  """
  if not 0 <= consistency < float("inf"):
    raise ConfigError(f"consistency is {consistency:g}; expected 0 (off) or more (AugMix: 12)")

  def with_consistency(features: Mapping[str, Array], batch: Batch) -> Array:
    logits, rows = features["logits"], len(batch["label"])
    return example_loss(loss, logits[:rows], batch) + consistency * losses.jensen_shannon(logits)

  values: ExampleLoss = with_consistency if consistency else LogitsLoss(loss)

  def inputs(image_size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    views = {"views": ((_VIEWS, image_size, image_size, 3), jnp.float32)} if consistency else {}
    return image_and_label(image_size) | views

  def loss_fn(model: Model) -> LossFn:
    def mean_loss(params: Params, batch_stats: Params, batch: Batch, key: Array) -> tuple[Array, Aux]:
      images = _with_views(batch) if consistency else batch["image"]
      features, stats = model.apply(
        params, batch_stats, images, train=True, frozen_stats=frozen_stats, key=key
      )
      mean = _mean(values(features, batch), batch)
      if _is_mixed(batch):
        return mean, Aux(stats, {})  # a mixed image has no class to be right about
      logits = features["logits"][: len(batch["label"])]
      return mean, Aux(stats, {"accuracy": _mean(in_top(logits, batch["label"]), batch)})

    return mean_loss

  def measure(model: Model) -> Callable[[Params, Params, Batch], Measures]:
    def measures(params: Params, batch_stats: Params, batch: Batch) -> Measures:
      features, _ = model.apply(params, batch_stats, batch["image"])
      logits, labels, mask = features["logits"], batch["label"], batch["mask"]
      found: dict[str, Any] = {
        "loss": loss(logits, labels),
        "cross_entropy": losses.softmax_cross_entropy(logits, labels),
        "top1": in_top(logits, labels),
      }
      if logits.shape[-1] > 5:
        found["top5"] = in_top(logits, labels, k=5)
      return {name: Mean.of(value, mask) for name, value in found.items()}

    return measures

  return Task(
    lambda model: ModelLoss(model, loss_fn),
    measure,
    values,
    inputs,
    loss,
    ("mixed_labels", *(["views"] if consistency else [])),
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


def _is_mixed(batch: Batch) -> bool:
  """Returns whether the labels are two and a weight, or a distribution."""
  return "label_b" in batch or batch["label"].ndim > 1


def _with_views(batch: Batch) -> Array:
  """Returns the images, then all first views, then all second ones: [3B, H, W, 3].

  Raises:
    ConfigError: hidden states stand in for the images, as in a rule that starts inside the network.
  """
  image, views = batch["image"], batch["views"]
  if image.shape[1:] != views.shape[2:]:
    raise ConfigError(
      f"consistency needs images as the network's input, got {list(image.shape[1:])} next to views of "
      f"{list(views.shape[2:])}; use a gradient rule that trains the whole network, or consistency=0.0"
    )
  return jnp.concatenate([image, *(views[:, number] for number in range(_VIEWS))])


def _mean(values: Array, batch: Batch) -> Array:
  if "mask" not in batch:
    return jnp.mean(values)
  mean = Mean.of(values, batch["mask"])
  return mean.total / jnp.maximum(mean.weight, 1)
