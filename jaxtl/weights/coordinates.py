"""One coefficient for each of several task vectors, found by searches of one coefficient at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.weights.interpolate import check_bounds
from jaxtl.weights.search import AlphaResult, Bounds, optimize_alpha


class Coordinates(NamedTuple):
  """Coefficients and how they were found.

  Attributes:
    coefficients: [k] the best of all that were evaluated.
    value: the function there.
    num_evaluations: calls of the function.
    num_sweeps: how often each coefficient was searched.
  """

  coefficients: tuple[float, ...]
  value: float
  num_evaluations: int
  num_sweeps: int


def coordinate_search(
  function: Callable[[tuple[float, ...]], float],
  start: Sequence[float],
  *,
  bounds: Bounds = (0.0, 1.0),
  max_sweeps: int = 2,
  search: Callable[..., AlphaResult] = optimize_alpha,
) -> Coordinates:
  """Minimises along each coordinate in turn; the result is never worse than the start.

  It is for models that were fine-tuned in parallel, theta_0 + sum_i c_i tau_i of `task_arithmetic`: first
  search for one alpha with all c_i = alpha / k, then call this from there. It takes about 11 evaluations for
  each coordinate and sweep; a sweep without gain is the last.

  Args:
    function: (c_1, ..., c_k) -> the value to minimise.
    start: [k] coefficients.
    bounds: of every coefficient.
    max_sweeps: maximum number of sweeps over all coordinates; with a second sweep the order of tasks matters
      less.
    search: `optimize_alpha`, `brent` or `grid_search`, or one of these with its keywords.

  Raises:
    ConfigError: the start is empty or not within the bounds, or `max_sweeps` is below 1.
    NonFiniteError: the function is not finite at some point.
  """
  check_bounds(bounds)
  if not len(start):
    raise ConfigError("start is empty; write one coefficient for each task vector")
  if outside := [c for c in start if not bounds[0] <= c <= bounds[1]]:
    raise ConfigError(f"start has {outside[0]:g}, outside [{bounds[0]:g}, {bounds[1]:g}]")
  if max_sweeps < 1:
    raise ConfigError(f"max_sweeps is {max_sweeps}; write at least 1")
  point = tuple(float(c) for c in start)
  value, count = float(function(point)), 1
  if not math.isfinite(value):
    raise NonFiniteError(f"the function is {value} at {point}; a minimum needs finite values")
  num_sweeps, gained = 0, True
  while gained and num_sweeps < max_sweeps:
    before, num_sweeps = value, num_sweeps + 1
    for axis in range(len(point)):
      found = search(_along(function, point, axis), bounds=bounds, warm={point[axis]: value})
      point = (*point[:axis], found.alpha, *point[axis + 1 :])
      value, count = found.value, count + found.num_evaluations
    gained = value < before
  return Coordinates(point, value, count, num_sweeps)


def _along(
  function: Callable[[tuple[float, ...]], float], point: tuple[float, ...], axis: int
) -> Callable[[float], float]:
  return lambda c: function((*point[:axis], c, *point[axis + 1 :]))
