"""The fine-tuning on a target as an experiment, and targets with their transforms filled in."""

from __future__ import annotations

import dataclasses

from jaxtl import data as data_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.studies.transfer import preprocessing
from jaxtl.studies.transfer.settings import CLEAN, VALIDATION, FineTune, Protocols, Target
from jaxtl.train.experiment import Experiment, frozen, steps_in
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime

# Metrics records per epoch of a fine-tuning, over which its curve takes the mean.
RECORDS = 10


def filled_protocols(protocols: Protocols, start: Weights, runtime: Runtime) -> Protocols:
  """Returns the protocols with transforms for every target."""
  targets = {name: _filled(name, target, start, runtime) for name, target in protocols.targets.items()}
  return dataclasses.replace(protocols, targets=targets)


def _filled(name: str, target: Target, start: Weights, runtime: Runtime) -> Target:
  at, validation = f"targets.{name}", target.validation
  train, test = preprocessing.filled(target.train, target.test, start, at=at, trust=runtime.trust)
  if validation is not None and not validation.transforms:
    validation = dataclasses.replace(validation, transforms=test.transforms)
  return Target(train, test, validation)


def _clean(target: Target, num_examples: int) -> Data:
  """Returns training images with the transforms of the test images."""
  keywords = {"source": target.train.source, "num_examples": num_examples}
  source = Spec(".data.subset", "make", keywords, data_lib.subset)
  return dataclasses.replace(target.test, source=source, num_examples=None)


def fine_tuning(fine_tune: FineTune, target: Target, model: Spec, num_examples: int | None) -> Experiment:
  """Returns the experiment that fine-tunes `model` on a target.

  Args:
    model: of the checkpoint; the adapter, if there is one, extends it.
    num_examples: size of the training set; None if it is not known, for an experiment that is only traced.
  """
  every, adapter = fine_tune.evaluate_every_epochs, fine_tune.adapter
  if adapter is not None:
    model = dataclasses.replace(adapter, keywords={**adapter.keywords, "model": model})
  return Experiment(
    model=model,
    task=fine_tune.task if fine_tune.from_scratch else frozen(fine_tune.task),
    data=target.train,
    optimizer=fine_tune.optimizer,
    gradient=fine_tune.gradient,
    epochs=fine_tune.epochs,
    steps=fine_tune.steps,
    evaluation={
      **({} if target.validation is None else {VALIDATION: target.validation}),
      **({} if fine_tune.curve is None else {CLEAN: _clean(target, fine_tune.curve.num_examples)}),
      "test": target.test,
    },
    select=fine_tune.select,
    evaluate_every=steps_in(every, target.train, num_examples) if every and num_examples else None,
    log_every=steps_in(1 / RECORDS, target.train, num_examples) if num_examples else 1,
    checkpoint_every=fine_tune.checkpoint_every,
    keep=max(fine_tune.keep, 1),
  )
