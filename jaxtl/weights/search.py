"""The minimum of an expensive function of one number, from about eleven evaluations.

For the coefficient of an interpolation between weights, and for the length of a step in one layer. All is
float64 on the host; an evaluation, a pass over a data set, is what costs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from jaxtl.errors import ConfigError, InputError, NonFiniteError
from jaxtl.weights.interpolate import check_bounds

RATIO = (math.sqrt(5) - 1) / 2
# Points of [0, 1] nearer to each other than this are one: golden sections meet the same point again and again
# up to rounding, and no loss over a data set can tell the two apart.
SAME = 1e-9
# How far a fit may be from the function, relative to it, before it is repeated in a narrower bracket.
SUSPECT = 1e-2
Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class AlphaResult:
  """A minimum, and what there is to say about how it was found.

  Attributes:
    alpha: the best of all evaluated points.
    value: the function there.
    num_evaluations: calls of the function; points that were known before are not among them.
    evaluations: {alpha: value} of all points, the known ones included, in order of alpha.
    bracket: the interval in which the polynomial was fitted; the bounds where there was none.
    coefficients: [degree + 1] of the polynomial in the Chebyshev basis on the bracket; None without one.
    residual: root mean square of fit minus values at the nodes; None without a polynomial.
    predicted: the polynomial's own value at its minimum; None if it has none within the bracket.
    gap: |predicted - found| there, relative to what was found (or to the spread of the values in the bracket,
      where that is larger: a minimum of about 0 has no relative error). None if nothing was predicted.
    fit_suspect: the gap was above 1 %, so that a narrower bracket was fitted once more.
    unimodal: no rise is followed by a fall among all evaluated points.
    fallback: it was not unimodal, so that a grid was evaluated and its best point refined.
    boundary: 0 or 1 where alpha is the lower or the upper bound, else None.
    from_polynomial: the best point is the polynomial's minimum.
  """

  alpha: float
  value: float
  num_evaluations: int
  evaluations: dict[float, float]
  bracket: Bounds
  coefficients: np.ndarray | None = None
  residual: float | None = None
  predicted: float | None = None
  gap: float | None = None
  fit_suspect: bool = False
  unimodal: bool = True
  fallback: bool = False
  boundary: int | None = None
  from_polynomial: bool = False

  def polynomial(self, alpha: np.ndarray | float) -> np.ndarray:
    """The fitted polynomial at [n] points; it means something within the bracket only.

    Raises:
      ConfigError: none was fitted.
    """
    if self.coefficients is None:
      raise ConfigError("no polynomial was fitted; only optimize_alpha fits one")
    low, high = self.bracket
    return chebyshev.chebval(
      (2 * np.asarray(alpha, np.float64) - low - high) / (high - low), self.coefficients
    )


def optimize_alpha(
  function: Callable[[float], float],
  *,
  bounds: Bounds = (0.0, 1.0),
  bracket: Literal["golden", "grid"] = "golden",
  width: float = 0.25,
  nodes: int = 7,
  degree: int = 5,
  max_evaluations: int = 16,
  tolerance: float = 1e-6,
  warm: Mapping[float, float] | None = None,
) -> AlphaResult:
  """The minimum of a function with one valley: a bracket, a polynomial inside it, the root of its derivative.

  Golden sections (Kiefer, "Sequential minimax search for a maximum", 1953) make the bracket; the known points
  in it and Chebyshev nodes are fitted by least squares, and the root of the derivative is evaluated. The best
  of all points is returned, hence never a worse one than an end or a point of `warm`. The defaults take 11
  evaluations, and exceed the minimum by 10^4 times less than a grid of as many.

  The function must be deterministic: with noise of 1e-3 of its value the fit is no better than a grid. Where
  it shows more than one valley, a grid of eleven points is evaluated, its best one refined, and the result
  says so.

  Args:
    function: a number within the bounds -> the value to minimise.
    bounds: where to search, both ends included.
    bracket: "golden" finds the bracket; "grid" takes the two neighbours of the best point of `warm`.
    width: at most this part of the bounds is the bracket, if golden.
    nodes: points in the fit; one more than its coefficients smooths noise.
    degree: of the polynomial; one less than there are points where that is lower.
    max_evaluations: calls of the function, the repeated fit included. Only the grid for several valleys goes
      beyond it.
    tolerance: changes below this part of the range of values count as level when valleys are counted.
    warm: values that are known, for example of a sweep; they cost nothing.

  Raises:
    ConfigError: a keyword is out of its range, the budget is below what the keywords need, or "grid" without
      a sweep in `warm`.
    InputError: a point of `warm` is outside the bounds, or its value is not finite.
    NonFiniteError: the function is not finite at some point; the message says which.
  """
  known = _Known(function, bounds, warm, budget=max_evaluations)
  _check_options(bracket, width, nodes, degree, max_evaluations, tolerance)
  if bracket == "grid" and len(known.values) < 3:
    raise ConfigError("bracket='grid' needs a sweep of at least 3 points; give warm={alpha: value, ...}")
  low, high = known.point(0.0), known.point(1.0)
  if bracket == "grid":
    low, high = known.neighbours()
  else:
    while high - low > width:
      low, high = _narrower(known, low, high)
  return _fitted(known, low, high, nodes=nodes, degree=degree, tolerance=tolerance)


def brent(
  function: Callable[[float], float],
  *,
  bounds: Bounds = (0.0, 1.0),
  precision: float = 1e-3,
  max_evaluations: int = 16,
  tolerance: float = 1e-6,
  warm: Mapping[float, float] | None = None,
) -> AlphaResult:
  """The minimum by parabolas and golden sections, beside both ends.

  Brent, "Algorithms for Minimization without Derivatives", 1973, chapter 5, as scipy has it. About as many
  evaluations as `optimize_alpha` and as good, one after the other, and without a curve for a figure.

  Args:
    function, bounds, tolerance, warm: as for `optimize_alpha`.
    precision: of the point, as a part of the bounds.
    max_evaluations: calls of the function.

  Raises as `optimize_alpha` does.
  """
  from scipy import optimize

  if not (math.isfinite(precision) and precision > 0):
    raise ConfigError(f"precision is {precision}; write a positive part of the bounds, such as 1e-3")
  if max_evaluations < 5:
    raise ConfigError(f"max_evaluations is {max_evaluations}; two ends and a parabola need at least 5")
  known = _Known(function, bounds, warm, budget=max_evaluations)
  known.point(0.0), known.point(1.0)
  optimize.minimize_scalar(
    known.value, bounds=(0.0, 1.0), method="bounded", options={"xatol": precision, "maxiter": known.left}
  )
  return known.result(tolerance)


def grid_search(
  function: Callable[[float], float],
  *,
  bounds: Bounds = (0.0, 1.0),
  step: float = 0.05,
  tolerance: float = 1e-6,
  warm: Mapping[float, float] | None = None,
) -> AlphaResult:
  """The best of equally spaced points: the exhaustive search that `optimize_alpha` is compared with.

  Args:
    function, bounds, tolerance, warm: as for `optimize_alpha`.
    step: between points, as a part of the bounds: 0.05 and 0.1 are in use, for 21 points and 11.

  Raises as `optimize_alpha` does.
  """
  cells = round(1 / step) if math.isfinite(step) and 0 < step <= 1 else 0
  if not cells or abs(cells * step - 1) > SAME:
    raise ConfigError(f"step is {step}; write a number that divides 1, such as 0.05")
  known = _Known(function, bounds, warm, budget=math.inf)
  for u in range(cells + 1):
    known.point(u / cells)
  return known.result(tolerance)


class _Known:
  """The points that are known, in the unit interval, and how many more may be evaluated."""

  def __init__(
    self,
    function: Callable[[float], float],
    bounds: Bounds,
    warm: Mapping[float, float] | None,
    *,
    budget: float,
  ):
    check_bounds(bounds)
    self.function, self.bounds, self.budget, self.count = function, bounds, budget, 0
    self.values: dict[float, float] = {}
    self.alphas: dict[float, float] = {}
    low, high = bounds
    for alpha, value in (warm or {}).items():
      if not low <= alpha <= high:
        raise InputError(f"warm has the point {alpha}, outside [{low:g}, {high:g}]")
      if not math.isfinite(value):
        raise InputError(f"warm has the value {value} at {alpha}; leave out what is not finite")
      u = round((alpha - low) / (high - low), 12)
      self.values[u], self.alphas[u] = float(value), float(alpha)

  @property
  def left(self) -> float:
    return self.budget - self.count

  def point(self, u: float) -> float:
    """The known point at u, evaluated if there is none."""
    near = min(self.values, key=lambda other: abs(other - u), default=math.inf)
    if abs(near - u) <= SAME:
      return near
    u = round(u, 12)
    alpha = (1 - u) * self.bounds[0] + u * self.bounds[1]
    value = float(self.function(alpha))
    self.count += 1
    if not math.isfinite(value):
      raise NonFiniteError(f"the function is {value} at {alpha:g}; a minimum needs finite values")
    self.values[u], self.alphas[u] = value, alpha
    return u

  def value(self, u: float) -> float:
    return self.values[self.point(u)]

  def best(self) -> float:
    """The lowest point; of several the first."""
    return min(sorted(self.values), key=self.values.__getitem__)

  def neighbours(self) -> Bounds:
    """The points beside the best one; of an end, itself: the minimum may lie within the last cell."""
    points = sorted(self.values)
    at = points.index(self.best())
    return points[max(at - 1, 0)], points[min(at + 1, len(points) - 1)]

  def unimodal(self, tolerance: float) -> bool:
    """Whether no rise is followed by a fall. A rise and then a fall alone would be a maximum."""
    values = np.array([self.values[u] for u in sorted(self.values)])
    changes = np.diff(values)
    signs = np.sign(changes[np.abs(changes) > tolerance * np.ptp(values)])
    return bool(np.all(np.diff(signs) >= 0))

  def result(self, tolerance: float) -> AlphaResult:
    best = self.best()
    return AlphaResult(
      alpha=self.alphas[best],
      value=self.values[best],
      num_evaluations=self.count,
      evaluations={self.alphas[u]: self.values[u] for u in sorted(self.values)},
      bracket=self.bounds,
      unimodal=self.unimodal(tolerance),
      boundary={0.0: 0, 1.0: 1}.get(best),
    )


class _Fit(NamedTuple):
  """A polynomial on a bracket of the unit interval, and its minimum, if it has one there."""

  bracket: Bounds
  coefficients: np.ndarray
  residual: float
  root: float | None = None
  predicted: float | None = None
  gap: float | None = None


def _narrower(known: _Known, low: float, high: float) -> Bounds:
  """One golden section. One of its two points is known from the section before."""
  left = known.point(high - RATIO * (high - low))
  right = known.point(low + RATIO * (high - low))
  return (low, right) if known.values[left] <= known.values[right] else (left, high)


def _fitted(
  known: _Known, low: float, high: float, *, nodes: int, degree: int, tolerance: float
) -> AlphaResult:
  """The fit in a bracket, repeated where it misses, and the grid where there is more than one valley."""
  fit = _fit(known, low, high, nodes, degree)
  suspect = fit.gap is not None and fit.gap > SUSPECT
  if suspect and known.left >= 3:  # a section takes 2 at most, the root 1
    fit = _fit(known, *_narrower(known, low, high), nodes, degree)
  unimodal = known.unimodal(tolerance)
  if not unimodal:
    known.budget = math.inf
    for u in np.linspace(0, 1, 11):
      known.point(float(u))
    best = known.best()
    fit = _fit(known, known.point(max(best - 0.1, 0.0)), known.point(min(best + 0.1, 1.0)), nodes, degree)
  found = known.result(tolerance)
  low, high = fit.bracket
  return dataclasses.replace(
    found,
    bracket=(known.alphas[low], known.alphas[high]),
    coefficients=fit.coefficients,
    residual=fit.residual,
    predicted=fit.predicted,
    gap=fit.gap,
    fit_suspect=suspect,
    fallback=not unimodal,
    from_polynomial=fit.root == known.best(),
  )


def _fit(known: _Known, low: float, high: float, nodes: int, degree: int) -> _Fit:
  """The polynomial through the known points of the bracket and some new ones; its minimum evaluated."""
  points = _nodes(known, low, high, nodes)
  values = np.array([known.values[u] for u in points])
  t = (2 * np.array(points) - low - high) / (high - low)
  coefficients = chebyshev.chebfit(t, values, min(degree, len(points) - 1))
  residual = float(np.sqrt(np.mean((chebyshev.chebval(t, coefficients) - values) ** 2)))
  fit = _Fit((low, high), coefficients, residual)
  minimum = _minimum(coefficients)
  if minimum is None or known.left < 1:
    return fit
  root = known.point(low + (high - low) * (minimum + 1) / 2)
  predicted, found = float(chebyshev.chebval(minimum, coefficients)), known.values[root]
  scale = max(abs(found), float(np.ptp(values)))
  gap = abs(predicted - found) / scale if scale else 0.0
  return fit._replace(root=root, predicted=predicted, gap=gap)


def _nodes(known: _Known, low: float, high: float, nodes: int) -> list[float]:
  """The known points of the bracket, and Chebyshev nodes, each the farthest from all others, until enough."""
  wanted = low + (high - low) * (1 + np.cos((np.arange(nodes) + 0.5) * np.pi / nodes)) / 2
  closest = max(1e-3 * (high - low), SAME)  # nearer ones add their rounding, and nothing to the fit
  points: list[float] = []
  for u in sorted(known.values):
    if low <= u <= high and (not points or u - points[-1] >= closest):
      points.append(u)
  while len(points) < nodes and known.left > 1:  # one is kept for the root
    distances = np.min(np.abs(wanted[:, None] - np.array(points)[None, :]), axis=1)
    farthest = int(np.argmax(distances))
    if distances[farthest] < closest:
      break
    points.append(known.point(float(wanted[farthest])))
  return sorted(points)


def _minimum(coefficients: np.ndarray) -> float | None:
  """The root of the derivative in [-1, 1] at which a Chebyshev series is lowest; None without a root."""
  slope = chebyshev.chebder(coefficients)
  # What rounding leaves of coefficients that are zero would be the leading one of the companion matrix.
  slope = chebyshev.chebtrim(slope, tol=1e-13 * float(np.max(np.abs(coefficients))))
  roots = chebyshev.chebroots(slope)
  candidates = roots.real[(np.abs(roots.imag) < 1e-6) & (np.abs(roots.real) <= 1)]
  if not len(candidates):
    return None
  root = float(candidates[np.argmin(chebyshev.chebval(candidates, coefficients))])
  change = chebyshev.chebval(root, chebyshev.chebder(slope))
  polished = root - float(chebyshev.chebval(root, slope) / change) if change else root
  return polished if abs(polished - root) < 1e-6 and abs(polished) <= 1 else root


def _check_options(
  bracket: str, width: float, nodes: int, degree: int, max_evaluations: int, tolerance: float
) -> None:
  if bracket not in ("golden", "grid"):
    raise ConfigError(f"bracket is {bracket!r}; write 'golden' or 'grid'")
  if not 1e-6 <= width < 1:
    raise ConfigError(f"width is {width}; write a part of the bounds, from 1e-6 to below 1")
  if not 2 <= degree < nodes:
    raise ConfigError(
      f"degree {degree} with {nodes} nodes; a degree of at least 2 needs more nodes than that"
    )
  if not 0 <= tolerance < 1:
    raise ConfigError(f"tolerance is {tolerance}; write a part of the range of values, such as 1e-6")
  sections = math.ceil(math.log(width) / math.log(RATIO) - SAME)
  # Both ends; a section takes one point more than there are sections; three nodes are known then. In a sweep,
  # the best point and its neighbours are.
  needed = 3 + sections + max(nodes - 3, 0) + 1 if bracket == "golden" else nodes + 1
  if max_evaluations < needed:
    raise ConfigError(f"max_evaluations is {max_evaluations}; this width and these nodes need {needed}")
