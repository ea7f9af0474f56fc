"""SFDA: a shrunken linear discriminant, fitted twice, the second time to features that are mixed."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import scipy.special

from jaxtl.metrics.transferability.score import Score, ScoreError, checked, mean_score
from jaxtl.metrics.transferability.statistics import ClassStatistics, statistics_of

# Above this width one eigenvalue is cheaper by Lanczos' method.
DENSE = 256


def sfda(features: np.ndarray, labels: np.ndarray, *, statistics: ClassStatistics | None = None) -> Score:
  """Computes the mean posterior of the true class under the second of two shrunken discriminants.

  Shao, Zhao, Ge, Zhang, Yang, Wang, Shan, Luo, "Not All Models Are Equal: Predicting Model Transferability in
  a Self-challenging Fisher Space", 2022, arXiv 2207.03036. The shrinkage is max(exp(-5 lambda_max(W)), 1e-10)
  with the exact largest eigenvalue of the within-class covariance W. Between the passes each feature is mixed
  with the mean of the other classes, by a softmax of the posteriors.

  It is scored on the images that it was fitted to, so it is optimistic: columns of noise raise it to 1. It
  depends on the scale of features.

  Args:
    features: [N, D]; they are not changed.
    labels: int [N].
    statistics: of the same features and labels; computed if None.

  Returns:
    A value in (0, 1], larger is better, with its standard error over images. Details: "shrinkage", "mixing"
    (the mean share that an image keeps of itself), "optimistic" (always), "no_signal" (constant features).

  Raises:
    ConfigError: shapes do not fit.
    ScoreError: a feature is not finite, fewer than two classes have images, or all images of each class have
      the same features.
  """
  given, _, labels = checked(features, labels)
  statistics = statistics_of(given, labels) if statistics is None else statistics
  if statistics.constant:
    terms = statistics.share[labels]
    return mean_score(terms, shrinkage=1.0, mixing=float("nan"), optimistic=True, no_signal=True)
  if float(np.trace(statistics.within)) <= 1e-18 * statistics.total_variance:
    raise ScoreError("all images of a class have the same features; SFDA divides by their spread")
  largest = _largest_eigenvalue(statistics.within)
  shrinkage = max(float(np.exp(-5 * largest)), 1e-10)
  first = discriminant_posteriors(given, labels, shrinkage=shrinkage, statistics=statistics)
  own = np.arange(len(labels))
  keep = scipy.special.softmax(first, axis=1)[own, labels][:, None]
  means = statistics.mean + statistics.deviations
  others = (means.sum(axis=0) - means) / (len(means) - 1)
  mixed = keep * given + (1 - keep) * others[labels]
  second = discriminant_posteriors(mixed, labels, shrinkage=shrinkage)
  return mean_score(
    second[own, labels], shrinkage=shrinkage, mixing=float(keep.mean()), optimistic=True, no_signal=False
  )


def discriminant_posteriors(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  shrinkage: float,
  statistics: ClassStatistics | None = None,
) -> np.ndarray:
  """Computes the posteriors [N, K] of a linear discriminant that is fitted to the same images.

  Args:
    features: [N, D].
    labels: int [N].
    shrinkage: a of the covariance (1 - a) W + a (tr W / D) I.
    statistics: of the same features and labels; computed if None.
  """
  statistics = statistics_of(features, labels) if statistics is None else statistics
  centred = np.asarray(features, np.float64) - statistics.mean
  labels = np.unique(labels, return_inverse=True)[1]
  weights = _solve_within(centred, labels, statistics, shrinkage)
  # Posteriors do not change if features and class means move together.
  scores = (
    centred @ weights - np.sum(weights * statistics.deviations.T, axis=0) / 2 + np.log(statistics.share)
  )
  return scipy.special.softmax(scores, axis=1)


def _solve_within(
  centred: np.ndarray, labels: np.ndarray, statistics: ClassStatistics, shrinkage: float
) -> np.ndarray:
  """Returns ((1 - a) W + a (tr W / D) I)^-1 times the deviations of the class means, [D, K]."""
  means = statistics.deviations
  num, dim = centred.shape
  if num >= dim:
    matrix = statistics.within
    ridge = shrinkage * np.trace(matrix) / dim
    matrix *= 1 - shrinkage
    matrix[np.diag_indices_from(matrix)] += ridge
    factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, means.T, check_finite=False)
  # W has rank N at most: its singular vectors are exact where a Cholesky factor with a tiny ridge is not.
  _, singular, axes = scipy.linalg.svd(centred - means[labels], full_matrices=False, check_finite=False)
  values = singular**2 / num
  ridge = shrinkage * values.sum() / dim
  inner = axes @ means.T
  change = 1 / ((1 - shrinkage) * values + ridge) - 1 / ridge
  return means.T / ridge + axes.T @ (change[:, None] * inner)


def _largest_eigenvalue(matrix: np.ndarray) -> float:
  if len(matrix) <= DENSE:
    return float(scipy.linalg.eigvalsh(matrix, check_finite=False)[-1])
  start = np.random.default_rng(0).normal(size=len(matrix))
  return float(scipy.sparse.linalg.eigsh(matrix, k=1, v0=start, return_eigenvectors=False)[0])
