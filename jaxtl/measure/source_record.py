"""What is on record about the origin of a weight: its accuracy on its source data, and images it has seen."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import tree
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.types import Row

# The record of a run: which loss is differentiated -> the key of its largest eigenvalue.
_CURVATURES = {"cross_entropy": "flatness/lambda_max", "training": "flatness/training_lambda_max"}


def weights_digest(weights: Weights) -> str:
  """Returns 16 hexadecimal digits of a SHA-256 over all arrays, the same for a file and its import."""
  both = {"params": weights.params, "batch_stats": weights.batch_stats}
  digest = hashlib.sha256()
  for path, leaf in zip(tree.paths(both), jax.tree.leaves(both), strict=True):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{path} {array.dtype} {array.shape}\0".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def run_folder(weights: Weights) -> Path | None:
  """Returns the folder of the run that trained a checkpoint; None for an import."""
  folder = Path(weights.path)
  # RUN/checkpoints/STEP or RUN/selected/STEP; a folder above belongs to something else.
  places = (folder, *list(folder.parents)[:2])
  return next((place for place in places if (place / "metrics.jsonl").is_file()), None)


def named(run: Path) -> str:
  """Returns how a record names a run: by the ends of its path, which says nothing about this machine."""
  return "/".join(run.absolute().parts[-3:]).lstrip("/")


def recorded_curvature(weights: Weights) -> list[Row]:
  """Finds the curvature that the run of a checkpoint measured at exactly this step.

  Returns:
    Rows {"loss", "lambda_max", "num_examples", "measured_by"}: of the cross-entropy, or the loss of the
    task, and of the training loss where it was measured.
  """
  run, step = run_folder(weights), weights.config.get("step")
  if run is None or step is None:
    return []
  found: dict[str, Row] = {}
  with contextlib.suppress(ValueError, OSError):  # a weight is used whatever its record
    for record in sealed_json.read_records(run / "metrics.jsonl"):
      for loss, key in _CURVATURES.items():
        if record.get("step") == step and math.isfinite(record.get(key, math.nan)):
          count = record.get("flatness/num_examples")
          found[loss] = {
            "loss": loss,
            "lambda_max": float(record[key]),
            "num_examples": None if count is None else int(count),
            "measured_by": named(run),
          }
  return list(found.values())


def curvature_of_rows(rows: Sequence[Row], digest: str, *, measured_by: str) -> list[Row]:
  """Returns the curvature that a flatness study measured of the weights with a digest.

  Args:
    rows: of the study.
    digest: of the checkpoint, from `network.digest`.
    measured_by: how the study is named.
  """
  names = ("loss", "lambda_max", "trace", "trace_error", "effective_dimension", "mean_loss", "num_examples")
  return [
    {name: row[name] for name in names if name in row} | {"measured_by": measured_by}
    for row in rows
    if row.get("kind") == "flatness" and row.get("weights") == digest
  ]


def recorded_accuracy(weights: Weights) -> Row:
  """Finds the accuracy that the run of a checkpoint measured, at the checkpoint's step or before it.

  Returns:
    {"source_accuracy": share, "source_accuracy_from": where}, both None if there is no record.
  """
  run = run_folder(weights)
  if run is None:
    return {"source_accuracy": None, "source_accuracy_from": None}
  step = weights.config.get("step")
  found: tuple[float, str] | None = None
  with contextlib.suppress(ValueError, OSError):  # a weight is used whatever its record
    for record in sealed_json.read_records(run / "metrics.jsonl"):
      names = sorted(key for key in record if key.startswith("eval/") and key.endswith("/top1"))
      if names and (step is None or record.get("step", 0) <= step) and math.isfinite(record[names[0]]):
        found = float(record[names[0]]), f"{names[0]} of {named(run)}"
  accuracy, origin = found or (None, None)
  return {"source_accuracy": accuracy, "source_accuracy_from": origin}


def read_accuracies(path: Path) -> dict[str, float]:
  """Reads accuracies that others state, from a CSV with the columns `model` and `top1`, in percent.

  timm's `results-imagenet.csv` has these columns.

  Returns:
    model -> share.

  Raises:
    InputError: the file does not exist or lacks a column, or a value is not a percentage.
  """
  if not path.is_file():
    raise InputError(f"no file {path}; expected a CSV with the columns model and top1")
  try:
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
  except (UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"{path} is not a CSV with the columns model and top1") from error
  if not rows or not {"model", "top1"} <= set(rows[0]):
    raise InputError(f"{path} has no columns model and top1; expected both, and one line per model")
  return {str(row["model"]): _percent(row["top1"], f"{path}: {row['model']}") for row in rows}


def _percent(text: str | None, where: str) -> float:
  try:
    value = float(text or "")
  except ValueError:
    value = math.nan
  if not 0 <= value <= 100:
    raise InputError(f"{where} has the top1 {text!r}; expected a percentage (for example 76.1)")
  return value / 100


def seen_images(weights: Weights, source: Any, *, data_dir: str | None, trust: bool = False) -> int | None:
  """Counts the images of a target that a run of jaxtl also trained the weight on, by their digests.

  Args:
    weights: of a checkpoint; imports do not say what they were trained on.
    source: the images of the target.
    data_dir: the folder that the run's paths are relative to.
    trust: imports names of the run's config outside jaxtl and optax.

  Returns:
    The number; None if the run's data are not known or cannot be opened here.
  """
  trained = ((weights.config.get("experiment") or {}).get("data") or {}).get("source")
  if trained is None:
    return None
  trusted = None if trust else config_lib.TRUSTED
  try:
    found = config_lib.spec(trained, at="the run's data", trusted=trusted).realize(data_dir=data_dir)
    if not isinstance(found, data_lib.Source):
      return None
    return len({index for _, index in data_lib.shared_images(found, source)})
  except (InputError, OSError):  # moved, deleted, or of another library: nothing is known
    return None
