"""The work of a patching study in image passes, for the estimate of the time left."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtl.measure.passes import FORWARD, GRADIENT
from jaxtl.studies.patching.fine_tuning import fine_tuning
from jaxtl.studies.patching.settings import Merging, Patching
from jaxtl.train.experiment import PLAIN, image_passes
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime

# Coefficients at which a pair is evaluated: 21 of the grid, those of the cold search and of the one that
# starts from the grid, and those that are reported, on the test images.
_GRID, _SEARCHED, _REPORTED = 21, 14, 8
_SEARCH = 11  # of a single search


def all_pairs(study: Patching, runtime: Runtime) -> float:
  """Returns the work of evaluating every pair."""
  return sum(pair(study, runtime, old, new) for new in study.patching for old in study.supported)


def all_merges(study: Patching, runtime: Runtime) -> float:
  """Returns the work of evaluating every merge, and of the fine-tunings that merges need."""
  if (plan := study.merging) is None:
    return 0.0
  return sum(
    merge(study, plan, runtime, method) + merge_tuning(study, runtime, method)
    for method, _ in methods(study, plan)
  )


def methods(study: Patching, plan: Merging) -> list[tuple[str, str]]:
  """Returns (method, task that is forgotten or "") for every merge."""
  return [
    (method, patch)
    for method in plan.methods
    for patch in (study.patching if method == "negation" else ("",))
  ]


def tuning(study: Patching, runtime: Runtime, patch: str) -> float:
  """Returns the work of fine-tuning on a patching task."""
  return _tuning(study, patch, _images(study, runtime, "train", [patch]))


def pair(study: Patching, runtime: Runtime, supported: str, patch: str) -> float:
  """Returns the work of evaluating a pair; only the first pair evaluates its patching task on the grid."""
  old, new = (_images(study, runtime, "validation", [name]) for name in (supported, patch))
  first = supported == next(iter(study.supported))
  alphas = _GRID + _SEARCHED
  seen = alphas * old + (alphas if first else _SEARCHED) * new
  tested = _REPORTED * _images(study, runtime, "test", [supported, patch])
  return FORWARD * (seen + tested + alphas * statistics(study, patch)) + GRADIENT * old


def statistics(study: Patching, patch: str) -> float:
  """Returns the number of images from which the statistics of one coefficient are estimated."""
  train = study.patching[patch].train
  return study.statistics_batches * train.batch_size if train is not None else 0.0


def merge(study: Patching, plan: Merging, runtime: Runtime, method: str) -> float:
  """Returns the work of evaluating one merge on all tasks."""
  names = list(study.tasks)
  first = next(iter(study.patching))
  seen = _images(study, runtime, "validation", names) + statistics(study, first)
  return FORWARD * (
    _evaluations(plan, method, len(study.patching)) * seen + _images(study, runtime, "test", names)
  )


def merge_tuning(study: Patching, runtime: Runtime, method: str) -> float:
  """Returns the work of fine-tuning that a merge needs in addition to that of each task."""
  if method == "sequential":
    return sum(tuning(study, runtime, patch) for patch in study.patching)
  if method == "joint":
    most = max(_images(study, runtime, "train", [patch]) for patch in study.patching)
    return _tuning(study, next(iter(study.patching)), most * len(study.patching))
  return 0.0


def _evaluations(plan: Merging, method: str, tasks: int) -> float:
  """Estimates how often a merge is evaluated on all tasks."""
  steps = int(1 / plan.step + 1e-9) + 1
  return {
    "joint": _SEARCH + 1,
    "sequential": _SEARCH * tasks,
    "parallel": _SEARCH * (1 + plan.max_sweeps * tasks),
    "uniform_soup": 1,
    "greedy_soup": tasks + 2,
    "fisher": 2,
  }.get(method, steps)


def _tuning(study: Patching, patch: str, num_examples: int) -> float:
  return image_passes(fine_tuning(study, patch, PLAIN, "head"), num_examples)


def _images(study: Patching, runtime: Runtime, part: str, names: Iterable[str]) -> int:
  found: list[Data | None] = [getattr(study.tasks[name], part) for name in names]
  return sum(len(runtime.open(data)) for data in found if data is not None)
