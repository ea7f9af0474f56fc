"""What a patching study refuses before anything is written: heads, sizes, search and start."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from jaxtl import weights
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data.class_names import same_classes
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError
from jaxtl.measure import network as networks
from jaxtl.runner.plan import Extent
from jaxtl.studies.patching import frozen_heads
from jaxtl.studies.patching import joint as patching_joint
from jaxtl.studies.patching.fine_tuning import fine_tuning, without
from jaxtl.studies.patching.settings import Patching, PatchTask
from jaxtl.train import experiment
from jaxtl.train.experiment import Experiment, make_model
from jaxtl.train.image_size import at_size, image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime


def rehearse(study: Patching, runtime: Runtime) -> None:
  """Makes all transforms, tries the search, and traces the fine-tuning where the checkpoint is there."""
  _try_search(study)
  if not study.train_head:
    without(study.fine_tune.optimizer, "head")
  for name, task in study.tasks.items():
    with _head_of_task(name):
      frozen_heads.check_count((task.head or study.head).realize(), _num_classes(task))
    for data in (task.validation, task.test, task.train):
      for spec in (*data.transforms, *data.batch_transforms) if data is not None else ():
        spec.realize()
  joint = study.merging is not None and "joint" in study.merging.methods
  if joint:
    patching_joint.shared_transforms(study)
  if not FilePath(study.start).exists():
    return
  start = checkpoint.load(study.start)
  _check_finite(start)
  model = start.model_spec(trust=runtime.trust)
  # All tasks must have images of one size, which not every one's transforms tell.
  size = next(filter(None, map(image_size_of, (task.test for task in study.tasks.values()))), None)
  sized = at_size(model, size) if size else model
  classes = {patch: _some_classes(task) for patch, task in study.patching.items()}
  for patch, count in classes.items():
    _trace(fine_tuning(study, patch, sized, head_of(sized)), count, size, runtime)
  if joint:
    tuned = patching_joint.joint_experiment(study, sized, head_of(sized), sizes=classes)
    _trace(tuned, sum(classes.values()), size, runtime)


def _trace(tuned: Experiment, num_classes: int, size: int | None, runtime: Runtime) -> None:
  facts: dict[str, Any] = dict(num_classes=num_classes, num_examples=None)
  experiment.rehearse(tuned, image_size=size, mesh=runtime.mesh, **facts)


def _some_classes(task: PatchTask) -> int:
  return _num_classes(task) or experiment.SOME_CLASSES


def _num_classes(task: PatchTask) -> int | None:
  """What the config says of the data."""
  parts = (task.train, task.validation, task.test)
  return next((data.num_classes for data in parts if data is not None and data.num_classes), None)


def head_of(model: Spec) -> str:
  """The name of a model's head among its parameters."""
  name: str = make_model(model, num_classes=0).head
  return name


def check_data(study: Patching, runtime: Runtime) -> None:
  """Refuses a checkpoint that is not there, parts of different classes, heads that cannot be made, and images
  of different sizes."""
  start = checkpoint.load(study.start)
  for name, task in study.tasks.items():
    classes = runtime.open(task.test).classes
    for part in ("validation", "train"):
      data: Data | None = getattr(task, part)
      if data is not None:
        same_classes(classes, runtime.open(data).classes, at=f"{name}.{part}")
    _check_head(study, name, start, runtime)
  model = at_size(start.model_spec(trust=runtime.trust), one_size(study, runtime))
  for patch in study.patching:
    experiment.check_schedule(fine_tuning(study, patch, model, head_of(model)), runtime)


def one_size(study: Patching, runtime: Runtime) -> int:
  """The side of all tasks' images, in pixels: one backbone is interpolated, so they must agree.

  Raises:
    DataError: they do not, or are not square.
  """
  sides: dict[str, int] = {}
  for name, task in study.tasks.items():
    for part in ("validation", "test", "train"):
      data: Data | None = getattr(task, part)
      if data is None:
        continue
      height, width = runtime.image_shape(data)[:2]
      if height != width:
        raise DataError(
          f"{name}.{part} gives images of {height} x {width}; a patching study needs square ones"
        )
      sides[f"{name}.{part}"] = height
  first, side = next(iter(sides.items()))
  for at, other in sides.items():
    if other != side:
      raise DataError(
        f"{at} gives images of {other} pixels, and {first} of {side}; all tasks share a backbone, so write "
        "the same size in their transforms"
      )
  return side


def head_in_extent(
  found: Extent, study: Patching, name: str, start: Weights | None, runtime: Runtime
) -> None:
  """Notes the files that a task's head needs and that are not there; checks it where everything is.

  Images that the config counts are not opened for it.
  """
  task = study.tasks[name]
  absent = frozen_heads.missing((task.head or study.head).realize())
  for line in absent:
    found.note(line)
  if start is None or absent or task.test.num_examples is not None:
    return
  try:
    runtime.open(task.test)
  except DataError:  # noted with the images
    return
  _check_head(study, name, start, runtime)


def _check_head(study: Patching, name: str, start: Weights, runtime: Runtime) -> None:
  task = study.tasks[name]
  around = frozen_heads.HeadInputs(
    name=name,
    start=start,
    head=head_of(start.model_spec(trust=runtime.trust)),
    classes=runtime.open(task.test).classes,
    features=_no_features,
    has_images=task.train is not None,
  )
  with _head_of_task(name):
    frozen_heads.check((task.head or study.head).realize(), around)


@contextlib.contextmanager
def _head_of_task(name: str) -> Iterator[None]:
  """Says of what is refused within whose head it is."""
  try:
    yield
  except InputError as error:
    raise type(error)(f"the head of {name}: {error}") from error


def _no_features() -> Any:
  raise ConfigError("a head's check(around) asks for features, which are made in the run alone")


def _try_search(study: Patching) -> None:
  """Runs the search on a parabola, as it is called later: cold, and with a sweep that is known."""
  for name in ("warm", "bounds"):
    if name not in inspect.signature(study.search.target).parameters:
      raise ConfigError(
        f"search is {study.search.path}, which takes no {name!r}; write .weights.optimize_alpha or brent"
      )

  def parabola(alpha: float) -> float:
    return (alpha - 0.3) ** 2

  search = study.search.realize()
  search(parabola)
  search(parabola, warm=weights.grid_search(parabola).evaluations)


def _check_finite(start: Weights) -> None:
  try:
    networks.check_finite(start.params, start.batch_stats)
  except InputError as error:
    raise CheckpointError(f"{start.path}: {error}") from error
