"""The PAINT coefficient of two existing weights: one before and one after fine-tuning on another task.

Ilharco, Wortsman, Gadre, Song, Hajishirzi, Kornblith, Farhadi, Schmidt, "Patching open-vocabulary models by
interpolating weights", 2022, arXiv 2208.05592. Each task is answered through the head of its own weights: the
supported one by that of `before`, the patching one by that of `after`. Only the backbones are interpolated,
with their stored normalisation statistics.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxtl import config as config_lib
from jaxtl import weights as weights_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data import part_of
from jaxtl.data.check import check
from jaxtl.data.class_names import class_difference, same_classes
from jaxtl.errors import ConfigError, DataError
from jaxtl.studies.patching.backbone import Backbone
from jaxtl.studies.patching.frozen_heads import HeadInputs, own
from jaxtl.studies.patching.path import WeightPath
from jaxtl.studies.patching.settings import PatchTask
from jaxtl.studies.patching.tasks import Scores, Tasks
from jaxtl.train import numerics
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Params
from jaxtl.weights import AlphaResult, PaintObjective

SUPPORTED, PATCHING = "supported", "patching"
TASKS = (SUPPORTED, PATCHING)


@dataclasses.dataclass(frozen=True, eq=False)
class Patched:
  """The coefficient, the scores, and the patched weights.

  Attributes:
    search: the search for the coefficient.
    objective: alpha -> the sum of normalised losses, for each evaluated point.
    curve: alpha -> {task: {"loss", "top1"}} on the images that choose it, for each evaluated point.
    scores: alpha -> the same on the other images, at 0, at the coefficient and at 1.
    num_choosing, num_scored: {task: number of images}.
    weights: {task: the patched backbone with the task's head, as a checkpoint}.
  """

  search: AlphaResult
  objective: dict[float, float]
  curve: dict[float, dict[str, Scores]]
  scores: dict[float, dict[str, Scores]]
  num_choosing: dict[str, int]
  num_scored: dict[str, int]
  weights: dict[str, Weights]

  @property
  def alpha(self) -> float:
    return self.search.alpha


def patch(
  before: Weights, after: Weights, *, supported: Data, patching: Data, runtime: Runtime, share: float = 0.5
) -> Patched:
  """Finds the coefficient between two weights that is best for both tasks together.

  Args:
    before: the weight that is good at the supported task; its head answers that task.
    after: the same after fine-tuning on the patching task; its head answers that one.
    supported, patching: the images of the tasks, prepared as the weights expect.
    runtime: opens the data.
    share: the share of each class that chooses the coefficient; the other images are scored.

  Raises:
    ConfigError: the weights are of different architectures, or equal, or `share` is not between 0 and 1.
    DataError: a task has other classes than its weights, or the tasks have images in common.
  """
  if not 0 < share < 1:
    raise ConfigError(f"expected a share between 0 and 1, got {share:g} (for example 0.5)")
  _check_data(before, after, runtime.open(supported), runtime.open(patching))
  side = _side(supported, patching, runtime)
  ends = {SUPPORTED: _backbone(before, side, runtime), PATCHING: _backbone(after, side, runtime)}
  check_alike(ends[SUPPORTED], ends[PATCHING], trust=runtime.trust)
  parts = {SUPPORTED: _task(supported, before, share), PATCHING: _task(patching, after, share)}
  tasks = Tasks(parts, ends[SUPPORTED], runtime, head=Spec(".studies.patching.own", "fn", {}, own), seed=0)
  path = WeightPath(tasks, *map(_body, ends.values()))
  objective = PaintObjective(path.losses(TASKS), supported=[SUPPORTED], patching=[PATCHING])
  search = weights_lib.optimize_alpha(objective)
  found = jax.device_get(path.weights(search.alpha))
  about = {"alpha": float(search.alpha), "before": before.path, "after": after.path}
  alphas = sorted(objective.losses)
  return Patched(
    search,
    {alpha: objective(alpha) for alpha in alphas},
    {alpha: path.scores(alpha, TASKS) for alpha in alphas},
    {alpha: path.scores(alpha, TASKS, "test") for alpha in (0.0, search.alpha, 1.0)},
    _sizes(parts, "validation", runtime),
    _sizes(parts, "test", runtime),
    {name: _checkpoint(found, ends[name], parts[name].test, about) for name in TASKS},
  )


def check_alike(before: Backbone, after: Backbone, *, trust: bool = False) -> None:
  """Refuses two weights of different architectures or sizes, and equal ones.

  Raises:
    ConfigError: the architectures or the sizes differ, or the backbones are equal.
  """
  first, second = (end.start.config["model"] for end in (before, after))
  if first["make"] != second["make"]:
    raise ConfigError(
      f"{before.start.path} is a {_name(first)} and {after.start.path} a {_name(second)}; only weights of "
      "one architecture can be interpolated"
    )
  shapes = [jax.tree.map(np.shape, _body(end)) for end in (before, after)]
  if shapes[0] != shapes[1]:
    raise ConfigError(
      f"{before.start.path} and {after.start.path} are both a {_name(first)}, but of different sizes; only "
      "weights of one architecture can be interpolated"
    )
  if jax.tree.all(jax.tree.map(np.array_equal, *(_body(end) for end in (before, after)))):
    raise ConfigError(
      f"{before.start.path} and {after.start.path} have equal backbones; give the weights before and after "
      "fine-tuning"
    )
  numerics.check(
    before.spec,
    before.model(len(after.start.classes)),
    after.start,
    {**after.params, after.head: after.start.params[after.head]},
    after.batch_stats,
    image_shape=(before.side, before.side, 3),
    num_classes=len(after.start.classes),
    head=False,
    trust=trust,
  )


def _name(model: dict[str, Any]) -> str:
  return str(model["make"]).rpartition(".")[2]


def _check_data(before: Weights, after: Weights, supported: Any, patching: Any) -> None:
  swapped = not class_difference(before.classes, patching.classes) and not class_difference(
    after.classes, supported.classes
  )
  if swapped and class_difference(before.classes, supported.classes):
    raise DataError(
      "the supported data have the classes of AFTER, and the patching data those of BEFORE; exchange the data"
    )
  same_classes(before.classes, supported.classes, at=f"the supported data {supported.name}")
  same_classes(after.classes, patching.classes, at=f"the patching data {patching.name}")
  pairs = check(supported, others=[patching]).overlaps[patching.name]
  if pairs:
    raise DataError(
      f"the supported and the patching data have {len(pairs)} images in common, such as {pairs[0][0]} and "
      f"{pairs[0][1]}; give data sets without common images"
    )


def _side(supported: Data, patching: Data, runtime: Runtime) -> int:
  """Returns the side of the images of both tasks, in pixels."""
  first, second = (tuple(runtime.image_shape(data)[:2]) for data in (supported, patching))
  if first != second or first[0] != first[1]:
    raise DataError(
      f"the supported images are {first[0]} x {first[1]} and the patching ones {second[0]} x {second[1]}; "
      f"expected one square size (for example --image-size {first[0]})"
    )
  return int(first[0])


def _backbone(start: Weights, side: int, runtime: Runtime) -> Backbone:
  return Backbone.of(start, side=side, trust=runtime.trust)


def _body(backbone: Backbone) -> Params:
  return {"params": backbone.params, "batch_stats": backbone.batch_stats}


def _task(data: Data, start: Weights, share: float) -> PatchTask:
  """Returns a task that the head of `start` answers."""

  def head(around: HeadInputs) -> Params:
    return start.params[around.head]

  def part(**span: float) -> Data:
    return dataclasses.replace(
      data, source=Spec(".data.part_of", "make", {"source": data.source, **span}, part_of)
    )

  return PatchTask(
    validation=part(stop=share),
    test=part(start=share),
    head=Spec(".studies.patching.own", "fn", {}, head),
  )


def _sizes(tasks: dict[str, PatchTask], part: str, runtime: Runtime) -> dict[str, int]:
  return {name: len(runtime.open(getattr(task, part))) for name, task in tasks.items()}


def _checkpoint(found: Params, end: Backbone, data: Data, about: dict[str, Any]) -> Weights:
  """Returns the patched backbone with the head and the classes of `end`, and the preprocessing of `data`."""
  config = {
    **end.start.config,
    "model": config_lib.plain(end.spec),
    "transforms": config_lib.plain(list(data.transforms)),
    "image_shape": [end.side, end.side, 3],
    "patched": about,
  }
  params = {**found["params"], end.head: end.start.params[end.head]}
  return Weights(params, found["batch_stats"], config, f"{about['before']} patched")
