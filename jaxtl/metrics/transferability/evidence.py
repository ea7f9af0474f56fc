"""LogME: the evidence of a Bayesian linear model of each class, maximised over its two precisions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxtl.metrics.transferability.score import Score
from jaxtl.metrics.transferability.statistics import ClassStatistics

# The search over log10 of tau = alpha / beta: this far on both sides of the largest eigenvalue.
DECADES, POINTS, REFINEMENTS = 8.0, 241, 60
GOLDEN = (5**0.5 - 1) / 2
# The residual stays above this share of n_c, so that interpolation has a finite evidence.
LEAST_RESIDUAL = 1e-10


class LogEvidence(NamedTuple):
  """The evidence of each class, [K] arrays.

  Attributes:
    value: the largest log evidence / N, at least `floor`.
    floor: that of noise alone (alpha -> inf).
    alpha, beta: precisions of weights and noise at the optimum; alpha is inf where the floor is taken.
    no_signal: whether the floor is taken.
    interpolates: whether the evidence still grows at the smallest tau that is searched, or the residual
      reached its lower bound: the features fit the targets exactly.
  """

  value: np.ndarray
  floor: np.ndarray
  alpha: np.ndarray
  beta: np.ndarray
  no_signal: np.ndarray
  interpolates: np.ndarray


def logme(statistics: ClassStatistics) -> Score:
  """Computes the mean over classes of the maximal log evidence per image.

  You, Liu, Wang, Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", 2021, arXiv
  2102.11005. Features and 0/1 targets are not centred and there is no intercept, as published. So a constant
  that is added to all features changes the score: give raw features.

  Returns:
    A value above the mean of the floors, larger is better. Details: "floor" (mean over classes),
    "no_signal" and "interpolates" (numbers of classes).
  """
  evidence = log_evidence(statistics)
  details = {
    "floor": float(evidence.floor.mean()),
    "no_signal": int(evidence.no_signal.sum()),
    "interpolates": int(evidence.interpolates.sum()),
  }
  return Score(float(evidence.value.mean()), details=details)


def log_evidence(statistics: ClassStatistics) -> LogEvidence:
  """Maximises the log evidence of each class over log tau, tau = alpha / beta, with the best beta put in.

  With S = F'F and the class sum g = F't, the residual is q(tau) = n_c - g'(S + tau)^-1 g and the best beta is
  N / q. The log evidence per image is -(1/2) [log 2 pi + log(q / N) + 1 + (1/N) log det(I + S / tau)].

  This profile form has no term that depends on N < D. The published fixed point leaves one out there, and
  diverges if the features carry no signal.
  """
  num, count = statistics.num, statistics.count
  floor = -0.5 * (np.log(2 * np.pi * count / num) + 1)
  problem = _problem(statistics)
  if problem.scale <= 0:
    infinite = np.full(len(count), np.inf)
    none = np.zeros(len(count), bool)
    return LogEvidence(floor, floor, infinite, num / count, ~none, none)
  log_tau = _maximise(problem)
  best = problem.evidence(log_tau)
  no_signal = best <= floor
  residual, _ = problem.terms(np.exp(log_tau))
  beta = num / np.where(no_signal, count, residual)
  at_the_end = (log_tau <= problem.grid[1]) | (residual <= LEAST_RESIDUAL * count)
  alpha = np.where(no_signal, np.inf, np.exp(log_tau) * beta)
  return LogEvidence(np.maximum(best, floor), floor, alpha, beta, no_signal, ~no_signal & at_the_end)


class EvidenceProblem(NamedTuple):
  """The evidence of all classes in the eigenvectors of the covariance, in which S = diag(values) + u u'.

  The model is split at the mean, so that the eigendecomposition of the covariance serves features that are
  not centred. With A = diag(values) + tau, w0 = A^-1 h the fit to the centred target and q0 its residual,
  q(tau) = q0 + (n_c / sqrt(N) - u'w0)^2 / (1 + u'A^-1 u). No difference of nearly equal numbers appears.

  Attributes:
    values: [D] of N times the covariance.
    sizes: [K] n_c.
    u2: [D] squares of u = sqrt(N) mean.
    hu: [K, D] h u with h = n_c (class mean - mean).
    x2: [K, D] h^2 / values: the part of the centred target in each direction.
    rest: [K] the part outside all directions.
  """

  values: np.ndarray
  sizes: np.ndarray
  u2: np.ndarray
  hu: np.ndarray
  x2: np.ndarray
  rest: np.ndarray

  @property
  def num(self) -> float:
    return float(self.sizes.sum())

  @property
  def scale(self) -> float:
    """The largest eigenvalue of S, within a factor of 2."""
    return float(self.values[-1] + self.u2.sum())

  @property
  def grid(self) -> np.ndarray:
    """log tau, [POINTS]."""
    return np.log(self.scale) + np.linspace(-DECADES, DECADES, POINTS) * np.log(10)

  def terms(self, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the residual q and log det(I + S / tau) for one tau per class, [K] -> [K], [K]."""
    inverse = 1 / (self.values + tau[:, None])
    return self._combine(
      inverse @ self.u2,
      np.sum(self.hu * inverse, axis=1),
      tau * np.sum(self.x2 * inverse, axis=1),
      np.log1p(self.values / tau[:, None]).sum(axis=1),
    )

  def on_grid(self) -> np.ndarray:
    """Computes the log evidence [POINTS, K] of the grid, by matrix products for all classes."""
    tau = np.exp(self.grid)[:, None]
    inverse = 1 / (self.values + tau)
    logs = np.log1p(self.values / tau).sum(axis=1)[:, None]
    products = (inverse @ self.u2)[:, None], inverse @ self.hu.T, tau * (inverse @ self.x2.T)
    return self._profile(*self._combine(*products, logs))

  def evidence(self, log_tau: np.ndarray) -> np.ndarray:
    """Computes the log evidence per image of each class, [K] -> [K]."""
    return self._profile(*self.terms(np.exp(log_tau)))

  def _combine(
    self, uu: np.ndarray, hu: np.ndarray, unfitted: np.ndarray, logs: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    residual = unfitted + self.rest + (self.sizes / np.sqrt(self.num) - hu) ** 2 / (1 + uu)
    return np.maximum(residual, LEAST_RESIDUAL * self.sizes), logs + np.log1p(uu)

  def _profile(self, residual: np.ndarray, log_determinant: np.ndarray) -> np.ndarray:
    return -0.5 * (np.log(2 * np.pi * residual / self.num) + 1 + log_determinant / self.num)


def _problem(statistics: ClassStatistics) -> EvidenceProblem:
  values, vectors = statistics.spectrum
  num, count = statistics.num, statistics.count
  # Directions without variance hold rounding alone.
  seen = values > 1e-14 * max(num, statistics.dim) * values[-1]
  values = num * np.where(seen, values, 0)
  u = np.sqrt(num) * (statistics.mean @ vectors)
  h = count[:, None] * (statistics.deviations @ vectors) * seen
  x2 = h**2 / np.where(seen, values, 1)
  rest = count * (1 - count / num) - x2.sum(axis=1)
  # A remainder from rounding would hide how well the features interpolate.
  rest = np.where(rest > 1e-12 * count, rest, 0)
  return EvidenceProblem(values, count, u**2, h * u, x2, rest)


def _maximise(problem: EvidenceProblem) -> np.ndarray:
  """Golden-section search of all classes at once, around the best point of the grid; returns log tau [K]."""
  grid = problem.grid
  best = problem.on_grid().argmax(axis=0)
  low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, POINTS - 1)]
  inner = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
  at = [problem.evidence(point) for point in inner]
  for _ in range(REFINEMENTS):
    left = at[0] > at[1]
    low, high = np.where(left, low, inner[0]), np.where(left, inner[1], high)
    # One of the two inner points is kept.
    point = np.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
    value = problem.evidence(point)
    inner = [np.where(left, point, inner[1]), np.where(left, inner[0], point)]
    at = [np.where(left, value, at[1]), np.where(left, at[0], value)]
  return (low + high) / 2
