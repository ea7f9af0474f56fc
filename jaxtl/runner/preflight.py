"""Checks before a run starts: an arm's trainings without data, then its data and checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtl.checkpoints import checkpoint
from jaxtl.data.class_names import same_classes
from jaxtl.errors import ConfigError, InputError
from jaxtl.runner.plan import Plan, plan_of
from jaxtl.train.inputs import all_data, check_batch_sizes, check_transforms
from jaxtl.train.runtime import Runtime


def rehearse_arm(rows: Callable[..., Any], name: str, study: Any, runtime: Runtime) -> Plan:
  """Creates the components of an arm without data, so that mistakes show now, not after hours of training.

  Returns:
    The arm's plan.

  Raises:
    ConfigError: a mistake in the arm, which the message names.
  """
  try:
    check_batch_sizes(study, runtime.mesh)
  except ConfigError as error:
    raise ConfigError(f"config.arms.{name}.{error}") from error
  with _in_arm(name):
    plan = plan_of(rows, study, runtime)
    for _, data in all_data(study):
      check_transforms(data)
    for training in plan.trainings.values():
      training.rehearse(training.facts_in_config(), runtime.mesh)
  return plan


def check_data(plan: Plan, name: str, runtime: Runtime) -> None:
  """Opens the checkpoints and data of an arm, and refuses those that do not fit.

  Raises:
    CheckpointError, ConfigError, DataError: something does not fit; the message names the arm.
  """
  with _in_arm(name):
    for path in dict.fromkeys(plan.starts.values()):
      checkpoint.load(path)
    for images in plan.images:
      for _, data in images.parts:
        runtime.open(data)
      if images.check is not None:
        images.check()
    for at, expected, found in plan.same_classes:
      same_classes(runtime.open(expected).classes, runtime.open(found).classes, at=at)
    for training in plan.trainings.values():
      training.check_data(runtime)
    for check in plan.checks:
      check()


def expect(plans: Mapping[str, Plan], num_cells: Mapping[str, int], runtime: Runtime) -> None:
  """Adds the image passes of all cells that will run to the total of the progress line.

  Args:
    plans: arm -> its plan.
    num_cells: arm -> number of its cells that will run.
  """
  for name, plan in plans.items():
    passes = plan.shared_passes(runtime) + num_cells[name] * plan.cell_passes(runtime)
    runtime.progress.expect(passes)


@contextlib.contextmanager
def _in_arm(name: str) -> Iterator[None]:
  """Adds the name of the arm to the message of an input error."""
  try:
    yield
  except InputError as error:
    raise type(error)(f"config.arms.{name}: {error}") from error
