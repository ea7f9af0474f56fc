"""The choice of a learning rate by short trainings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from pathlib import Path

from jaxtl import data as data_lib
from jaxtl import train
from jaxtl.config import Spec
from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.host.remember import remember
from jaxtl.runner.plan import Training
from jaxtl.studies.pretrain.settings import Pretrain, Tune
from jaxtl.train.experiment import Experiment, image_passes
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

TUNING = "tuning"


def tune(study: Pretrain, tuning: Tune, *, workdir: Path, runtime: Runtime) -> tuple[list[Row], Pretrain]:
  """Tries every rate; returns a row per trial, and the study with the best one.

  A trial whose loss is not finite counts as accuracy 0: a rate that diverges is a bad rate, not an accident.
  """
  trials = []
  for rate in tuning.peak_rates:
    runtime.progress.title = f"{workdir.parent.name} | rate {rate:g}"
    trial = _trial(study, tuning, rate)
    compute = functools.partial(_trial_row, trial, rate, tuning, runtime)
    passes = image_passes(trial, len(runtime.open(trial.data)))
    recalled = functools.partial(runtime.progress.skip, passes)
    note = runtime.progress.note
    trials.append(remember(workdir / f"{rate!r}.json", compute, recalled=recalled, note=note))
  best = max(trials, key=lambda row: row["accuracy"])["peak_rate"]
  return trials, dataclasses.replace(study, optimizer=with_rate(study.optimizer, best))


def experiment_of(study: Pretrain) -> Experiment:
  """Returns the experiment inside the study."""
  names = [field.name for field in dataclasses.fields(Experiment)]
  return Experiment(**{name: getattr(study, name) for name in names})


def with_rate(optimizer: Spec, rate: float) -> Spec:
  """Returns the optimiser with another peak rate."""
  if "peak_rate" not in inspect.signature(optimizer.target).parameters:
    raise ConfigError(
      f"tune sets 'peak_rate', which {optimizer.path} does not have; use .optim.sgd, adam or adamw"
    )
  return dataclasses.replace(optimizer, keywords={**optimizer.keywords, "peak_rate": rate})


def _trial(study: Pretrain, tuning: Tune, rate: float) -> Experiment:
  edge = 1 - tuning.held_out
  part = held_out(study, tuning)
  return dataclasses.replace(
    experiment_of(study),
    optimizer=with_rate(study.optimizer, rate),
    epochs=tuning.epochs,
    steps=None,
    data=_part(study.data, 0.0, edge, tuning.seed),
    evaluation={
      "held_out": dataclasses.replace(
        _part(study.data, edge, 1.0, tuning.seed),
        transforms=part.transforms,
        batch_transforms=(),
        batch_size=part.batch_size,
      )
    },
    checkpoint_every=None,
    evaluate_every=None,
  )


def held_out(study: Pretrain, tuning: Tune) -> Data:
  """Returns the evaluation set whose transforms apply to the held-out part."""
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


def trial_training(study: Pretrain, tuning: Tune) -> Training:
  """Returns the trials of all rates for a plan, at the study's own rate so that nothing is traced twice."""
  trial = dataclasses.replace(_trial(study, tuning, tuning.peak_rates[0]), optimizer=study.optimizer)
  times = len(tuning.peak_rates)
  return Training(trial.data, lambda facts: trial, at=TUNING, times=times, is_shared=True, is_listed=False)
