"""The plan of a patching study, and its checks of heads, sizes and search before anything is written."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from jaxtl import weights
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError
from jaxtl.measure import network as networks
from jaxtl.runner.plan import DataFacts, Images, Plan, Training, existing_start
from jaxtl.studies.patching import cost, frozen_heads
from jaxtl.studies.patching.fine_tuning import fine_tuning, without
from jaxtl.studies.patching.joint import joint_experiment, shared_transforms
from jaxtl.studies.patching.settings import Patching, PatchTask
from jaxtl.train.experiment import PLAIN, SOME_CLASSES, Experiment, make_model
from jaxtl.train.image_size import at_size, image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime


def plan(study: Patching, runtime: Runtime) -> Plan:
  """Plans the fine-tunings, the pairs and the merges; tries the search, and checks heads and transforms."""
  _try_search(study)
  if not study.train_head:
    without(study.fine_tune.optimizer, "head")
  for name, task in study.tasks.items():
    with _head_of_task(name):
      frozen_heads.check_count((task.head or study.head).realize(), _num_classes(task))
  start = existing_start(study.start)
  if start is not None:
    _check_finite(start)
  pairs = len(study.supported) * len(study.patching)
  counted = f"{pairs} = {len(study.supported)} supported x {len(study.patching)} patched"
  return Plan(
    starts={"start": study.start},
    lines=[("pairs", counted), *(_images(study, name, start, runtime) for name in study.tasks)],
    same_classes=[
      (f"{name}.{part}", task.test, data)
      for name, task in study.tasks.items()
      for part in ("validation", "train")
      if (data := getattr(task, part)) is not None
    ],
    trainings=_trainings(study, start, runtime),
    measurements={
      "pairs": lambda: cost.all_pairs(study, runtime),
      "merges": lambda: cost.all_merges(study, runtime),
    },
    checks=[lambda: one_size(study, runtime)],
  )


def _images(study: Patching, name: str, start: Weights | None, runtime: Runtime) -> Images:
  """Returns the images of a task, and the missing files that its head needs."""
  task = study.tasks[name]
  parts = {part: getattr(task, part) for part in ("train", "validation", "test")}
  absent = frozen_heads.missing((task.head or study.head).realize())
  check = None if start is None else functools.partial(_check_head, study, name, start, runtime)
  return Images(
    [(f"{{}} {part}", data) for part, data in parts.items() if data is not None],
    label=name,
    missing=absent,
    check=check,
  )


def _trainings(study: Patching, start: Weights | None, runtime: Runtime) -> dict[str, Training]:
  """Returns the fine-tuning on every patching task, and the joint one on all of them."""
  # All tasks must have images of one size, but not all of their transforms specify it.
  size = next(filter(None, map(image_size_of, (task.test for task in study.tasks.values()))), None)
  model = PLAIN if start is None else start.model_spec(trust=runtime.trust)
  found = {}
  for patch, task in study.patching.items():
    assert task.train is not None  # the study has checked it
    found[patch] = Training(
      task.train,
      functools.partial(_fine_tuning, study, patch, model, start is not None),
      has_model=start is not None,
      known=DataFacts(num_classes=_num_classes(task), image_size=size),
    )
  if study.merging is not None and "joint" in study.merging.methods:
    shared_transforms(study)
    counts = {patch: _num_classes(task) or SOME_CLASSES for patch, task in study.patching.items()}
    joint = functools.partial(_joint, study, model, start is not None, counts)
    known = DataFacts(num_classes=sum(counts.values()), image_size=size)
    data = joint(known).data
    # The measurement of the merges counts it.
    found["joint"] = Training(data, joint, has_model=start is not None, known=known, is_listed=False, times=0)
  return found


def _fine_tuning(study: Patching, patch: str, model: Spec, has_model: bool, known: DataFacts) -> Experiment:
  sized = at_size(model, known.image_size)
  return fine_tuning(study, patch, sized, head_of(sized) if has_model else "head")


def _joint(
  study: Patching, model: Spec, has_model: bool, counts: Mapping[str, int], known: DataFacts
) -> Experiment:
  sized = at_size(model, known.image_size)
  return joint_experiment(study, sized, head_of(sized) if has_model else "head", sizes=counts)


def _num_classes(task: PatchTask) -> int | None:
  """Returns the number of classes that the config specifies; None if it specifies none."""
  parts = (task.train, task.validation, task.test)
  return next((data.num_classes for data in parts if data is not None and data.num_classes), None)


def head_of(model: Spec) -> str:
  """Returns the name of a model's head among its parameters."""
  name: str = make_model(model, num_classes=0).head
  return name


def one_size(study: Patching, runtime: Runtime) -> int:
  """Returns the side of all tasks' images, in pixels; they must agree, since one backbone is interpolated.

  Raises:
    DataError: the sides do not agree, or images are not square.
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
  """Adds the name of the head's task to the message of an input error."""
  try:
    yield
  except InputError as error:
    raise type(error)(f"the head of {name}: {error}") from error


def _no_features() -> Any:
  raise ConfigError("a head's check(around) asks for features, which are made in the run alone")


def _try_search(study: Patching) -> None:
  """Runs the search on a parabola in both ways of later calls: cold, and with the known values of a grid."""
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
