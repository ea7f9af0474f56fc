"""The minimum of a loss along a direction, which shows how much a layer could improve.

The search runs on the host in float64; its cost is that of the evaluations, each a pass over a data set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.weights.search import SUSPECT, optimize_alpha

# Below this part of the scale a step is within the rounding of float32 weights.
_SHORTEST = 1e-6


@dataclasses.dataclass(frozen=True)
class Descent:
  """The minimum along a direction of descent.

  Attributes:
    step: t*, the distance of the best point; 0 if none is better than the start.
    start: the function at 0.
    delta: function(0) - function(t*), never negative.
    unbounded: whether the function still fell at the longest step.
    unimodal: whether no rise was followed by a fall around the minimum.
    num_evaluations: number of calls of the function.
  """

  step: float
  start: float
  delta: float
  unbounded: bool
  unimodal: bool
  num_evaluations: int


def descend(
  function: Callable[[float], float],
  *,
  scale: float,
  first: float = 0.01,
  longest: float = 3.0,
  resolution: float = 0.0,
) -> Descent:
  """Finds the minimum of a loss along a direction, in about nine evaluations.

  It makes a bracket, and takes golden sections and a parabola in it (`optimize_alpha`). From `first * scale`
  on, the step is doubled until the loss rises; if the loss rises at the first step, the step is divided by
  four until the loss falls. Steps are relative to the scale, the norm of a layer's weights, because gradients
  differ by orders of magnitude between layers.

  Args:
    function: t >= 0 -> loss at distance t; deterministic. A value that is not finite counts as a rise.
    scale: the unit of a step, above 0.
    first: the first step, in units of the scale.
    longest: the longest step, likewise; a loss that still falls there is unbounded.
    resolution: a fall by less than this part of |function(0)| is ignored as rounding.

  Raises:
    ConfigError: a keyword is out of its range.
    NonFiniteError: the function is not finite at 0.
  """
  _check_range(scale, first, longest, resolution)
  scale = float(scale)
  line = _Line(function, resolution)
  step = first * scale
  if not line.falls(step):
    high = step
    while not line.falls(step):
      high, step = step, step / 4
      if step < _SHORTEST * scale:
        return line.result(0.0)
    return line.refined(0.0, step, high)
  low = 0.0
  while step < longest * scale:
    after = min(2 * step, longest * scale)
    if line(after) >= line(step):
      return line.refined(low, step, after)
    low, step = step, after
  return line.result(step, unbounded=True)


class _Line:
  """The function with its evaluated points."""

  def __init__(self, function: Callable[[float], float], resolution: float):
    self._function = function
    self.values: dict[float, float] = {}
    self.start = float(function(0.0))
    if not math.isfinite(self.start):
      raise NonFiniteError(f"the loss is {self.start} at the weights; a descent needs a finite one")
    self.values[0.0] = self.start
    self.noise = resolution * abs(self.start)
    # Replaces values that are not finite: far above all others, yet a number that a search can compare.
    self._wall = 1e6 * (abs(self.start) + 1)

  def __call__(self, t: float) -> float:
    if t not in self.values:
      value = float(self._function(t))
      self.values[t] = value if math.isfinite(value) else self._wall
    return self.values[t]

  def falls(self, t: float) -> bool:
    return self(t) < self.start - self.noise

  def refined(self, low: float, middle: float, high: float) -> Descent:
    """Finds the minimum within a bracket whose middle is below its ends."""
    warm = {t: self(t) for t in (low, middle, high)}
    # A difference within rounding is not a second valley.
    scale = float(np.median(np.abs(list(warm.values()))))
    tolerance = min(0.5, max(1e-6, self.noise / scale)) if scale else 1e-6
    how: Any = dict(
      bounds=(low, high), nodes=3, degree=2, tolerance=tolerance, grid_step=None, accuracy=SUSPECT
    )
    found = optimize_alpha(self, width=0.4, max_evaluations=8, warm=warm, **how)
    # The first parabola is fitted to all points of its bracket; this one goes through the best three.
    found = optimize_alpha(self, bracket="grid", max_evaluations=4, warm=found.evaluations, **how)
    return self.result(found.alpha, unimodal=found.unimodal)

  def result(self, t: float, *, unbounded: bool = False, unimodal: bool = True) -> Descent:
    return Descent(t, self.start, self.start - self(t), unbounded, unimodal, len(self.values))


def _check_range(scale: float, first: float, longest: float, resolution: float) -> None:
  if not (math.isfinite(scale) and scale > 0):
    raise ConfigError(f"scale is {scale}; write a number above 0, such as the norm of the weights")
  if not _SHORTEST <= first < longest < math.inf:
    raise ConfigError(
      f"first is {first} and longest is {longest}; write parts of the scale from {_SHORTEST:g} up, in order"
    )
  if not 0 <= resolution < 1:
    raise ConfigError(f"resolution is {resolution}; write a part of the loss, such as 1e-6")
