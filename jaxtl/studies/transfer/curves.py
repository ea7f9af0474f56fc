"""The learning curve of a fine-tuning as rows, and what it says about over-fitting."""

from __future__ import annotations

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxtl import losses, metrics
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.studies.transfer.probes import OnTarget
from jaxtl.studies.transfer.settings import CLEAN, VALIDATION, FineTune
from jaxtl.train import curve as curve_lib
from jaxtl.train import sharding
from jaxtl.train.evaluate import collect_features, make_logits
from jaxtl.train.inputs import Data
from jaxtl.train.training import Trained
from jaxtl.types import Row


def curve_rows(here: OnTarget, before: Trained, trained: Trained) -> list[Row]:
  """Returns a row for each epoch, from epoch 0, before the first step, to the last.

  `train_loss` is the mean over the epoch's batches as they were augmented, which augmentations make hard to
  compare; `clean_train_loss` is that of fixed training images without augmentation, after the epoch.

  Args:
    before: a training without a step from the same start.
    trained: the fine-tuning.
  """
  num_examples = len(here.runtime.open(here.target.train))
  per_epoch = num_examples / here.target.train.batch_size
  untrained = {name: value for record in before.history for name, value in record.items()}
  trained_epochs = curve_lib.by_epoch(trained.history, steps_per_epoch=per_epoch)
  return [
    {
      "kind": "curve",
      "target": here.name,
      "protocol": "fine_tune",
      "epoch": int(record["epoch"]),
      "train_loss": record.get("train/loss"),
      "clean_train_loss": record[f"eval/{CLEAN}/cross_entropy"],
      **(
        {"validation_loss": record[f"eval/{VALIDATION}/cross_entropy"]}
        if f"eval/{VALIDATION}/cross_entropy" in record
        else {}
      ),
      "test_loss": record["eval/test/cross_entropy"],
      "test_accuracy": record["eval/test/top1"],
    }
    for record in ({**untrained, "epoch": 0}, *trained_epochs)
    if "eval/test/cross_entropy" in record
  ]


def diagnosis(here: OnTarget, fine_tune: FineTune, curve: list[Row], trained: Trained, workdir: Path) -> Row:
  """Returns whether a fine-tuning over-fits, and whether it over-fits more than its scale.

  `rise_low` to `rise_high` is a paired interval over test images of the loss of the last weights minus that
  of the weights that the validation images chose; `over_fits` is whether it lies above zero. `scaled_loss` is
  the last loss after temperature scaling, with the temperature fitted on the validation images: if it is
  back at the least loss, only the scale of the logits over-fits (Guo, Pleiss, Sun, Weinberger, "On
  Calibration of Modern Neural Networks", 2017, arXiv 1706.04599).

  Args:
    curve: the rows of `curve_rows`.
    trained: the fine-tuning; if the settings select no weights, there is no interval.
    workdir: its folder, with its last checkpoint.
  """
  after = [row for row in curve if row["epoch"] > 0]
  shape = metrics.loss_curve([row["test_loss"] for row in after])
  least, end = after[shape.least_epoch - 1], after[-1]
  found: Row = {
    "least_epoch": least["epoch"],
    "smooth_epoch": after[shape.smooth_epoch - 1]["epoch"],
    "best_accuracy_epoch": max(after, key=lambda row: row["test_accuracy"])["epoch"],
    "rise": shape.rise,
    "relative_rise": shape.relative_rise,
    "slope": None if math.isnan(shape.slope) else shape.slope,
    "gap_at_least": least["test_loss"] - least["clean_train_loss"],
    "gap_at_end": end["test_loss"] - end["clean_train_loss"],
  }
  validation = here.target.validation
  if validation is None:
    return found
  last = checkpoint.load(workdir / checkpoint.FOLDER)
  tested, labels = _logits(here, trained, last, here.target.test)
  temperature = metrics.fit_temperature(*_logits(here, trained, last, validation))
  at_end = _cross_entropy(tested, labels)
  found |= {
    "last_loss": float(np.mean(at_end)),
    "temperature": temperature,
    "scaled_loss": float(np.mean(_cross_entropy(tested / temperature, labels))),
  }
  if fine_tune.select is None:
    return found
  chosen = _cross_entropy(*_logits(here, trained, trained.weights, here.target.test))
  rise = metrics.rise_interval(at_end, chosen)
  return found | {
    "chosen_loss": float(np.mean(chosen)),
    "chosen_rise": rise.estimate,
    "rise_low": rise.low,
    "rise_high": rise.high,
    "over_fits": rise.low > 0,
  }


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  return np.asarray(losses.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels)), np.float64)


def _logits(here: OnTarget, trained: Trained, weights: Weights, data: Data) -> tuple[np.ndarray, np.ndarray]:
  """Returns the logits [N, K] and the labels [N] of all images."""
  mesh = here.runtime.mesh
  params, batch_stats = (sharding.put_replicated(x, mesh) for x in (weights.params, weights.batch_stats))
  batches = here.runtime.eval_batches(data)
  return collect_features(make_logits(trained.program.model), params, batch_stats, batches, mesh=mesh)
