"""Merges all patching tasks into one model: joint, sequential and parallel patching, and other methods.

Each method yields one set of weights, which is scored on every task through the task's own head. Coefficients
are chosen by the normalised sum of validation losses, averaged within the supported and within the patching
tasks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxtl import weights
from jaxtl.errors import ConfigError
from jaxtl.host.remember import remember
from jaxtl.studies.patching import cost, joint
from jaxtl.studies.patching.fine_tuning import FineTunedTasks
from jaxtl.studies.patching.settings import Merging
from jaxtl.studies.patching.tasks import Scores
from jaxtl.types import Params, Row
from jaxtl.weights import PaintObjective

# Share of the accuracy on the supported tasks that negation must preserve: the control of the task arithmetic
# paper.
LEAST_KEPT = 0.95


@dataclasses.dataclass(frozen=True)
class Merged:
  """Merged weights, their coefficients, and the augmentations that their training omitted."""

  weights: Params
  coefficients: tuple[float, ...] = ()
  num_evaluations: int = 0
  left_out: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)


def rows(bench: FineTunedTasks, merging: Merging) -> Iterator[Row]:
  """Yields one row for each method; negation has one for each patching task."""
  scale = _Scale(bench)
  progress = bench.runtime.progress
  for method, patch in cost.methods(bench.study, merging):
    progress.title = f"{bench.title} | {method}"
    name = f"{method}.{patch}" if patch else method
    passes = cost.merge(bench.study, merging, bench.runtime, method)
    trained = cost.merge_tuning(bench.study, bench.runtime, method)
    row = remember(
      bench.workdir / "merges" / f"{name}.json",
      functools.partial(_metered, bench, merging, scale, method, patch, passes),
      recalled=functools.partial(progress.skip, passes + trained),
      note=progress.note,
    )
    progress.note(f"{row['method']}: {row['num_evaluations']} evaluations")
    yield row


def _metered(
  bench: FineTunedTasks, merging: Merging, scale: _Scale, method: str, patch: str, work: float
) -> Row:
  with bench.tasks.meter.part("sweep", work=work):
    return _row(bench, merging, scale, method, patch)


class _Scale:
  """Evaluates the objective of any weights, and counts the evaluations."""

  def __init__(self, bench: FineTunedTasks):
    self.bench, self.count = bench, 0
    self.supported, self.patching = list(bench.study.supported), list(bench.study.patching)

  @functools.cached_property
  def objective(self) -> PaintObjective:
    """The objective on the line to the mean of all fine-tuned weights.

    The ends of this line normalise all other losses.
    """
    before = self.bench.before
    after = weights.uniform_soup([self.bench.fine_tuned(patch) for patch in self.patching])
    path = self.bench.line(before, after, *self.patching)
    return self.bench.objective(path, self.supported, self.patching)

  def scores(self, found: Params, part: str = "validation") -> dict[str, Scores]:
    return {name: self.bench.tasks.scores(name, part, found) for name in self.supported + self.patching}

  def value(self, found: Params) -> float:
    """Returns the normalised sum of validation losses."""
    self.count += 1
    self.bench.tasks.meter.place = ""
    return self.objective.combine({name: one["loss"] for name, one in self.scores(found).items()})

  def accuracy(self, found: Params) -> float:
    """Returns the mean validation accuracy over all tasks."""
    self.count += 1
    return float(np.mean([one["top1"] for one in self.scores(found).values()]))


def _row(bench: FineTunedTasks, merging: Merging, scale: _Scale, method: str, patch: str) -> Row:
  before = scale.count
  merged = _METHODS[method](bench, merging, scale, *([patch] if patch else []))
  tested = scale.scores(merged.weights, "test")
  top1 = {name: one["top1"] for name, one in tested.items()}
  single = {name: bench.specialist(name)["top1"] for name in scale.patching}
  return {
    "kind": "merge",
    "method": f"{method} of {patch}" if patch else method,
    "coefficients": list(merged.coefficients),
    "num_evaluations": merged.num_evaluations or scale.count - before,
    "objective": scale.value(merged.weights),
    "normalisation": scale.objective.normalisation,
    "left_out": dict(merged.left_out),
    "test_top1": top1,
    "test_loss": {name: one["loss"] for name, one in tested.items()},
    "test_supported_top1": float(np.mean([top1[name] for name in scale.supported])),
    "test_patching_top1": float(np.mean([top1[name] for name in scale.patching])),
    # Ilharco et al., "Editing Models with Task Arithmetic", 2022, arXiv 2212.04089.
    "normalised_accuracy": _mean_share(top1, single),
  }


def _mean_share(top1: Mapping[str, float], single: Mapping[str, float]) -> float:
  """Averages `top1` over `single` across tasks; NaN if an accuracy in `single` is 0."""
  if not all(single.values()):
    return float("nan")
  return float(np.mean([top1[name] / accuracy for name, accuracy in single.items()]))


def _joint(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  """Fine-tunes one model on all tasks at once, each with its own head, then chooses one coefficient."""
  sizes = {patch: len(bench.tasks.classes(patch)) for patch in scale.patching}
  backbone = bench.tasks.backbone
  experiment = joint.joint_experiment(bench.study, backbone.spec, backbone.head, sizes=sizes)
  after = bench.trained(experiment, *_joint_head(bench), name="joint")
  path = bench.line(bench.before, after, *scale.patching)
  objective = bench.objective(path, scale.supported, scale.patching)
  found = bench.study.search.realize()(objective)
  left_out = joint.shared_transforms(bench.study).left_out
  return Merged(path.weights(found.alpha), (found.alpha,), found.num_evaluations, left_out)


def _sequential(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  """Patches one task after the other, starting from the weights so far.

  Tasks that are already patched count as supported.
  """
  alphas: list[float] = []
  current, count = bench.before, 0
  for number, patch in enumerate(scale.patching):
    done = scale.patching[:number]
    name = f"sequential/{number}_{patch}"
    after = bench.fine_tuned(patch, start=current, name=name)
    path = bench.line(current, after, *done, patch)
    found = bench.study.search.realize()(bench.objective(path, [*scale.supported, *done], [patch]))
    current = jax.device_get(path.weights(found.alpha))
    alphas, count = [*alphas, found.alpha], count + found.num_evaluations
  return Merged(current, tuple(alphas), count)


def _parallel(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  """Adds all task vectors, first with alpha / k each, then with one coefficient for each."""
  vectors = _vectors(bench, scale)
  found = bench.study.search.realize()(scale.objective)
  point = tuple(found.alpha / len(vectors) for _ in vectors)
  count = found.num_evaluations
  make = functools.partial(_sum, bench, vectors)
  if merging.max_sweeps:
    refined = weights.coordinate_search(
      lambda c: scale.value(make(c)),
      point,
      bounds=bench.study.bounds,
      max_sweeps=merging.max_sweeps,
      search=bench.study.search.realize(),
    )
    point, count = refined.coefficients, count + refined.num_evaluations
  return Merged(make(point), point, count)


def _uniform_soup(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  models = [bench.fine_tuned(patch) for patch in scale.patching]
  return Merged(_renewed(bench, weights.uniform_soup(models)))


def _greedy_soup(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  """Makes a greedy soup by mean validation accuracy over all tasks.

  The backbone itself is one of the models.
  """
  models = [bench.before, *(bench.fine_tuned(patch) for patch in scale.patching)]
  found = weights.greedy_soup(models, lambda one: scale.accuracy(_renewed(bench, one)))
  shares = tuple(float(number in found.members) / len(found.members) for number in range(1, len(models)))
  return Merged(_renewed(bench, found.params), shares)


def _task_arithmetic(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  return _best_multiple(bench, merging, scale, _vectors(bench, scale))


def _ties(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  return _best_multiple(bench, merging, scale, [_joined(merging, _vectors(bench, scale))])


def _dare(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  return _best_multiple(bench, merging, scale, _thinned(bench, merging, scale))


def _dare_ties(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  return _best_multiple(bench, merging, scale, [_joined(merging, _thinned(bench, merging, scale))])


def _thinned(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> list[Params]:
  """Returns all task vectors after DARE."""
  keys = jax.random.split(jax.random.key(bench.seed), len(scale.patching))
  pairs = zip(keys, _vectors(bench, scale), strict=True)
  return [weights.dare(key, vector, drop=merging.drop) for key, vector in pairs]


def _joined(merging: Merging, vectors: Sequence[Params]) -> Params:
  """Combines several task vectors into one by TIES."""
  return weights.ties(vectors, density=merging.density, aggregate=merging.aggregate)


def _negation(bench: FineTunedTasks, merging: Merging, scale: _Scale, patch: str) -> Merged:
  """Forgets one task.

  Chooses the lowest accuracy on it that preserves 95 % of the accuracy on the supported tasks.
  """
  vector = weights.task_vector(bench.before["params"], bench.fine_tuned(patch)["params"])
  first = _supported(scale, bench.before)
  best, kept = (bench.tasks.scores(patch, "validation", bench.before)["top1"], 0.0), bench.before
  for size in _multiples(merging):
    found = _sum(bench, [vector], (-size,))
    accuracy = bench.tasks.scores(patch, "validation", found)["top1"]
    scale.count += 1
    if accuracy < best[0] and _supported(scale, found) >= LEAST_KEPT * first:
      best, kept = (accuracy, -size), found
  return Merged(kept, (best[1],))


def _fisher(bench: FineTunedTasks, merging: Merging, scale: _Scale) -> Merged:
  """Averages the fine-tuned models, weighted by Fisher information.

  The weight of an entry is how much the model's own task depends on it.
  """
  models = [bench.fine_tuned(patch) for patch in scale.patching]
  diagonals = [
    bench.tasks.fisher_diagonal(patch, model, num_examples=merging.num_fisher)
    for patch, model in zip(scale.patching, models, strict=True)
  ]
  params = weights.fisher_average([model["params"] for model in models], diagonals)
  return Merged(_renewed(bench, {**weights.uniform_soup(models), "params": params}))


_METHODS: dict[str, Callable[..., Merged]] = {
  "joint": _joint,
  "sequential": _sequential,
  "parallel": _parallel,
  "uniform_soup": _uniform_soup,
  "greedy_soup": _greedy_soup,
  "task_arithmetic": _task_arithmetic,
  "negation": _negation,
  "ties": _ties,
  "dare": _dare,
  "dare_ties": _dare_ties,
  "fisher": _fisher,
}


def _joint_head(bench: FineTunedTasks) -> tuple[Params, list[str]]:
  """Returns the heads side by side, and the classes in the same order."""
  heads = [bench.tasks.head(name) for name in bench.study.patching]
  classes = [f"{name}/{one}" for name in bench.study.patching for one in bench.tasks.classes(name)]

  def beside(*parts: np.ndarray) -> np.ndarray:
    if np.ndim(parts[0]):
      return np.concatenate(parts, axis=-1)
    if any(part != parts[0] for part in parts):
      raise ConfigError("the heads of the patching tasks have different temperatures; they cannot be joined")
    return parts[0]

  return jax.tree.map(beside, *heads), classes


def _vectors(bench: FineTunedTasks, scale: _Scale) -> list[Params]:
  return [
    weights.task_vector(bench.before["params"], bench.fine_tuned(patch)["params"]) for patch in scale.patching
  ]


def _sum(bench: FineTunedTasks, vectors: Sequence[Params], coefficients: Sequence[float]) -> Params:
  """Adds multiples of task vectors to the backbone; statistics are the backbone's or re-estimated."""
  params = weights.task_arithmetic(bench.before["params"], vectors, coefficients)
  return _renewed(bench, {**bench.before, "params": params})


def _renewed(bench: FineTunedTasks, found: Params) -> Params:
  """Re-estimates the statistics if the study asks for it."""
  statistics = bench.statistics(*bench.study.patching)
  if statistics is None:
    return found
  return {**found, "batch_stats": statistics(found["params"], found["batch_stats"])}


def _best_multiple(
  bench: FineTunedTasks, merging: Merging, scale: _Scale, vectors: Sequence[Params]
) -> Merged:
  """Adds all vectors times the multiple of `step` that has the lowest objective."""
  found = [(scale.value(_sum(bench, vectors, [c] * len(vectors))), c) for c in _multiples(merging)]
  _, best = min(found)
  return Merged(_sum(bench, vectors, [best] * len(vectors)), (best,) * len(vectors))


def _multiples(merging: Merging) -> list[float]:
  """Returns step, 2 step, ... up to 1."""
  return [round(number * merging.step, 12) for number in range(1, int(1 / merging.step + 1e-9) + 1)]


def _supported(scale: _Scale, found: Params) -> float:
  """Returns the mean validation accuracy on the supported tasks."""
  names = scale.supported
  return float(np.mean([scale.bench.tasks.scores(name, "validation", found)["top1"] for name in names]))
