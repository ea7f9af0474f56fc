"""The plan of a pre-training: the training, the trials of its rate, and the transfer of its weights."""

from __future__ import annotations

import dataclasses

from jaxtl.runner.plan import Plan, Training
from jaxtl.studies.pretrain.settings import Pretrain
from jaxtl.studies.pretrain.tuning import TUNING, experiment_of, trial_training
from jaxtl.studies.transfer.plan import plan_protocols
from jaxtl.train.runtime import Runtime


def plan(study: Pretrain, runtime: Runtime) -> Plan:
  """Plans everything that the study trains, tunes and transfers."""
  trained = experiment_of(study)
  trainings = {"pre-training": Training(study.data, lambda facts: trained, is_whole=True)}
  if study.tune is not None:
    trainings[TUNING] = trial_training(study, study.tune)
  if study.transfer is None:
    return Plan(trainings=trainings)
  transferred = plan_protocols(study.transfer, study.model)
  return dataclasses.replace(transferred, trainings={**trainings, **transferred.trainings})
