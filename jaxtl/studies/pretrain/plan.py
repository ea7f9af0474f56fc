"""The plan of a pre-training: the training, the trials of its rate, and the transfer of its weights."""

from __future__ import annotations

import dataclasses
import functools

from jaxtl import data as data_lib
from jaxtl.errors import DataError
from jaxtl.runner.plan import Plan, Training
from jaxtl.studies.pretrain.settings import Pretrain
from jaxtl.studies.pretrain.tuning import experiment_of, trial_trainings
from jaxtl.studies.transfer.plan import plan_protocols
from jaxtl.train.runtime import Runtime


def plan(study: Pretrain, runtime: Runtime) -> Plan:
  """Plans everything that the study trains, tunes and transfers."""
  trained = experiment_of(study)
  trainings = {"pre-training": Training(study.data, lambda facts: trained, is_whole=True)}
  if study.tune is not None:
    trainings |= trial_trainings(study, study.tune)
  if study.transfer is None:
    return Plan(trainings=trainings)
  transferred = plan_protocols(study.transfer, study.model, runtime)
  apart = functools.partial(_check_targets_apart, study, runtime)
  return dataclasses.replace(
    transferred,
    trainings={**trainings, **transferred.trainings},
    checks=[*transferred.checks, apart],
  )


def _check_targets_apart(study: Pretrain, runtime: Runtime) -> None:
  """Refuses a target some of whose test images the network is pre-trained on.

  Images are compared by the digests of their stored bytes. The same picture in another encoding is not found,
  and neither is one of a source that streams.
  """
  if study.transfer is None:
    return
  source = runtime.open(study.data)
  for name, target in study.transfer.targets.items():
    tested = runtime.open(target.test)
    if shared := data_lib.shared_images(source, tested):
      first, second = (one.where(index) for one, index in zip((source, tested), shared[0], strict=True))
      raise DataError(
        f"targets.{name}: {len(shared)} of its test images are in the pre-training data, such as {second} of "
        f"{tested.name}, which is {first} of {source.name}; leave them out of one of the two"
      )
