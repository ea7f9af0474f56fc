"""Scores that compare the covariance of class means with that of all features: H-score and LFC."""

from __future__ import annotations

import contextlib

import numpy as np
import scipy.linalg

from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.score import Score, ScoreError
from jaxtl.metrics.transferability.statistics import RELATIVE_CUT, ClassStatistics


def ledoit_wolf(statistics: ClassStatistics) -> float:
  """Computes the shrinkage of a covariance towards its mean eigenvalue, from 0 to 1.

  Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004. The fourth
  moment stands for the variance of the entries, so that no second pass is needed.
  """
  dim, num = statistics.dim, statistics.num
  mean_eigenvalue = statistics.total_variance / dim
  squared = float(np.sum(statistics.covariance**2))
  dispersion = squared / dim - mean_eigenvalue**2
  if dispersion <= 1e-14 * squared / dim:  # all eigenvalues are equal, up to rounding
    return 1.0
  noise = (statistics.fourth / num - squared) / (dim * num)
  return float(np.clip(noise / dispersion, 0.0, 1.0))


def h_score(statistics: ClassStatistics, *, shrinkage: float | None = None) -> Score:
  """Computes (1 - a) tr(Ca^-1 B), with B the covariance of class means and Ca the shrunken covariance.

  Bao, Li, Huang, Zhang, Zheng, Zamir, Guibas, "An Information-Theoretic Approach to Transferability in Task
  Transfer Learning", 2019 (ICIP). The shrunken form is that of Ibrahim, Ponomareva, Mazumder, "Newer is not
  always better: Rethinking transferability metrics, their peculiarities, stability and performance", 2021,
  arXiv 2110.06893. Both divisors are N.

  Args:
    statistics: of the features.
    shrinkage: a, from 0 to 1; None means that of Ledoit and Wolf. With 0, the plain H-score, noise columns
      raise the score.

  Returns:
    A value in [0, K - 1], larger is better. Details: "shrinkage", "no_signal" (constant features).

  Raises:
    ConfigError: the shrinkage is not in [0, 1].
    ScoreError: the plain form for N <= D + 1, where it is K - 1 whatever the labels are.
  """
  if shrinkage is not None and not 0 <= shrinkage <= 1:
    raise ConfigError(f"expected a shrinkage from 0 to 1, got {shrinkage!r} (None chooses it)")
  a = ledoit_wolf(statistics) if shrinkage is None else shrinkage
  if statistics.constant:
    return Score(0.0, details={"shrinkage": a, "no_signal": True})
  weighted = statistics.deviations * np.sqrt(statistics.share)[:, None]
  ridge = a * statistics.total_variance / statistics.dim
  if a == 0 and statistics.num <= statistics.dim + 1:
    raise ScoreError(
      f"the plain H-score of {statistics.num:g} images with {statistics.dim} features says nothing about the "
      "labels; expected over D + 1 images, or a shrinkage"
    )
  return Score(
    float((1 - a) * _quadratic(statistics, weighted, a, ridge)), details={"shrinkage": a, "no_signal": False}
  )


def _quadratic(statistics: ClassStatistics, rows: np.ndarray, a: float, ridge: float) -> float:
  """The sum over rows of row' ((1 - a) C + ridge I)^+ row."""
  if a / statistics.dim > 1e-10:
    matrix = (1 - a) * statistics.covariance
    matrix[np.diag_indices_from(matrix)] += ridge
    with contextlib.suppress(np.linalg.LinAlgError):  # sums in float32 may leave a negative eigenvalue
      factor = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
      half = scipy.linalg.solve_triangular(factor, rows.T, lower=True, check_finite=False)
      return float(np.sum(half**2))
  values, vectors = statistics.spectrum
  values = (1 - a) * values + ridge
  kept = values > RELATIVE_CUT * values[-1]
  return float(np.sum((rows @ vectors[:, kept]) ** 2 / values[kept]))


def lfc(statistics: ClassStatistics) -> Score:
  """Computes the centred alignment of the features' Gram matrix with that of the labels (same class or not).

  Deshpande, Achille, Ravichandran, Li, Zancato, Fowlkes, Bhotika, Soatto, Perona, "A linearized framework and
  a new benchmark for model selection for fine-tuning", 2021, arXiv 2102.00084 (label-feature correlation).
  The N x N alignment reduces to moments:
  sum_c n_c^2 |mu_c - m|^2 / (|N C|_F |diag(n) - n n' / N|_F).

  Returns:
    A value in [-1, 1], larger is better; invariant to rotation, shift and scale, and 0 for constant features.
    Details: "no_signal".
  """
  if statistics.constant:
    return Score(0.0, details={"no_signal": True})
  count, num = statistics.count, statistics.num
  alignment = count**2 @ np.sum(statistics.deviations**2, axis=1)
  labels = np.linalg.norm(np.diag(count) - np.outer(count, count) / num)
  features = num * np.linalg.norm(statistics.covariance)
  return Score(float(alignment / features / labels), details={"no_signal": False})
