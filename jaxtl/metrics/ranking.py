"""Does a score order checkpoints as their measured accuracies do? Rank correlations, regret, and baselines.

Scores and accuracies are arrays [M] over the checkpoints of one target. The correlations also take leading
axes [..., M], which broadcast, so that thousands of resampled or random orders need one call. A checkpoint
without a score, such as one without a head for LEEP, has to be left out by the caller.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxtl.errors import ConfigError, InputError

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Values that differ by less are equal: a rank measure has a coarse grid of values.
EQUAL = 1e-9


class RankingError(InputError):
  """An agreement that is not defined for so few checkpoints or targets."""


def weighted_tau(scores: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
  """Computes the weighted Kendall correlation, which counts the top of the order most.

  Vigna, "A Weighted Correlation Index for Rankings with Ties", 2015, arXiv 1404.3325. A pair weighs
  1 / (1 + r_i) + 1 / (1 + r_j) with 0-based ranks by decreasing value, and the result is the mean for the
  ranks by (score, accuracy) and by (accuracy, score): the defaults of `scipy.stats.weightedtau`.

  >>> round(float(weighted_tau(np.array([4, 1, 3, 2]), np.array([0.9, 0.2, 0.5, 0.6]))), 6)
  0.733333

  Args:
    scores, accuracies: [..., M].

  Returns:
    [...], from -1 to 1; NaN where one of the two is constant.

  Raises:
    RankingError: there are fewer than 2 checkpoints, or a value is not finite.
  """
  s, a = _pairwise(scores, accuracies)
  return (_tau(s, a, _hyperbolic(s, a)) + _tau(s, a, _hyperbolic(a, s))) / 2


def kendall_tau(scores: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
  """Computes Kendall's tau-b of [..., M], which corrects for ties; NaN where one of the two is constant.

  Raises:
    RankingError: as in `weighted_tau`.
  """
  s, a = _pairwise(scores, accuracies)
  return _tau(s, a, np.ones(s.shape[-2:]))


def spearman(scores: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
  """Computes the correlation of average ranks of [..., M]; NaN where one of the two is constant.

  Raises:
    RankingError: as in `weighted_tau`.
  """
  s, a = _paired(scores, accuracies)
  return pearson(average_ranks(s), average_ranks(a))


def pearson(scores: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
  """Computes the linear correlation of [..., M]; NaN where one of the two is constant.

  Raises:
    RankingError: as in `weighted_tau`.
  """
  unit = []
  for values in _paired(scores, accuracies):
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    # Rounding of the mean leaves a small remainder of a constant.
    constant = length <= 1e-14 * np.max(np.abs(values), axis=-1, keepdims=True)
    unit.append(centred / np.where(constant, np.nan, length))
  return np.clip(np.sum(unit[0] * unit[1], axis=-1), -1.0, 1.0)


def average_ranks(values: np.ndarray) -> np.ndarray:
  """Returns 1-based ranks of [..., M] by increasing value; equal values share the mean of their ranks."""
  values = np.asarray(values, np.float64)
  if values.ndim == 1:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
  below = np.sum(values[..., :, None] > values[..., None, :], axis=-1)
  equal = np.sum(values[..., :, None] == values[..., None, :], axis=-1)
  return below + (equal + 1) / 2


def partial_spearman(scores: np.ndarray, accuracies: np.ndarray, given: np.ndarray) -> float:
  """Computes what a score adds to a known predictor: Spearman of residuals after regression on its ranks.

  The ranks of scores and of accuracies are each regressed on the ranks of `given`, with an intercept.

  Args:
    scores, accuracies: [M].
    given: [M] the known predictor, for example the source accuracy.

  Returns:
    From -1 to 1; NaN if scores or accuracies have the order of `given`, so that nothing is left.

  Raises:
    RankingError: there are fewer than 4 checkpoints, or a value is not finite.
  """
  s, a = _paired(scores, accuracies)
  known, _ = _paired(given, accuracies)
  if s.ndim != 1 or len(s) < 4:
    raise RankingError(f"expected at least 4 checkpoints for a partial correlation, got shape {s.shape}")
  ranks = average_ranks(known)
  x = ranks - ranks.mean()
  residuals = []
  for values in (average_ranks(s), average_ranks(a)):
    centred = values - values.mean()
    slope = x @ centred / (x @ x) if np.any(x) else 0.0
    residuals.append(np.round(centred - slope * x, 9))  # residuals that are equal tie despite rounding
  return float(spearman(*residuals))


def regret(scores: np.ndarray, accuracies: np.ndarray, *, k: int = 1) -> float:
  """Computes the accuracy that is lost by trusting the score: the best minus the best of the k top-scored.

  Where checkpoints tie for the last of the k places, it is the expectation over a random choice among them.

  Args:
    scores, accuracies: [M].
    k: checkpoints that are tried.

  Returns:
    In the unit of the accuracies: points, if they are percentages.

  Raises:
    ConfigError: k is not positive.
    RankingError: a value is not finite.
  """
  if k < 1:
    raise ConfigError(f"expected a positive k, got {k!r} (for example 3)")
  s, a = _paired(scores, accuracies, least=1)
  k = min(k, len(s))
  last = np.sort(s)[::-1][k - 1]
  sure, tied = a[s > last], np.sort(a[s == last])
  places = k - len(sure)
  floor = sure.max(initial=-np.inf)
  # The largest of `places` out of the tied ones is the j-th smallest in C(j - 1, places - 1) of the choices.
  choices = [math.comb(j, places - 1) for j in range(len(tied))]
  expected = np.dot(choices, np.maximum(tied, floor)) / math.comb(len(tied), places)
  return float(a.max() - expected)


def normalized_regret(scores: np.ndarray, accuracies: np.ndarray) -> float:
  """Computes the regret in random picks: regret / (max - mean). 0 is perfect and 1 is a random pick.

  It is 0 if all accuracies are equal.
  """
  spread = float(np.max(accuracies) - np.mean(accuracies))
  return regret(scores, accuracies) / spread if spread > 0 else 0.0


def mean_of_others(accuracies: np.ndarray) -> np.ndarray:
  """Computes the static baseline that never looks at a target: mean accuracy on the other targets.

  Args:
    accuracies: [T, M] of T targets and M checkpoints; NaN where a checkpoint was not measured.

  Returns:
    [T, M] scores; NaN where no other target was measured.

  Raises:
    RankingError: there is one target only.
  """
  accuracies = np.asarray(accuracies, np.float64)
  if accuracies.ndim != 2 or len(accuracies) < 2:
    raise RankingError(f"expected accuracies [T, M] of at least 2 targets, got shape {accuracies.shape}")
  measured = ~np.isnan(accuracies)
  values = np.where(measured, accuracies, 0)
  others = measured.sum(axis=0) - measured
  return np.where(others > 0, (values.sum(axis=0) - values) / np.maximum(others, 1), np.nan)


def mean_agreement(scores: np.ndarray, accuracies: np.ndarray, *, measure: Measure = weighted_tau) -> float:
  """Computes the mean over targets of an agreement; a constant order counts as 0, as a random one does.

  Args:
    scores: [T, M], or [M] for a static predictor; NaN where a checkpoint has no score.
    accuracies: [T, M]; NaN where a checkpoint was not measured.
    measure: (scores, accuracies) -> agreement.

  Raises:
    RankingError: no target has 2 checkpoints with both.
  """
  accuracies = np.asarray(accuracies, np.float64)
  values = []
  for s, a in zip(np.broadcast_to(scores, accuracies.shape), accuracies):
    both = ~(np.isnan(s) | np.isnan(a))
    if both.sum() >= 2:
      values.append(np.nan_to_num(float(measure(s[both], a[both])), nan=0.0))
  if not values:
    raise RankingError("no target has 2 checkpoints with both a score and an accuracy")
  return float(np.mean(values))


def within_groups(
  scores: np.ndarray,
  accuracies: np.ndarray,
  groups: np.ndarray,
  *,
  measure: Measure = weighted_tau,
  least: int = 4,
) -> float:
  """Computes the mean agreement within groups, such as checkpoints of one architecture.

  A benchmark across sizes rewards size; within an architecture it cannot.

  Args:
    scores, accuracies: [M].
    groups: [M] group of each checkpoint.
    measure: (scores, accuracies) -> agreement; a constant order counts as 0.
    least: fewest checkpoints of a group that is used.

  Raises:
    RankingError: no group is large enough.
  """
  s, a = _paired(scores, accuracies)
  groups = np.asarray(groups)
  names, counts = np.unique(groups, return_counts=True)
  large = names[counts >= least]
  if not len(large):
    raise RankingError(f"no group has {least} checkpoints; the largest has {int(counts.max())}")
  values = [float(measure(s[groups == name], a[groups == name])) for name in large]
  return float(np.mean(np.nan_to_num(values, nan=0.0)))


def setup_stability(agreements: np.ndarray) -> float:
  """Computes whether the same predictors win on each target: mean Kendall tau over pairs of targets.

  Agostinelli, Pandy, Uijlings, Mensink, Ferrari, "How stable are Transferability Metrics evaluations?", 2022,
  arXiv 2204.01403.

  Args:
    agreements: [T, E], the agreement of each of E predictors on each of T targets.

  Raises:
    RankingError: there are fewer than 2 targets or 2 predictors.
  """
  agreements = np.asarray(agreements, np.float64)
  if agreements.ndim != 2 or min(agreements.shape) < 2:
    raise RankingError(f"expected [T, E] of at least 2 targets and 2 predictors, got {agreements.shape}")
  pairs = itertools.combinations(agreements, 2)
  return float(np.mean([np.nan_to_num(float(kendall_tau(a, b)), nan=0.0) for a, b in pairs]))


class PointPrediction(NamedTuple):
  """Accuracies that scores predict for a target that was left out.

  Attributes:
    predicted: [T, M]; row t comes from a fit to the other targets.
    slope, intercept: of the fit to all targets: accuracy per standard deviation of the score, and the mean
      over targets of the target intercepts.
    median_error: median over all targets and checkpoints of |predicted - measured|.
  """

  predicted: np.ndarray
  slope: float
  intercept: float
  median_error: float


def predict_accuracies(scores: np.ndarray, accuracies: np.ndarray) -> PointPrediction:
  """Predicts accuracies from scores by least squares with one slope and an intercept for each target.

  Scores are standardised within each target. The prediction for a target that was left out uses the mean
  intercept of the others.

  Args:
    scores, accuracies: [T, M].

  Raises:
    RankingError: there are fewer than 4 targets (3 others) or 8 checkpoints, a value is not finite, or the
      scores of a target are constant.
  """
  s, a = _paired(scores, accuracies)
  if s.shape != a.shape or s.ndim != 2 or s.shape[0] < 4 or s.shape[1] < 8:
    raise RankingError(
      f"expected at least 4 targets and 8 checkpoints to predict points, got shape {np.shape(accuracies)}"
    )
  spread = s.std(axis=1, keepdims=True)
  if not np.all(spread > 0):
    raise RankingError("the scores of a target are constant")
  z = (s - s.mean(axis=1, keepdims=True)) / spread

  def fit(use: np.ndarray) -> tuple[float, float]:
    # z is centred within each target, so that intercepts are the targets' means.
    return float(np.sum(z[use] * a[use]) / np.sum(z[use] ** 2)), float(a[use].mean())

  predicted = np.empty_like(a)
  for target in range(len(a)):
    slope, intercept = fit(np.arange(len(a)) != target)
    predicted[target] = intercept + slope * z[target]
  return PointPrediction(predicted, *fit(np.ones(len(a), bool)), float(np.median(np.abs(predicted - a))))


def _paired(scores: np.ndarray, accuracies: np.ndarray, *, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
  s, a = np.asarray(scores, np.float64), np.asarray(accuracies, np.float64)
  if not s.ndim or not a.ndim or s.shape[-1] != a.shape[-1]:
    raise RankingError(f"scores have shape {s.shape} and accuracies {a.shape}; expected the same checkpoints")
  if s.shape[-1] < least:
    raise RankingError(f"expected at least {least} checkpoints, got {s.shape[-1]}")
  if not (np.isfinite(s).all() and np.isfinite(a).all()):
    raise RankingError("a score or an accuracy is not finite; leave its checkpoint out")
  return s, a


def _pairwise(scores: np.ndarray, accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Signs [..., M, M] of the differences i - j, broadcast to one shape."""
  signs = [np.sign(x[..., :, None] - x[..., None, :]) for x in _paired(scores, accuracies)]
  s, a = np.broadcast_arrays(*signs)
  return s, a


def _hyperbolic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Pair weights [..., M, M] from ranks by decreasing (first, second)."""
  ahead = (first < 0) | ((first == 0) & (second < 0))
  # Checkpoints that agree in both change places without an effect; the index orders them.
  indices = np.arange(first.shape[-1])
  equal = (first == 0) & (second == 0) & (indices[:, None] > indices)
  weights = 1 / (1 + np.sum(ahead | equal, axis=-1))
  return weights[..., :, None] + weights[..., None, :]


def _tau(s: np.ndarray, a: np.ndarray, weights: np.ndarray) -> np.ndarray:
  axes = (-2, -1)
  agreement = np.sum(weights * s * a, axis=axes)
  untied = np.sum(weights * s**2, axis=axes) * np.sum(weights * a**2, axis=axes)
  return np.clip(agreement / np.sqrt(np.where(untied > 0, untied, np.nan)), -1.0, 1.0)
