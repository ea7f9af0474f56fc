"""The plan of a transfer: the images of every target, its probe and its fine-tuning."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jaxtl.config import Spec
from jaxtl.errors import ConfigError
from jaxtl.runner.plan import DataFacts, Images, Plan, Training, existing_start
from jaxtl.studies.transfer.fine_tuning import filled_protocols, fine_tuning
from jaxtl.studies.transfer.probes import first_of_each_class
from jaxtl.studies.transfer.settings import FewShot, FineTune, Protocols, Target, Transfer
from jaxtl.train import prefix_cache
from jaxtl.train.experiment import PLAIN, Experiment, Program
from jaxtl.train.image_size import at_size
from jaxtl.train.runtime import Runtime
from jaxtl.types import TrainState


def plan(study: Transfer, runtime: Runtime) -> Plan:
  """Plans a study that transfers one checkpoint."""
  start = existing_start(study.start)
  starts = {"start": study.start}
  if start is None:
    return plan_protocols(study.transfer, None, runtime, starts=starts)
  model = start.model_spec(trust=runtime.trust)
  return plan_protocols(filled_protocols(study.transfer, start, runtime), model, runtime, starts=starts)


def plan_protocols(
  protocols: Protocols, model: Spec | None, runtime: Runtime, *, starts: dict[str, str] | None = None
) -> Plan:
  """Plans the measurements on every target.

  Args:
    protocols: the targets, with transforms if the checkpoint is known.
    model: the network that is transferred; None if it is not known.
    runtime: opens the data for the checks.
    starts: the checkpoints that the study starts from; see `Plan`.
  """
  targets, probe, fine_tune = protocols.targets, protocols.linear_probe, protocols.fine_tune
  lines: list[Any] = [
    Images(
      [
        ("{} train", target.train),
        *([] if target.validation is None else [("{} validation", target.validation)]),
        ("{} test", target.test),
      ],
      label=name,
    )
    for name, target in targets.items()
  ]
  if probe is not None:
    penalties = f"{len(probe.l2)} {'penalty' if len(probe.l2) == 1 else 'penalties'}"
    lines.append(("probe", f"{penalties}, at most {probe.max_iters} L-BFGS steps: every target"))
  few_shot = protocols.few_shot
  if few_shot is not None:
    shots = ", ".join(map(str, few_shot.shots))
    lines.append(("few shots", f"{shots} images per class, {few_shot.draws} draws: every target"))
  return Plan(
    starts=starts or {},
    lines=lines,
    checks=[] if few_shot is None else [functools.partial(_check_shots, few_shot, targets, runtime)],
    same_classes=[
      (f"targets.{name}.{part}", target.train, data)
      for name, target in targets.items()
      for part, data in (("validation", target.validation), ("test", target.test))
      if data is not None
    ],
    trainings={}
    if fine_tune is None
    else {f"fine-tune {name}": _training(fine_tune, name, target, model) for name, target in targets.items()},
  )


def _check_shots(few_shot: FewShot, targets: Mapping[str, Target], runtime: Runtime) -> None:
  """Refuses a target with a class that has fewer training images than a few-shot probe needs."""
  for name, target in targets.items():
    labels = runtime.open(target.train).labels
    first_of_each_class(labels, max(few_shot.shots), seed=(0,), name=f"targets.{name}")


def _training(fine_tune: FineTune, name: str, target: Target, model: Spec | None) -> Training:
  def experiment(known: DataFacts) -> Experiment:
    sized = at_size(PLAIN if model is None else model, known.image_size)
    return fine_tuning(fine_tune, target, sized, known.num_examples)

  def traced(program: Program, state: TrainState) -> None:
    if model and fine_tune.head == "probe":
      _check_linear(model, program, state)
    try:
      prefix_cache.check_legal(fine_tune.cache, program, state, target.train)
    except ConfigError as error:
      raise ConfigError(f"fine_tune.cache: {error}") from error

  times = len(fine_tune.peak_rates) or 1
  return Training(target.train, experiment, has_model=model is not None, at=name, traced=traced, times=times)


def _check_linear(model: Spec, program: Program, state: TrainState) -> None:
  """Refuses to start from the probe's head if the model's own is not linear."""
  head = sorted(state.params[program.model.head])
  if head != ["bias", "kernel"]:
    raise ConfigError(
      f"fine_tune.head is 'probe', which needs a linear head, and that of {model.path} has "
      f"{' and '.join(head)}; write head='fresh', or give the model a linear head"
    )
