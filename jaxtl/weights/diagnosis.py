"""How much a layer could improve and how curved the loss is in it, and which layers that singles out.

The search is on the host, in float64; an evaluation, a pass over a data set, is what costs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.weights.groups import Group
from jaxtl.weights.search import SUSPECT, optimize_alpha

# Below this part of the scale a step is within the rounding of float32 weights.
_SHORTEST = 1e-6


@dataclasses.dataclass(frozen=True)
class Descent:
  """The minimum along a direction of descent.

  Attributes:
    step: t*, the distance of the best point; 0 where none is better than the start.
    start: the function at 0.
    delta: function(0) - function(t*), never negative.
    unbounded: it still fell at the longest step.
    unimodal: no rise was followed by a fall around the minimum.
    num_evaluations: calls of the function.
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
  """The minimum of a loss along a direction, from about nine evaluations: a bracket, golden sections in it,
  and a parabola (`optimize_alpha`).

  From `first * scale` on, the step is doubled until the loss rises; where the first step rises already, it is
  divided by four until the loss falls. Steps are relative to the scale, the norm of a layer's weights,
  because gradients differ by orders between layers.

  Args:
    function: t >= 0 -> loss at distance t; deterministic. Where it is not finite, it counts as a rise.
    scale: the unit of a step, above 0.
    first: the first step, in units of the scale.
    longest: the longest one; a loss that still falls there is unbounded.
    resolution: a fall by less than this part of |function(0)| counts as none: its rounding.

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
  """The function with its known points."""

  def __init__(self, function: Callable[[float], float], resolution: float):
    self._function = function
    self.values: dict[float, float] = {}
    self.start = float(function(0.0))
    if not math.isfinite(self.start):
      raise NonFiniteError(f"the loss is {self.start} at the weights; a descent needs a finite one")
    self.values[0.0] = self.start
    self.noise = resolution * abs(self.start)
    # Stands for what is not finite: far above all else, and a number that a search can compare.
    self._wall = 1e6 * (abs(self.start) + 1)

  def __call__(self, t: float) -> float:
    if t not in self.values:
      value = float(self._function(t))
      self.values[t] = value if math.isfinite(value) else self._wall
    return self.values[t]

  def falls(self, t: float) -> bool:
    return self(t) < self.start - self.noise

  def refined(self, low: float, middle: float, high: float) -> Descent:
    """The minimum within a bracket whose middle is below its ends."""
    warm = {t: self(t) for t in (low, middle, high)}
    # What is within rounding is no second valley.
    scale = float(np.median(np.abs(list(warm.values()))))
    tolerance = min(0.5, max(1e-6, self.noise / scale)) if scale else 1e-6
    how: Any = dict(
      bounds=(low, high), nodes=3, degree=2, tolerance=tolerance, grid_step=None, accuracy=SUSPECT
    )
    found = optimize_alpha(self, width=0.4, max_evaluations=8, warm=warm, **how)
    # That parabola is fitted to all points of its bracket; the last one goes through the best three.
    found = optimize_alpha(self, bracket="grid", max_evaluations=4, warm=found.evaluations, **how)
    return self.result(found.alpha, unimodal=found.unimodal)

  def result(self, t: float, *, unbounded: bool = False, unimodal: bool = True) -> Descent:
    return Descent(t, self.start, self.start - self(t), unbounded, unimodal, len(self.values))


@dataclasses.dataclass(frozen=True)
class Finding:
  """What is known of one layer.

  Attributes:
    group: the layer.
    weight_norm: |w_l|.
    gradient_norm: of the loss in the layer, |g_l|.
    start: the loss at the weights.
    delta: by how much the loss falls when this layer alone is changed: Delta L_l, never negative.
    step: |Delta w_l|, how far it was changed; 0 where nothing better was found.
    unbounded: the loss still fell at the longest step, so that `delta` is a lower bound.
    unimodal: the loss showed one valley.
    num_evaluations: passes over the images with this layer changed, the start included.
    kappa_hvp: half the Rayleigh quotient of the layer's Hessian along its gradient; None if not computed.
  """

  group: Group
  weight_norm: float
  gradient_norm: float
  start: float
  delta: float
  step: float
  unbounded: bool
  unimodal: bool
  num_evaluations: int
  kappa_hvp: float | None = None

  @property
  def kappa(self) -> float | None:
    """Delta L / |Delta w|^2; None where nothing better was found."""
    return self.delta / self.step**2 if self.step else None

  @property
  def kappa_rel(self) -> float | None:
    """Delta L |w|^2 / |Delta w|^2, which a rescaling of layers that keeps the function does not change."""
    return None if self.kappa is None else self.kappa * self.weight_norm**2

  @property
  def relative_step(self) -> float | None:
    """|Delta w| / |w|; None for weights that are all zero."""
    return self.step / self.weight_norm if self.weight_norm else None


@dataclasses.dataclass(frozen=True)
class Choice:
  """The layers that a post-training takes by itself.

  Attributes:
    perturb: the layer with the largest curvature; None where none qualifies.
    update: the layer with the most room for improvement; None where none has any.
    small: names of the layers that were left out because they have few parameters.
  """

  perturb: str | None
  update: str | None
  small: frozenset[str]


def choose(
  findings: Sequence[Finding], *, by: Literal["kappa", "kappa_rel"] = "kappa", smallest: float = 0.01
) -> Choice:
  """The layer to perturb, arg-max kappa, and the layer to update, arg-max Delta L.

  Left out: layers with few parameters, whose kappa is large because |Delta w| is small; for the first choice
  also those that are unbounded, and those where nothing better was found; what is not finite. Of equal ones
  the last counts, the nearest to the head, which is cheapest to train.

  Args:
    findings: in forward order.
    by: the curvature that counts. kappa depends on how the function is split into weights: a rescaling of a
      layer by c that the next one undoes changes it by 1 / c^2.
    smallest: part of the median number of parameters below which a layer is small.

  Raises:
    ConfigError: a keyword is out of its range, or there are no findings.
  """
  if by not in ("kappa", "kappa_rel"):
    raise ConfigError(f"by is {by!r}; write 'kappa' or 'kappa_rel'")
  if not 0 <= smallest <= 1:
    raise ConfigError(f"smallest is {smallest}; write a part of the median, such as 0.01")
  if not findings:
    raise ConfigError("there are no layers to choose from; diagnose at least one")
  least = smallest * float(np.median([found.group.num_parameters for found in findings]))
  large = [found for found in findings if found.group.num_parameters >= least]
  curved = {found.group.name: getattr(found, by) for found in large if found.step > 0 and not found.unbounded}
  return Choice(
    perturb=_last_largest(curved),
    update=_last_largest({found.group.name: found.delta for found in large if found.delta > 0}),
    small=frozenset(found.group.name for found in findings if found not in large),
  )


def _last_largest(values: dict[str, float]) -> str | None:
  finite = {name: value for name, value in values.items() if math.isfinite(value)}
  best = max(finite.values(), default=None)
  return next((name for name in reversed(finite) if finite[name] == best), None)


def _check_range(scale: float, first: float, longest: float, resolution: float) -> None:
  if not (math.isfinite(scale) and scale > 0):
    raise ConfigError(f"scale is {scale}; write a number above 0, such as the norm of the weights")
  if not _SHORTEST <= first < longest < math.inf:
    raise ConfigError(
      f"first is {first} and longest is {longest}; write parts of the scale from {_SHORTEST:g} up, in order"
    )
  if not 0 <= resolution < 1:
    raise ConfigError(f"resolution is {resolution}; write a part of the loss, such as 1e-6")
