"""One supported task and one patch: the search, the grids and the indicators."""

from __future__ import annotations

import time
from typing import Any

import jax

from jaxtl import weights
from jaxtl.studies.patching.fine_tuning import FineTunedTasks
from jaxtl.studies.patching.path import WeightPath
from jaxtl.types import Row
from jaxtl.weights import AlphaResult, PaintObjective

# Steps of the exhaustive searches in use: 0.1 in the authors' code, 0.05 in later work.
GRIDS = {"grid_0.1": 0.1, "grid_0.05": 0.05}
# The most accuracy on the supported task, as a fraction, that the "constrained" rule may give up.
MOST_LOST = 0.01


def pair_row(bench: FineTunedTasks, supported: str, patch: str, work: float) -> Row:
  began = time.monotonic()
  with bench.tasks.meter.part("heads", work=0.0):
    for name in (supported, patch):
      bench.tasks.head(name)
  path = bench.path(patch)
  with bench.tasks.meter.part("sweep", work=work):
    row = _swept(bench, path, supported, patch)
  return {**row, "seconds": time.monotonic() - began}


def _swept(bench: FineTunedTasks, path: WeightPath, supported: str, patch: str) -> Row:
  """Finds all coefficients of a pair, and returns its row."""
  began = time.monotonic()
  note = bench.runtime.progress.note
  objective = bench.objective(path, [supported], [patch])
  search = bench.study.search.realize()
  found: AlphaResult = search(objective)
  searched = time.monotonic() - began
  note(f"{supported} x {patch}: searched with {found.num_evaluations} evaluations, {searched:.0f} s")
  grids = {name: weights.grid_search(objective, step=step) for name, step in GRIDS.items()}
  finest = grids["grid_0.05"]
  note(f"{supported} x {patch}: grid of 21, best at {finest.alpha:g}, {time.monotonic() - began:.0f} s")
  warm: AlphaResult = search(objective, warm=finest.evaluations)
  chosen = {"zero_shot": 0.0, "fine_tuned": 1.0, "optimised": found.alpha, "warm_started": warm.alpha}
  chosen |= {name: grid.alpha for name, grid in grids.items()}
  chosen |= _by_accuracy(path, supported, patch, grids["grid_0.1"])
  return {
    "kind": "patch",
    "supported": supported,
    "patching": patch,
    **{
      f"{name}/{key}": value
      for name, alpha in chosen.items()
      for key, value in _at(objective, path, supported, patch, alpha).items()
    },
    "num_evaluations": found.num_evaluations,
    "warm_started/num_evaluations": warm.num_evaluations,
    **{f"{name}/num_evaluations": len(grid.evaluations) for name, grid in grids.items()},
    # Relative to the value of the grid; a solved task has an objective of 0, and nothing to gain.
    "gain": (finest.value - found.value) / abs(finest.value) if finest.value else 0.0,
    "normalisation": objective.normalisation,
    **_diagnostics(found),
    **_indicators(bench, path, supported, objective, patch),
    "curve": _curve(objective, path, supported, patch, found),
    "num_validation": {name: _size(bench, name, "validation") for name in (supported, patch)},
    "num_test": {name: _size(bench, name, "test") for name in (supported, patch)},
    "search_seconds": searched,
  }


def _at(objective: PaintObjective, path: WeightPath, supported: str, patch: str, alpha: float) -> Row:
  """Returns the objective and the scores at one coefficient."""
  row: Row = {"alpha": alpha, "objective": objective(alpha)}
  for part in ("validation", "test"):
    scores = path.scores(alpha, [supported, patch], part)
    for role, name in (("supported", supported), ("patching", patch)):
      row |= {f"{part}_{role}_{measure}": value for measure, value in scores[name].items()}
  return row


def _by_accuracy(path: WeightPath, supported: str, patch: str, grid: AlphaResult) -> dict[str, float]:
  """Returns the coefficients that rules on validation accuracy choose from the grid of 0.1.

  "mean_accuracy" takes the best mean of both tasks. "constrained" takes the best accuracy on the patching
  task among those where the supported one loses at most one point (Cherti et al., "Reproducible scaling laws
  for contrastive language-image learning", 2022, arXiv 2212.07143, appendix B.2.2). Ties go to the smallest
  coefficient.
  """
  found = {alpha: path.scores(alpha, [supported, patch]) for alpha in sorted(grid.evaluations)}
  accuracy = {alpha: (scores[supported]["top1"], scores[patch]["top1"]) for alpha, scores in found.items()}
  least = accuracy[0.0][0] - MOST_LOST
  allowed = [alpha for alpha, (old, _) in accuracy.items() if old >= least]
  return {
    "mean_accuracy": max(accuracy, key=lambda alpha: sum(accuracy[alpha])),
    "constrained": max(allowed, key=lambda alpha: accuracy[alpha][1]),
  }


def _diagnostics(found: AlphaResult) -> Row:
  """Returns the details of how the coefficient was found."""
  return {
    "bracket": list(found.bracket),
    "coefficients": None if found.coefficients is None else found.coefficients.tolist(),
    "boundary": None if found.boundary is None else found.alpha,
    **{
      name: getattr(found, name)
      for name in ("predicted", "gap", "fit_suspect", "unimodal", "fallback", "from_polynomial")
    },
  }


def _indicators(
  bench: FineTunedTasks, path: WeightPath, supported: str, objective: PaintObjective, patch: str
) -> Row:
  """Returns what one gradient predicts for the supported task, and what the path then shows."""
  before, after = path.weights(0.0), path.weights(1.0)
  gradient = bench.tasks.gradient(supported, before["params"], before["batch_stats"])
  direction = weights.between(before["params"], after["params"])
  slope, distance = weights.slope_along(gradient, direction)
  # Leaves that are not interpolated would lengthen the gradient but not the direction.
  interpolated = jax.tree.map(lambda g, is_trained: g * is_trained, gradient, bench.is_trained(patch))
  similarity = weights.gradient_similarity(interpolated, direction)
  losses = {alpha: scores[supported] for alpha, scores in objective.losses.items()}
  transferred = weights.backward_transfer(losses, distance=distance, slope=slope)
  return {
    "gradient_similarity": similarity.value,
    "gradient_similarity_defined": similarity.defined,
    "backward_transfer": transferred.value,
    "backward_transfer_defined": transferred.defined,
    "backward_transfer_alpha": transferred.alpha,
    "slope": slope,
    "distance": distance,
  }


def _curve(
  objective: PaintObjective, path: WeightPath, supported: str, patch: str, found: AlphaResult
) -> dict[str, list[Any]]:
  """Returns all evaluated points, and which of them the search evaluated."""
  alphas = sorted(objective.losses)
  scores = [path.scores(alpha, [supported, patch]) for alpha in alphas]
  return {
    "alpha": alphas,
    "objective": [objective(alpha) for alpha in alphas],
    "supported_loss": [one[supported]["loss"] for one in scores],
    "patching_loss": [one[patch]["loss"] for one in scores],
    "supported_top1": [one[supported]["top1"] for one in scores],
    "patching_top1": [one[patch]["top1"] for one in scores],
    "searched": [alpha in found.evaluations for alpha in alphas],
  }


def _size(bench: FineTunedTasks, name: str, part: str) -> int:
  return len(bench.runtime.open(getattr(bench.study.tasks[name], part)))
