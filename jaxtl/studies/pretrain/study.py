"""Pre-training with each loss: train, measure how flat it ended, transfer.

The protocol of Kim, Tanaka, Okutomi, Nosato, "Multi-class Smoothed Hinge Loss Function in Pre-training for
Transfer Learning", IEEE ICIP 2025: every loss pre-trains the same network, every checkpoint is transferred to
the same data sets with cross-entropy, and the largest curvature at each checkpoint is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import train
from jaxtl.measure import lambda_max
from jaxtl.measure.lambda_max import EigenvectorCache
from jaxtl.studies.pretrain.settings import Pretrain
from jaxtl.studies.pretrain.tuning import experiment_of, held_out, training_work, tune, with_rate
from jaxtl.studies.transfer import study as transfer
from jaxtl.train import experiment
from jaxtl.train.image_size import image_size_of
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import Trained
from jaxtl.types import Row


def rows(study: Pretrain, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """One row for the pre-training, one per learning-rate trial, one per target and protocol."""
  title = "/".join(workdir.parts[-2:])
  if study.tune is not None:
    trials, study = tune(study, study.tune, workdir=workdir.parent / "tune", runtime=runtime)
    yield from trials
  runtime.progress.title = f"{title} | pre-train"
  observers: Mapping[str, Any] = {}
  if study.flatness is not None:
    every = study.flatness.evaluate_every or study.checkpoint_every
    reach = study.keep * (study.checkpoint_every or 0)
    place, note = workdir / "eigenvectors", runtime.progress.note
    trail = EigenvectorCache(place, every, reach, runtime.mesh, note) if every else None
    observers = {"flatness": (every, lambda_max.observer(study.flatness, runtime, trail))}
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


def rehearse(study: Pretrain, runtime: Runtime) -> None:
  """Makes and traces all that the study trains, tunes and transfers, as far as that is known without data."""
  _rehearse(study, runtime, image_size_of(study.data))
  if study.tune is not None:
    held_out(study, study.tune)
    with_rate(study.optimizer, study.tune.peak_rates[0])
  if study.flatness is not None:
    for spec in study.flatness.data.transforms:
      spec.realize()
  if study.transfer is not None:
    transfer.rehearse_protocols(study.transfer, study.model, runtime)


def check_data(study: Pretrain, runtime: Runtime) -> None:
  """Refuses evaluation and target sets whose class lists do not fit, and a model that the images do not."""
  experiment.check_classes(study, runtime.open(study.data).classes, runtime)
  experiment.check_schedule(experiment_of(study), runtime)
  if image_size_of(study.data) is None:
    _rehearse(study, runtime, runtime.image_shape(study.data)[0])
  if study.transfer is not None:
    transfer.check_targets(study.transfer, study.model, runtime)


def _rehearse(study: Pretrain, runtime: Runtime, image_size: int | None) -> None:
  experiment.rehearse(
    experiment_of(study),
    num_classes=study.data.num_classes or experiment.SOME_CLASSES,
    num_examples=study.data.num_examples,
    image_size=image_size,
    mesh=runtime.mesh,
  )


def extent(study: Pretrain, runtime: Runtime) -> Any:
  """The targets that the weights are transferred to: an `Extent`."""
  from jaxtl.runner import plan as extents
  from jaxtl.studies.transfer import plan

  found = extents.Extent()
  if study.transfer is not None:
    plan.add_protocols(found, study.transfer, study.model, runtime)
  return found


def work(study: Pretrain, runtime: Runtime) -> float:
  """Image passes of one cell, for the time left; the arm's tuning is counted by `work_once`."""
  passes = training_work(experiment_of(study), runtime)
  if study.transfer is not None:
    passes += transfer.work_of(study.transfer, runtime)
  return passes


def _pretrain_row(study: Pretrain, trained: Trained) -> Row:
  row: Row = {
    "kind": "pretrain",
    "steps": trained.total_steps,
    "peak_rate": study.optimizer.keywords.get("peak_rate"),
    "train_loss": trained.last("train/loss"),
    "images_per_second": trained.median("train/images_per_second"),
    "data_wait": trained.median("train/data_wait"),
    "loss": config_lib.plain(study.task).get("loss"),
    "gradient": config_lib.plain(study.gradient),
  }
  for name in study.evaluation:
    for measure in ("top1", "top5", "cross_entropy", "loss"):
      row[f"{name}/{measure}"] = trained.last(f"eval/{name}/{measure}")
  for name in ("lambda_max", "residual", "num_products", "converged", "num_examples"):
    if study.flatness is not None:
      row[name] = trained.last(f"flatness/{name}")
  return row
