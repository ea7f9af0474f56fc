"""Searches for the minimum of an expensive function of one number, in about eleven evaluations.

They find the coefficient of an interpolation between weights, and the length of a step in one layer. All
numbers are float64 on the host; the cost is that of the evaluations, each a pass over a data set.
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
# Points of [0, 1] closer to each other than this count as one: golden sections return to the same point up to
# rounding, and no loss over a data set can distinguish the two.
SAME = 1e-9
# How far a fit may be from the function, relative to it, before the result is suspect.
SUSPECT = 1e-2
# A fit rules out what it puts above the best point by this many times its largest error.
MARGIN = 10.0
# An end is a wall if the step to it is this many times the spread of all other values.
WALL = 10.0
# A gap between known points that may hide another valley, as a part of the bounds.
WIDE = 0.25
# Values that differ by less than this part of them are equal up to the rounding of float64.
ROUNDING = 1e-14
Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class AlphaResult:
  """A minimum, and the details of how it was found.

  Attributes:
    alpha: the best of all evaluated points.
    value: the function there.
    num_evaluations: number of calls of the function, without the points that were known before.
    evaluations: {alpha: value} of all points, including the known ones, in order of alpha.
    bracket: the interval in which the polynomial was fitted; the bounds if there was none.
    coefficients: [degree + 1] of the polynomial in the Chebyshev basis on the bracket; None without one.
    residual: root mean square of fit minus values at the nodes; None without a polynomial.
    predicted: the polynomial's own value at its minimum; None if it has none within the bracket.
    gap: |predicted - found| there, relative to the found value (or to the median of the values in the
      bracket, if that is larger: a minimum of about 0 has no relative error). None if nothing was predicted.
    fit_suspect: the result may be above a grid of `grid_step`. The last fit misses by more than 1 %, or the
      budget ended before every point of that grid was evaluated or ruled out.
    unimodal: whether no rise is followed by a fall among all evaluated points.
    fallback: whether the points were not unimodal, so that the grid was evaluated and its best point refined.
    boundary: 0 or 1 if alpha is the lower or the upper bound, else None.
    from_polynomial: whether the best point is the minimum of the polynomial.
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
    """Evaluates the fitted polynomial at [n] points; it is meaningful only within the bracket.

    Raises:
      ConfigError: no polynomial was fitted.
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
  grid_step: float | None = 0.05,
  accuracy: float = 1e-4,
  warm: Mapping[float, float] | None = None,
) -> AlphaResult:
  """Minimises a function with one valley by a polynomial in a bracket and the root of its derivative.

  Golden sections (Kiefer, "Sequential minimax search for a maximum", 1953) make the bracket. The known points
  in it and Chebyshev nodes are fitted by least squares, and the root of the derivative is evaluated. Points
  of a grid that the fit cannot rule out are evaluated, too. The best of all points is returned, so the result
  is never worse than an end or a point of `warm`.

  The defaults take 10 or 11 evaluations of a smooth sum and up to 16 of a steep one. With one valley the
  result is not above the grid of 21 points, or `fit_suspect` says that it may be. On 6,000 sums of sigmoids
  with one valley and slopes up to 40 it was never above. It exceeded the minimum by at most 1e-6 of it on
  average and by 4e-4 in the worst case; the grid exceeded it by up to 3e-2 and 0.4.

  The function must be deterministic: with noise of 1e-3 of its value the fit is no better than a grid. If it
  shows more than one valley, the grid is evaluated beyond the budget, its best point is refined, and the
  result says so. If values are not convex, or an end is far above all others, the search looks into the wide
  gaps between its points. A second valley that does not show there is missed: of 4,000 such sums with several
  valleys, 0.2 % ended above the grid without notice.

  >>> round(optimize_alpha(lambda alpha: (alpha - 0.3) ** 2).alpha, 3)
  0.3

  Args:
    function: a number within the bounds -> the value to minimise.
    bounds: where to search, both ends included.
    bracket: "golden" finds the bracket; "grid" takes the two neighbours of the best point of `warm`.
    width: largest width of the bracket as a part of the bounds, if golden.
    nodes: points in the fit; one more than its coefficients smooths noise.
    degree: of the polynomial; at most the number of points minus one.
    max_evaluations: maximum number of calls of the function, including the repeated fit. Only the grid for
      several valleys exceeds it.
    tolerance: changes below this part of the values count as flat when valleys are counted: a part of the
      median of all values, or of the value itself if that is larger.
    grid_step: step of the grid that the result is not to exceed, as a part of the bounds, such as 0.05. None
      compares with no grid and looks into no gaps; several valleys then take a grid of 11 points.
    accuracy: a fit whose largest error is above this part of the median value is repeated around the best
      point, within the budget.
    warm: known values, for example from a sweep; they cost nothing.

  Raises:
    ConfigError: a keyword is out of its range, the budget is below what the keywords need, or `bracket` is
      "grid" without a sweep in `warm`.
    InputError: a point of `warm` is outside the bounds, or its value is not finite.
    NonFiniteError: the function is not finite at some point; the message says which.
  """
  known = _Known(function, bounds, warm, budget=max_evaluations)
  _check_options(bracket, width, nodes, degree, max_evaluations, tolerance, accuracy)
  cells = None if grid_step is None else _cells(grid_step, "grid_step")
  if bracket == "grid" and len(known.values) < 3:
    raise ConfigError("bracket='grid' needs a sweep of at least 3 points; give warm={alpha: value, ...}")
  low, high = known.point(0.0), known.point(1.0)
  if bracket == "grid":
    low, high = known.neighbours()
  else:
    while high - low > width:
      low, high = _narrower(known, low, high)
  return _fitted(known, low, high, _Options(nodes, degree, tolerance, cells, accuracy))


def brent(
  function: Callable[[float], float],
  *,
  bounds: Bounds = (0.0, 1.0),
  precision: float = 1e-3,
  max_evaluations: int = 16,
  tolerance: float = 1e-6,
  grid_step: float | None = 0.05,
  warm: Mapping[float, float] | None = None,
) -> AlphaResult:
  """Minimises by parabolas and golden sections; both ends are evaluated, too.

  Brent, "Algorithms for Minimization without Derivatives", 1973, chapter 5, as implemented in scipy. It takes
  up to 16 evaluations, one after the other, and gives no curve for a figure. The rest of the budget is spent
  on points of the grid that may be lower. With one valley it is as good as `optimize_alpha`. It does not look
  into gaps, and it reports several valleys without evaluating a grid.

  Args:
    function, bounds, tolerance, grid_step, warm: as for `optimize_alpha`.
    precision: of the point, as a part of the bounds.
    max_evaluations: maximum number of calls of the function.

  Raises as `optimize_alpha` does.
  """
  from scipy import optimize

  if not (math.isfinite(precision) and precision > 0):
    raise ConfigError(f"precision is {precision}; write a positive part of the bounds, such as 1e-3")
  if max_evaluations < 5:
    raise ConfigError(f"max_evaluations is {max_evaluations}; two ends and a parabola need at least 5")
  known = _Known(function, bounds, warm, budget=max_evaluations)
  cells = None if grid_step is None else _cells(grid_step, "grid_step")
  known.point(0.0), known.point(1.0)
  optimize.minimize_scalar(
    known.value, bounds=(0.0, 1.0), method="bounded", options={"xatol": precision, "maxiter": known.left}
  )
  unsettled = _settle(known, None, cells)
  return dataclasses.replace(known.result(tolerance), fit_suspect=bool(unsettled))


def grid_search(
  function: Callable[[float], float],
  *,
  bounds: Bounds = (0.0, 1.0),
  step: float = 0.05,
  tolerance: float = 1e-6,
  warm: Mapping[float, float] | None = None,
) -> AlphaResult:
  """Returns the best of equally spaced points, the exhaustive search that `optimize_alpha` is compared with.

  Args:
    function, bounds, tolerance, warm: as for `optimize_alpha`.
    step: distance between points, as a part of the bounds: usually 0.05 or 0.1, for 21 or 11 points.

  Raises as `optimize_alpha` does.
  """
  cells = _cells(step, "step")
  known = _Known(function, bounds, warm, budget=math.inf)
  for u in range(cells + 1):
    known.point(u / cells)
  return known.result(tolerance)


class _Known:
  """The known points, in the unit interval, and how many more may be evaluated."""

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
    """Returns the known point at u, after an evaluation if there is none."""
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

  def gap_before_wall(self, end: float) -> float:
    """Returns the gap from an end to the next point if the step to it dwarfs all other values, else 0."""
    inside = sorted(self.values, key=lambda u: abs(u - end))[1:]
    step = self.values[end] - self.values[inside[0]]
    return abs(inside[0] - end) if step > WALL * np.ptp([self.values[u] for u in inside]) else 0.0

  def convex(self, tolerance: float) -> bool:
    """Returns whether no known point is above the line between its neighbours."""
    points = np.array(sorted(self.values))
    values = np.array([self.values[u] for u in points])
    part = (points[1:-1] - points[:-2]) / (points[2:] - points[:-2])
    line = (1 - part) * values[:-2] + part * values[2:]
    return bool(np.all(values[1:-1] - line <= tolerance * self.scale()))

  def has(self, u: float) -> bool:
    return any(abs(other - u) <= SAME for other in self.values)

  def best(self) -> float:
    """Returns the lowest point, the first of several."""
    return min(sorted(self.values), key=self.values.__getitem__)

  def neighbours(self) -> Bounds:
    """Returns the neighbours of the best point; an end is its own, as the minimum may be in the last cell."""
    points = sorted(self.values)
    at = points.index(self.best())
    return points[max(at - 1, 0)], points[min(at + 1, len(points) - 1)]

  def valley(self) -> Bounds:
    """Returns the nearest points that are higher than the best: one valley has its minimum between them."""
    best = self.best()
    higher = self.values[best] + ROUNDING * abs(self.values[best])
    low = max((u for u, value in self.values.items() if u < best and value > higher), default=0.0)
    return low, min((u for u, value in self.values.items() if u > best and value > higher), default=1.0)

  def unimodal(self, tolerance: float) -> bool:
    """Returns whether no rise is followed by a fall. A rise and then a fall would be a maximum."""
    values = np.array([self.values[u] for u in sorted(self.values)])
    before, after = np.minimum.accumulate(values), np.minimum.accumulate(values[::-1])[::-1]
    scale = np.maximum(np.abs(values), self.scale())
    return bool(np.all(values - np.maximum(before, after) <= tolerance * scale))

  def scale(self) -> float:
    """Returns the median size of the values: relative to an end that diverged, all others would look flat."""
    return float(np.median(np.abs(list(self.values.values()))))

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


class _PolynomialFit(NamedTuple):
  """A polynomial on a bracket of the unit interval, and its minimum, if it has one there."""

  bracket: Bounds
  coefficients: np.ndarray
  residual: float
  root: float | None = None
  predicted: float | None = None
  gap: float | None = None

  def __call__(self, u: float) -> float:
    low, high = self.bracket
    return float(chebyshev.chebval((2 * u - low - high) / (high - low), self.coefficients))

  def covers(self, u: float) -> bool:
    return self.bracket[0] <= u <= self.bracket[1]

  def error(self, known: _Known) -> float:
    """Returns the largest error at a known point of the bracket."""
    return max(abs(self(u) - value) for u, value in known.values.items() if self.covers(u))


def _narrower(known: _Known, low: float, high: float) -> Bounds:
  """Takes one golden section. One of its two points is known from the section before."""
  left = known.point(high - RATIO * (high - low))
  right = known.point(low + RATIO * (high - low))
  return (low, right) if known.values[left] <= known.values[right] else (left, high)


class _Options(NamedTuple):
  """The keywords of a search that the fit needs; `cells` is the number of cells of the grid, if any."""

  nodes: int
  degree: int
  tolerance: float
  cells: int | None
  accuracy: float


def _fitted(known: _Known, low: float, high: float, options: _Options) -> AlphaResult:
  """Fits in a bracket, again if the fit misses, and evaluates the grid if there is more than one valley."""
  fit = _fit(known, low, high, options)
  may_be_above = _compared(known, fit, options)
  if known.left >= 1 and fit.error(known) > options.accuracy * known.scale():
    fit = _fit(known, *known.neighbours(), options)
  unimodal = known.unimodal(options.tolerance)
  if not unimodal:
    known.budget = math.inf
    for u in np.linspace(0, 1, (options.cells or 10) + 1):
      known.point(float(u))
    fit = _fit(known, *known.neighbours(), options)
  found = known.result(options.tolerance)
  low, high = fit.bracket
  return dataclasses.replace(
    found,
    bracket=(known.alphas[low], known.alphas[high]),
    coefficients=fit.coefficients,
    residual=fit.residual,
    predicted=fit.predicted,
    gap=fit.gap,
    fit_suspect=(may_be_above and unimodal) or (fit.gap is not None and fit.gap > SUSPECT),
    fallback=not unimodal,
    from_polynomial=fit.root == known.best(),
  )


def _compared(known: _Known, fit: _PolynomialFit, options: _Options) -> bool:
  """Evaluates what may be below the best point, on the grid and in wide gaps; returns whether any is left."""
  if options.cells is None:
    return False
  behind_wall = _before_walls(known, 1 / options.cells)
  _settle(known, fit, options.cells)
  _probe(known, options.tolerance)
  return bool(_settle(known, fit, options.cells)) or behind_wall


def _before_walls(known: _Known, step: float) -> bool:
  """Halves the gap before an end that is far above all others; returns whether the budget leaves one.

  Such an end says nothing about its neighbourhood: the function may fall to another valley before it rises.
  """
  for end in (0.0, 1.0):
    while (gap := known.gap_before_wall(end)) > step + SAME:
      if known.left < 1:
        return True
      known.point(abs(end - gap / 2))
  return False


def _probe(known: _Known, tolerance: float) -> None:
  """Halves the wide gaps between known points, unless the values look convex: then there is one valley."""
  while known.left >= 1 and not known.convex(tolerance):
    points = sorted(known.values)
    widest = int(np.argmax(np.diff(points)))
    if points[widest + 1] - points[widest] <= WIDE:
      return
    known.point((points[widest] + points[widest + 1]) / 2)


def _settle(known: _Known, fit: _PolynomialFit | None, cells: int | None) -> list[float]:
  """Evaluates the points of the grid that may be below the best one; returns those that the budget leaves."""
  while (unsettled := _unsettled(known, fit, cells)) and known.left >= 1:
    best, order = known.best(), fit
    known.point(min(unsettled, key=lambda u: order(u) if order else abs(u - best)))
  return unsettled


def _unsettled(known: _Known, fit: _PolynomialFit | None, cells: int | None) -> list[float]:
  """Returns the points of the grid that may be below the best one, if the function has one valley.

  With one valley, nothing beyond a point that is higher than the best one is below it. Nearer to the best
  one, the fit rules out points that it puts above the best one by several times its own error.
  """
  low, high = known.valley()
  inside = [i / cells for i in range(1, cells) if low < i / cells < high] if cells else []
  inside = [u for u in inside if not known.has(u)]
  if fit is None:
    return inside
  least = known.values[known.best()] + MARGIN * fit.error(known)
  return [u for u in inside if not (fit.covers(u) and fit(u) > least)]


def _fit(known: _Known, low: float, high: float, options: _Options) -> _PolynomialFit:
  """Fits a polynomial to the known points of the bracket and some new ones, and evaluates its minimum."""
  points = _nodes(known, low, high, options.nodes)
  values = np.array([known.values[u] for u in points])
  t = (2 * np.array(points) - low - high) / (high - low)
  coefficients = chebyshev.chebfit(t, values, min(options.degree, len(points) - 1))
  residual = float(np.sqrt(np.mean((chebyshev.chebval(t, coefficients) - values) ** 2)))
  fit = _PolynomialFit((low, high), coefficients, residual)
  minimum = _minimum(coefficients)
  if minimum is None or known.left < 1:
    return fit
  root = known.point(low + (high - low) * (minimum + 1) / 2)
  predicted, found = float(chebyshev.chebval(minimum, coefficients)), known.values[root]
  scale = max(abs(found), float(np.median(np.abs(values))))
  gap = abs(predicted - found) / scale if scale else 0.0
  return fit._replace(root=root, predicted=predicted, gap=gap)


def _nodes(known: _Known, low: float, high: float, nodes: int) -> list[float]:
  """Returns the known points of the bracket, filled up with the Chebyshev nodes farthest from all others."""
  wanted = low + (high - low) * (1 + np.cos((np.arange(nodes) + 0.5) * np.pi / nodes)) / 2
  closest = max(1e-3 * (high - low), SAME)  # nearer points add only rounding to the fit
  points: list[float] = []
  for u in sorted(known.values):
    if low <= u <= high and (not points or u - points[-1] >= closest):
      points.append(u)
  while len(points) < nodes and known.left > 1:  # one evaluation is kept for the root
    distances = np.min(np.abs(wanted[:, None] - np.array(points)[None, :]), axis=1)
    farthest = int(np.argmax(distances))
    if distances[farthest] < closest:
      break
    points.append(known.point(float(wanted[farthest])))
  return sorted(points)


def _minimum(coefficients: np.ndarray) -> float | None:
  """Returns the root of the derivative in [-1, 1] where a Chebyshev series is lowest; None without a root."""
  slope = chebyshev.chebder(coefficients)
  # Rounding leaves zero coefficients nonzero; without the trim, one would lead the companion matrix.
  slope = chebyshev.chebtrim(slope, tol=1e-13 * float(np.max(np.abs(coefficients))))
  roots = chebyshev.chebroots(slope)
  candidates = roots.real[(np.abs(roots.imag) < 1e-6) & (np.abs(roots.real) <= 1)]
  if not len(candidates):
    return None
  root = float(candidates[np.argmin(chebyshev.chebval(candidates, coefficients))])
  change = chebyshev.chebval(root, chebyshev.chebder(slope))
  polished = root - float(chebyshev.chebval(root, slope) / change) if change else root
  return polished if abs(polished - root) < 1e-6 and abs(polished) <= 1 else root


def _cells(step: float, name: str) -> int:
  """Returns the number of cells of a grid with this step."""
  cells = round(1 / step) if math.isfinite(step) and 0 < step <= 1 else 0
  if not cells or abs(cells * step - 1) > SAME:
    raise ConfigError(f"{name} is {step}; write a number that divides 1, such as 0.05")
  return cells


def _check_options(
  bracket: str, width: float, nodes: int, degree: int, max_evaluations: int, tolerance: float, accuracy: float
) -> None:
  if bracket not in ("golden", "grid"):
    raise ConfigError(f"bracket is {bracket!r}; write 'golden' or 'grid'")
  if not 1e-6 <= width < 1:
    raise ConfigError(f"width is {width}; write a part of the bounds, from 1e-6 to below 1")
  if not 2 <= degree < nodes:
    raise ConfigError(
      f"degree {degree} with {nodes} nodes; a degree of at least 2 needs more nodes than that"
    )
  for name, value, example in (("tolerance", tolerance, "1e-6"), ("accuracy", accuracy, "1e-4")):
    if not 0 <= value < 1:
      raise ConfigError(f"{name} is {value}; write a part of the values, such as {example}")
  sections = math.ceil(math.log(width) / math.log(RATIO) - SAME)
  # "golden" needs both ends, and one point more than there are sections; three nodes are then known. With
  # "grid", the best point and its neighbours are known.
  needed = 3 + sections + max(nodes - 3, 0) + 1 if bracket == "golden" else nodes + 1
  if max_evaluations < needed:
    raise ConfigError(f"max_evaluations is {max_evaluations}; this width and these nodes need {needed}")
