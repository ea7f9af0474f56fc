"""The choice of a learning rate, and of one more value, by short trainings."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import train
from jaxtl.config import Spec
from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.host.remember import remember
from jaxtl.runner.plan import DataFacts, Training
from jaxtl.studies.pretrain.settings import Pretrain, Tune
from jaxtl.train.experiment import Experiment, image_passes, with_rate
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

TUNING = "tuning"


def tune(study: Pretrain, tuning: Tune, *, workdir: Path, runtime: Runtime) -> tuple[list[Row], Pretrain]:
  """Tries every combination; returns a row per trial, and the study with the best one.

  A trial whose loss is not finite counts as accuracy 0: a rate that diverges is a bad rate, not an accident.
  """
  trials = []
  for rate, value in _grid(tuning):
    text = f"rate {rate:g}" if value is None else f"rate {rate:g}, {_last(tuning.field)} {value:g}"
    runtime.progress.title = f"{workdir.parent.name} | {text}"
    trial = _trial(_with(study, tuning, rate, value), tuning)
    compute = functools.partial(_trial_row, trial, rate, value, tuning, runtime)
    passes = image_passes(trial, len(runtime.open(trial.data)))
    recalled = functools.partial(runtime.progress.skip, passes)
    name = f"{rate!r}.json" if value is None else f"{rate!r}_{value!r}.json"
    trials.append(remember(workdir / name, compute, recalled=recalled, note=runtime.progress.note))
  best = max(trials, key=lambda row: row["accuracy"])
  return trials, _with(study, tuning, best["peak_rate"], best.get("value"))


def _grid(tuning: Tune) -> list[tuple[float, float | None]]:
  """Returns every rate with every value; the value is None if only the rate is chosen."""
  values: tuple[float | None, ...] = tuning.values or (None,)
  return [(rate, value) for value in values for rate in tuning.peak_rates]


def _last(path: str | None) -> str:
  return (path or "").rpartition(".")[2]


def _with(study: Pretrain, tuning: Tune, rate: float, value: float | None) -> Pretrain:
  """Returns the study with these values."""
  study = dataclasses.replace(study, optimizer=with_rate(study.optimizer, rate))
  return study if value is None else with_value(study, str(tuning.field), value)


def with_value(study: Pretrain, path: str, value: float) -> Pretrain:
  """Returns the study with another value at a path such as `task.loss.margin`.

  Raises:
    ConfigError: the first part of the path is not a component of the study, or the component does not have
      the keyword.
  """
  first, *rest = path.split(".")
  component = getattr(study, first, None)
  if not isinstance(component, Spec) or not rest:
    raise ConfigError(
      f"tune.field is {path!r}; expected a keyword of the model, task, optimizer or gradient, such as "
      "'task.loss.margin'"
    )
  plain: Any = config_lib.plain(component)
  node = plain
  for key in rest[:-1]:
    node = node.get(key) if isinstance(node, dict) else None
  if not isinstance(node, dict):
    raise ConfigError(f"tune.field is {path!r}; nothing in the config is at {path.rpartition('.')[0]!r}")
  node[rest[-1]] = value
  changed: dict[str, Any] = {first: config_lib.spec(plain, at=f"tune.field {path!r}")}
  return dataclasses.replace(study, **changed)


def experiment_of(study: Pretrain) -> Experiment:
  """Returns the experiment inside the study."""
  names = [field.name for field in dataclasses.fields(Experiment)]
  return Experiment(**{name: getattr(study, name) for name in names})


def _trial(study: Pretrain, tuning: Tune) -> Experiment:
  edge = 1 - tuning.held_out
  part = held_out(study, tuning)
  return dataclasses.replace(
    experiment_of(study),
    epochs=tuning.epochs,
    steps=None,
    select=None,
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
  """Returns the evaluation set whose transforms apply to the held-out part.

  Raises:
    ConfigError: the study has no evaluation set of that name.
  """
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


def _trial_row(trial: Experiment, rate: float, value: float | None, tuning: Tune, runtime: Runtime) -> Row:
  row: Row = {"kind": "tune", "peak_rate": rate, "epochs": trial.epochs}
  if value is not None:
    row |= {"field": tuning.field, "value": value}
  try:
    trained = train.run(trial, seed=tuning.seed, runtime=runtime)
  except NonFiniteError as error:
    return row | {"accuracy": 0.0, "diverged": str(error)}
  accuracy = trained.last("eval/held_out/top1")
  if math.isnan(accuracy):
    raise ConfigError(
      f"tune compares top-1 accuracies, which {trial.task.path} does not measure; leave it out"
    )
  return row | {
    "accuracy": accuracy,
    "loss": trained.last("eval/held_out/cross_entropy"),
  }


def trial_trainings(study: Pretrain, tuning: Tune) -> dict[str, Training]:
  """Returns the trials for a plan: a training for each further value, and one for all rates.

  Every value is rehearsed, since it may be refused. The rate is the study's own, so that without further
  values nothing is traced twice.

  Raises:
    ConfigError: the optimiser has no peak rate, or `tune.field` is not a number of the config.
  """
  with_rate(study.optimizer, tuning.peak_rates[0])
  rates = len(tuning.peak_rates)
  found = {}
  for value in tuning.values or (None,):
    trial = _trial(study if value is None else with_value(study, str(tuning.field), value), tuning)
    name = TUNING if value is None else f"{TUNING} {tuning.field} = {value:g}"
    found[name] = Training(
      trial.data, functools.partial(_known, trial), at=name, times=rates, is_shared=True, is_listed=False
    )
  return found


def _known(trial: Experiment, facts: DataFacts) -> Experiment:
  return trial
