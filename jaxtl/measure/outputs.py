"""The outputs of a network on a fixed set of images: gaps, losses that are zero, calibration, geometry.

A loss with a threshold stops learning from an image once its logit gap exceeds the threshold. These numbers
show how many images exceed it, and how the size of the logits and the geometry of the features change.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import losses, metrics, optim
from jaxtl.errors import InputError
from jaxtl.host.processes import whole
from jaxtl.measure.images import subset
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train import compiled
from jaxtl.train.experiment import Program
from jaxtl.train.inputs import Data
from jaxtl.train.loop import Observer
from jaxtl.train.runtime import Runtime
from jaxtl.train.sharding import put_batch
from jaxtl.types import Array, Batch, Model, Params, TrainState

QUANTILES = (5, 25, 50, 75, 95)
NAMES = (
  *("loss", "cross_entropy", "top1", "zero_loss", "zero_gradient"),
  *(f"gap_p{share:02}" for share in QUANTILES),
  *("logit_norm", "calibration_error", "nc1", "effective_rank"),
)


@dataclasses.dataclass(frozen=True)
class Outputs:
  """The outputs of the network on some images, without augmentation, measured during training.

  Attributes:
    data: the images, with evaluation transforms.
    num_examples: number of images, drawn evenly over the classes.
    seed: seed of the draw.
    evaluate_every: period in steps; None uses that of the evaluations.
  """

  data: Data
  num_examples: int = 1000
  seed: int = 0
  evaluate_every: int | None = None

  def __post_init__(self) -> None:
    every = self.evaluate_every
    config_lib.require(
      num_examples=(self.num_examples, self.num_examples >= 1, "at least 1"),
      evaluate_every=(every, every is None or every >= 1, "at least 1"),
    )


def keys(name: str) -> list[str]:
  """Returns the names of the metrics of a set of images."""
  return [f"outputs/{name}/{measure}" for measure in NAMES]


def observer(settings: Outputs, name: str, runtime: Runtime) -> Callable[[Program], Observer]:
  """Measures during training and records `outputs/NAME/*` in the metrics.

  Raises:
    InputError: the task does not score logits against labels.
  """
  batches = subset(settings.data, runtime, num_examples=settings.num_examples, seed=settings.seed)

  def make(program: Program) -> Observer:
    if program.task.loss is None:
      raise InputError(f"outputs.{name} measures logits, which the task does not have; leave it out")
    outputs = _outputs(program.model, program.task.loss)

    def observe(state: TrainState) -> dict[str, float]:
      params = optim.averaged(state.opt_state, state.params)
      rows: list[dict[str, np.ndarray]] = []
      for batch in runtime.moving(batches):
        there = put_batch(batch, runtime.mesh)
        found = jax.tree.map(whole, outputs(params, state.batch_stats, there))
        rows.append({key: array[whole(there["mask"])] for key, array in found.items()})
      joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
      return {f"outputs/{name}/{key}": value for key, value in summarise(**joined).items()}

    return observe

  return make


@compiled.kept
def _outputs(model: Model, loss: PerExampleLoss) -> Callable[[Params, Params, Batch], dict[str, Array]]:
  """Jits the outputs of each example: features, logits, label, its loss, and whether its gradient is 0."""

  def outputs(params: Params, batch_stats: Params, batch: Batch) -> dict[str, Array]:
    features, _ = model.apply(params, batch_stats, batch["image"])
    logits = features["logits"].astype(jnp.float32)
    value, pull = jax.vjp(lambda x: loss(x, batch["label"]), logits)
    (slopes,) = pull(jnp.ones_like(value))
    return {
      "features": features["pooled"].astype(jnp.float32),
      "logits": logits,
      "labels": batch["label"],
      "loss": value,
      "is_flat": jnp.all(slopes == 0, axis=-1),
    }

  return jax.jit(outputs)


def summarise(
  *, features: np.ndarray, logits: np.ndarray, labels: np.ndarray, loss: np.ndarray, is_flat: np.ndarray
) -> dict[str, float]:
  """Summarises the outputs on N images.

  Args:
    features: [N, D] pooled features.
    logits: [N, K].
    labels: int [N].
    loss: [N] training loss of each image.
    is_flat: [N] whether its gradient with respect to the logits is exactly 0.

  Returns:
    loss, cross_entropy, top1: means. zero_loss, zero_gradient: shares of images. gap_pQ: quantiles of the
    true logit minus the largest other one. logit_norm: mean Euclidean norm of the logits, centred for each
    image. calibration_error: see `metrics.expected_calibration_error`. nc1 and effective_rank: of the
    features, see `metrics.transferability`. NaN where they are not defined, or the outputs are not finite.
  """
  logits = logits.astype(np.float64)
  at = np.arange(len(labels)), labels
  others = logits.copy()
  others[at] = -np.inf
  gaps = logits[at] - others.max(axis=1)
  probabilities = np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)
  numbers: dict[str, Any] = {
    "loss": loss.mean(),
    "cross_entropy": np.mean(
      np.asarray(losses.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels)))
    ),
    "top1": np.mean(gaps > 0),
    "zero_loss": np.mean(loss == 0),
    "zero_gradient": np.mean(is_flat),
    **{f"gap_p{share:02}": np.percentile(gaps, share) for share in QUANTILES},
    "logit_norm": np.mean(np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1)),
    "calibration_error": _calibration_error(probabilities, labels),
    **_geometry(features, labels),
  }
  return {key: float(value) for key, value in numbers.items()}


def _calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
  if not np.all(np.isfinite(probabilities)):
    return float("nan")
  confidence = np.clip(probabilities.max(axis=1), 0, 1)
  return metrics.expected_calibration_error(confidence, probabilities.argmax(axis=1) == labels)


def _geometry(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  from jaxtl.metrics import transferability  # loads SciPy, which most runs do not need

  found = dict.fromkeys(("nc1", "effective_rank"), float("nan"))
  with contextlib.suppress(transferability.ScoreError):
    statistics = transferability.statistics_of(features, labels)
    found["effective_rank"] = float(transferability.effective_rank(statistics))
    found["nc1"] = float(transferability.nc1(statistics))
  return found
