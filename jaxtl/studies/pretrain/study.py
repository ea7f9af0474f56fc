"""Pre-trains with each loss, measures the flatness of the result, and transfers it.

The protocol is that of Kim, Tanaka, Okutomi, Nosato, "Multi-class Smoothed Hinge Loss Function in
Pre-training for Transfer Learning", IEEE ICIP 2025. Every loss pre-trains the same network. Every checkpoint
is transferred to the same data sets with cross-entropy, and reported with its largest curvature.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import train
from jaxtl.measure import lambda_max, outputs
from jaxtl.measure.lambda_max import EigenvectorCache
from jaxtl.studies.pretrain.plan import plan
from jaxtl.studies.pretrain.settings import Pretrain
from jaxtl.studies.pretrain.tuning import experiment_of, tune
from jaxtl.studies.transfer import study as transfer
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import Trained
from jaxtl.types import Row

# The runner looks up `plan` next to `rows`.
__all__ = ["plan", "rows"]


def rows(study: Pretrain, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields one row per trial, one for the pre-training, and one per target and protocol."""
  title = "/".join(workdir.parts[-2:])
  if study.tune is not None:
    trials, study = tune(study, study.tune, workdir=workdir.parent / "tune", runtime=runtime)
    yield from trials
  runtime.progress.title = f"{title} | pre-train"
  observers: dict[str, Any] = {
    f"outputs/{name}": (one.evaluate_every or study.evaluate_every, outputs.observer(one, name, runtime))
    for name, one in (study.outputs or {}).items()
  }
  if study.flatness is not None:
    every = study.flatness.evaluate_every or study.checkpoint_every
    reach = study.keep * (study.checkpoint_every or 0)
    place, note = workdir / "eigenvectors", runtime.progress.note
    trail = EigenvectorCache(place, every, reach, runtime.mesh, note) if every else None
    observers |= {"flatness": (every, lambda_max.observer(study.flatness, runtime, trail))}
  trained = train.run(experiment_of(study), seed=seed, runtime=runtime, workdir=workdir, observers=observers)
  yield _pretrain_row(study, trained)
  if study.transfer is not None:
    yield from transfer.measure(
      study.transfer,
      study.model,
      trained.weights,
      seed=seed,
      workdir=workdir / "transfer",
      runtime=runtime,
    )


def _pretrain_row(study: Pretrain, trained: Trained) -> Row:
  row: Row = {
    "kind": "pretrain",
    "steps": trained.total_steps,
    "peak_rate": study.optimizer.keywords.get("peak_rate"),
    "optimizer": config_lib.plain(study.optimizer),
    "train_loss": trained.last("train/loss"),
    "images_per_second": trained.median("train/images_per_second"),
    "data_wait": trained.median("train/data_wait"),
    "loss": config_lib.plain(study.task).get("loss"),
    "gradient": config_lib.plain(study.gradient),
  }
  for name in study.evaluation:
    for measure in _measures(trained, name):
      row[f"{name}/{measure}"] = trained.last(f"eval/{name}/{measure}")
    row |= _least(trained, name)
  if study.select is not None:
    row |= {"selected_step": int(trained.last("step")), "end_step": int(trained.history[-1]["step"])}
  for name in study.outputs or ():
    row |= {key: trained.last(key) for key in outputs.keys(name)}
  measured: tuple[str, ...] = ("lambda_max", "residual", "num_products", "converged", "num_examples")
  if study.flatness is not None and study.flatness.training_loss:
    measured += tuple(f"{lambda_max.TRAINING}{name}" for name in ("lambda_max", "residual", "converged"))
  for name in measured:
    if study.flatness is not None:
      row[name] = trained.last(f"flatness/{name}")
  if study.flatness is not None and trained.program.task.loss is None:
    row["differentiated"] = config_lib.call(config_lib.plain(study.task))
  return row


def _least(trained: Trained, name: str) -> Row:
  """Returns the least cross-entropy on an evaluation set and its step, if cross-entropy is measured."""
  key = f"eval/{name}/cross_entropy"
  values = [(record[key], int(record["step"])) for record in trained.history if key in record]
  if not values:
    return {}
  least, step = min(values)
  return {f"{name}/least_cross_entropy": least, f"{name}/least_step": step}


def _measures(trained: Trained, name: str) -> list[str]:
  """Returns the measures of an evaluation set that a row has: for other tasks than classifications, all."""
  if trained.program.task.loss is not None:
    return ["top1", "top5", "cross_entropy", "loss"]
  start = f"eval/{name}/"
  found = (key.removeprefix(start) for record in trained.history for key in record if key.startswith(start))
  return list(dict.fromkeys(found))
