"""LogME: the evidence of a Bayesian linear model of each class, maximised over its two precisions."""

from __future__ import annotations

from collections.abc import Callable
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

  With S = F'F = V diag(s) V' and the class sum g = F't, the residual is q(tau) = n_c - sum_i (v_i'g)^2 /
  (s_i + tau), the best beta is N / q, and the log evidence per image is
  -(1/2) [log 2 pi + log(q / N) + 1 + (1/N) sum_i log(1 + s_i / tau)].

  This profile form has no term that depends on N < D. The published fixed point leaves one out there, and
  diverges if the features carry no signal.
  """
  num, count = statistics.num, statistics.count
  floor = -0.5 * (np.log(2 * np.pi * count / num) + 1)
  values, vectors = statistics.origin_spectrum
  if values[-1] <= 0:
    return _evidence_at(
      np.full(len(count), np.inf), floor, floor, count, num, np.zeros((len(count), 1)), values
    )
  sums = count[:, None] * (statistics.deviations + statistics.mean)
  power = (sums @ vectors) ** 2
  # Directions without variance hold rounding alone.
  kept = values > 1e-14 * max(num, statistics.dim) * values[-1]
  values, power = values[kept], power[:, kept]

  def profile(log_tau: np.ndarray) -> np.ndarray:
    """[K] log tau -> [K] log evidence per image."""
    tau = np.exp(log_tau)[:, None]
    residual = np.maximum(count - np.sum(power / (values + tau), axis=1), LEAST_RESIDUAL * count)
    return _profile(residual, np.log1p(values / tau).sum(axis=1), num)

  log_tau = _maximise(profile, np.log(values[-1]), _on_grid(values, power, count, num))
  best = profile(log_tau)
  return _evidence_at(np.exp(log_tau), best, floor, count, num, power, values)


def _profile(residual: np.ndarray, log_determinant: np.ndarray, num: float) -> np.ndarray:
  return -0.5 * (np.log(2 * np.pi) + np.log(residual / num) + 1 + log_determinant / num)


def _on_grid(values: np.ndarray, power: np.ndarray, count: np.ndarray, num: float) -> np.ndarray:
  """The log evidence [POINTS, K] on the grid of log tau, by one matrix product for all classes."""
  tau = np.exp(_grid(np.log(values[-1])))[:, None]
  residual = np.maximum(count - (1 / (values + tau)) @ power.T, LEAST_RESIDUAL * count)
  return _profile(residual, np.log1p(values / tau).sum(axis=1)[:, None], num)


def _grid(centre: float) -> np.ndarray:
  return centre + np.linspace(-DECADES, DECADES, POINTS) * np.log(10)


def _maximise(profile: Callable[[np.ndarray], np.ndarray], centre: float, on_grid: np.ndarray) -> np.ndarray:
  """Golden-section search of all classes at once, around the best point of the grid; returns log tau [K]."""
  grid = _grid(centre)
  best = on_grid.argmax(axis=0)
  low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, POINTS - 1)]
  inner = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
  at = [profile(inner[0]), profile(inner[1])]
  for _ in range(REFINEMENTS):
    left = at[0] > at[1]
    low, high = np.where(left, low, inner[0]), np.where(left, inner[1], high)
    # One of the two inner points is kept.
    point = np.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
    value = profile(point)
    inner = [np.where(left, point, inner[1]), np.where(left, inner[0], point)]
    at = [np.where(left, value, at[1]), np.where(left, at[0], value)]
  return (low + high) / 2


def _evidence_at(
  tau: np.ndarray,
  best: np.ndarray,
  floor: np.ndarray,
  count: np.ndarray,
  num: float,
  power: np.ndarray,
  values: np.ndarray,
) -> LogEvidence:
  no_signal = best <= floor
  residual = count - np.sum(power / (values + tau[:, None]), axis=1)
  beta = num / np.where(no_signal, count, np.maximum(residual, LEAST_RESIDUAL * count))
  alpha = np.where(no_signal, np.inf, tau * beta)
  at_the_end = tau <= values[-1] * 10 ** (-DECADES + 2 * DECADES / (POINTS - 1))
  interpolates = ~no_signal & (at_the_end | (residual <= LEAST_RESIDUAL * count))
  return LogEvidence(np.maximum(best, floor), floor, alpha, beta, no_signal, interpolates)
