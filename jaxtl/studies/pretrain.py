"""Pre-training with each loss: train, measure how flat it ended, transfer.

The protocol of Kim, Tanaka, Okutomi, Nosato, "Multi-class Smoothed Hinge Loss Function in Pre-training for
Transfer Learning", IEEE ICIP 2025: every loss pre-trains the same network, every checkpoint is transferred to
the same data sets with cross-entropy, and the largest curvature at each checkpoint is reported beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import train
from jaxtl.config import Spec
from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.studies import lambda_max, transfer
from jaxtl.studies.lambda_max import Flatness, Trail
from jaxtl.studies.transfer import Protocols
from jaxtl.train import experiment
from jaxtl.train.experiment import Experiment, total_steps, work_per_image
from jaxtl.train.processes import remember
from jaxtl.train.runtime import Data, Runtime
from jaxtl.train.sizes import image_size_of
from jaxtl.train.training import Trained

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tune:
  """The learning rate of each arm, chosen on a held-out part of the training set.

  Attributes:
    peak_rates: the rates to try: as many for every arm.
    epochs: length of a trial.
    held_out: share of each class that is not trained on and decides, by top-1 accuracy.
    seed: of the trials and of the split; one for all seeds of the study.
    evaluation: the evaluation set whose transforms the held-out part is seen through.
  """

  peak_rates: tuple[float, ...]
  epochs: float
  evaluation: str
  held_out: float = 0.1
  seed: int = 0

  def __post_init__(self) -> None:
    config_lib.require(
      peak_rates=(self.peak_rates, len(self.peak_rates) > 0, "at least one rate"),
      epochs=(self.epochs, self.epochs > 0, "a number above 0"),
      held_out=(self.held_out, 0 < self.held_out < 1, "a share between 0 and 1"),
    )


@dataclasses.dataclass(frozen=True)
class Pretrain(Experiment):
  """An experiment, and what its weights are measured by.

  Attributes:
    tune: chooses `optimizer.peak_rate`; None keeps the config's.
    flatness: measured at every checkpoint; None leaves it out.
    transfer: targets and protocols; None leaves them out.
  """

  tune: Tune | None = None
  flatness: Flatness | None = None
  transfer: Protocols | None = None


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
    trail = Trail(place, every, reach, runtime.mesh, note) if every else None
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
    _held_out(study, study.tune)
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
    num_classes=study.data.num_classes or transfer.SOME_CLASSES,
    num_examples=study.data.num_examples,
    image_size=image_size,
    mesh=runtime.mesh,
  )


def extent(study: Pretrain, runtime: Runtime) -> Any:
  """The targets that the weights are transferred to: an `Extent`."""
  from jaxtl.studies import extent as extents
  from jaxtl.studies import transfer_extent

  found = extents.Extent()
  if study.transfer is not None:
    transfer_extent.add_protocols(found, study.transfer, study.model, runtime)
  return found


def work(study: Pretrain, runtime: Runtime) -> float:
  """Image passes of one cell, for the time left; the arm's tuning is counted by `work_once`."""
  passes = _training_work(experiment_of(study), runtime)
  if study.transfer is not None:
    passes += transfer.work_of(study.transfer, runtime)
  return passes


def work_once(study: Pretrain, runtime: Runtime) -> float:
  """Image passes that the seeds of an arm share."""
  if study.tune is None:
    return 0.0
  trial = dataclasses.replace(experiment_of(study), epochs=study.tune.epochs, steps=None)
  return len(study.tune.peak_rates) * _training_work(trial, runtime) * (1 - study.tune.held_out)


def tune(study: Pretrain, tuning: Tune, *, workdir: Path, runtime: Runtime) -> tuple[list[Row], Pretrain]:
  """Tries every rate; returns a row per trial, and the study with the best one.

  A trial whose loss is not finite counts as accuracy 0: a rate that diverges is a bad rate, not an accident.
  """
  trials = []
  for rate in tuning.peak_rates:
    runtime.progress.title = f"{workdir.parent.name} | rate {rate:g}"
    trial = _trial(study, tuning, rate)
    compute = functools.partial(_trial_row, trial, rate, tuning, runtime)
    recalled = functools.partial(runtime.progress.skip, work_once(study, runtime) / len(tuning.peak_rates))
    note = runtime.progress.note
    trials.append(remember(workdir / f"{rate!r}.json", compute, recalled=recalled, note=note))
  best = max(trials, key=lambda row: row["accuracy"])["peak_rate"]
  return trials, dataclasses.replace(study, optimizer=with_rate(study.optimizer, best))


def experiment_of(study: Pretrain) -> Experiment:
  """The experiment inside the study."""
  names = [field.name for field in dataclasses.fields(Experiment)]
  return Experiment(**{name: getattr(study, name) for name in names})


def with_rate(optimizer: Spec, rate: float) -> Spec:
  """The optimiser with another peak rate."""
  if "peak_rate" not in inspect.signature(optimizer.target).parameters:
    raise ConfigError(
      f"tune sets 'peak_rate', which {optimizer.path} does not have; use .optim.sgd, adam or adamw"
    )
  return dataclasses.replace(optimizer, keywords={**optimizer.keywords, "peak_rate": rate})


def _trial(study: Pretrain, tuning: Tune, rate: float) -> Experiment:
  edge = 1 - tuning.held_out
  held_out = _held_out(study, tuning)
  return dataclasses.replace(
    experiment_of(study),
    optimizer=with_rate(study.optimizer, rate),
    epochs=tuning.epochs,
    steps=None,
    data=_part(study.data, 0.0, edge, tuning.seed),
    evaluation={
      "held_out": dataclasses.replace(
        _part(study.data, edge, 1.0, tuning.seed),
        transforms=held_out.transforms,
        batch_transforms=(),
        batch_size=held_out.batch_size,
      )
    },
    checkpoint_every=None,
    evaluate_every=None,
  )


def _held_out(study: Pretrain, tuning: Tune) -> Data:
  """The evaluation set whose transforms the held-out part is seen through."""
  if tuning.evaluation not in study.evaluation:
    raise ConfigError(
      f"tune.evaluation is {tuning.evaluation!r}; the study evaluates on "
      f"{', '.join(study.evaluation) or 'nothing'}"
    )
  return study.evaluation[tuning.evaluation]


def _part(data: Data, start: float, stop: float, seed: int) -> Data:
  keywords = {"source": data.source, "start": start, "stop": stop, "seed": seed}
  return dataclasses.replace(
    data, source=Spec(".data.part_of", "make", keywords, data_lib.part_of), num_examples=None
  )


def _trial_row(trial: Experiment, rate: float, tuning: Tune, runtime: Runtime) -> Row:
  row: Row = {"kind": "tune", "peak_rate": rate, "epochs": trial.epochs}
  try:
    trained = train.run(trial, seed=tuning.seed, runtime=runtime)
  except NonFiniteError as error:
    return row | {"accuracy": 0.0, "diverged": str(error)}
  return row | {
    "accuracy": trained.last("eval/held_out/top1"),
    "loss": trained.last("eval/held_out/cross_entropy"),
  }


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


def _training_work(trained: Experiment, runtime: Runtime) -> float:
  steps = total_steps(trained, len(runtime.open(trained.data)))
  return steps * trained.data.batch_size * work_per_image(trained)
