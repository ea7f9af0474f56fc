"""Losses summed over a batch, as functions of the parameters, or of the features that a loss reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.metrics import Mean
from jaxtl.tasks import CROSS_ENTROPY, LogitsLoss, Task
from jaxtl.train import compiled
from jaxtl.types import Array, Batch, ExampleLoss, Model, Params

Features = Mapping[str, Any]


def training_loss(task: Task) -> ExampleLoss:
  """Returns the loss that a task trains with; that of a classification is a `LogitsLoss`."""
  return task.example_loss if task.loss is None else LogitsLoss(task.loss)


def common_loss(task: Task) -> ExampleLoss:
  """Returns the loss in which networks of a task are compared.

  Classifications are compared in the cross-entropy, whatever they were trained with. Other tasks have only
  their training loss.
  """
  return task.example_loss if task.loss is None else CROSS_ENTROPY


@compiled.kept
def summed(
  model: Model, loss: ExampleLoss, start: str | None = None
) -> Callable[[Params, Batch], tuple[Array, Array]]:
  """Returns (params, batch) -> (sum over the examples, their number).

  The function is made once per combination of arguments, and therefore compiled once.

  With `start`, the batch's `image` is the hidden state that enters that block, and its `others` are the
  parameters that are missing from `params`.
  """

  def loss_fn(params: Params, batch: Batch) -> tuple[Array, Array]:
    others: Any = batch.get("others", {})
    whole = {**others, **params}
    features, _ = model.apply(whole, batch["batch_stats"], batch["image"], start=start)
    return summed_of_features(loss)(features, batch)

  return loss_fn


@compiled.kept
def summed_of_features(loss: ExampleLoss) -> Callable[[Features, Batch], tuple[Array, Array]]:
  """Returns (features, batch) -> (sum over the examples, their number)."""

  def loss_fn(features: Features, batch: Batch) -> tuple[Array, Array]:
    mean = Mean.of(loss(features, batch), batch["mask"])
    return mean.total, mean.weight

  return loss_fn


@compiled.kept
def features_of(model: Model, loss: ExampleLoss) -> Callable[[Params, Batch], Features]:
  """Returns (params, batch) -> the features that a loss reads: the logits of a classification.

  The loss is a function of these and of the batch alone, so that the Gauss-Newton matrix of the training is
  that of the map from parameters through these features to the loss.

  Raises:
    InputError: when the function is traced, a feature that the loss reads does not consist of floats.
  """

  def features(params: Params, batch: Batch) -> Features:
    found = model.apply(params, batch["batch_stats"], batch["image"])[0]
    return {name: _floats(name, found[name]) for name in features_read(loss, found, batch)}

  return features


def features_read(loss: ExampleLoss, features: Features, batch: Batch) -> tuple[str, ...]:
  """Returns the names of the features that a loss reads, found by tracing it; nothing is computed."""
  names: dict[str, None] = {}

  def traced(features: Features, batch: Batch) -> Array:
    return loss(_Recorded(features, names), batch)

  jax.eval_shape(traced, dict(features), dict(batch))
  return tuple(names)


@compiled.kept
def masked_logits_of(model: Model) -> Callable[[Params, Batch], tuple[Array, Array]]:
  """Returns (params, batch) -> (logits [B, K], mask [B]) of a classification."""

  def logits(params: Params, batch: Batch) -> tuple[Array, Array]:
    return model.apply(params, batch["batch_stats"], batch["image"])[0]["logits"], batch["mask"]

  return logits


class _Recorded(Mapping[str, Any]):
  """The features of a model; adds the names that are read to `names`."""

  def __init__(self, features: Features, names: dict[str, None]):
    self._features, self._names = features, names

  def __getitem__(self, name: str) -> Any:
    value = self._features[name]
    self._names[name] = None
    return value

  def __iter__(self) -> Iterator[str]:
    return iter(self._features)

  def __len__(self) -> int:
    return len(self._features)


def _floats(name: str, feature: Any) -> Any:
  for x in jax.tree.leaves(feature):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise InputError(
        f"the loss reads the feature {name!r}, which is {x.dtype}; a Gauss-Newton matrix needs floats, so "
        "set spectrum and layers to None"
      )
  return feature
