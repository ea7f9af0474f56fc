"""Losses summed over a batch, as functions of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtl.metrics import Mean
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train import compiled
from jaxtl.types import Array, Batch, Model, Params


@compiled.kept
def summed(
  model: Model, loss: PerExampleLoss, start: str | None = None
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
    return summed_of_logits(loss)(features["logits"], batch)

  return loss_fn


@compiled.kept
def summed_of_logits(loss: PerExampleLoss) -> Callable[[Array, Batch], tuple[Array, Array]]:
  def loss_fn(logits: Array, batch: Batch) -> tuple[Array, Array]:
    mean = Mean.of(loss(logits, batch["label"]), batch["mask"])
    return mean.total, mean.weight

  return loss_fn


@compiled.kept
def logits_of(model: Model) -> Callable[[Params, Batch], Array]:
  def logits(params: Params, batch: Batch) -> Array:
    return model.apply(params, batch["batch_stats"], batch["image"])[0]["logits"]

  return logits


@compiled.kept
def masked_logits_of(model: Model) -> Callable[[Params, Batch], tuple[Array, Array]]:
  return lambda params, batch: (logits_of(model)(params, batch), batch["mask"])
