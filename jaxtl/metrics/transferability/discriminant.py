"""SFDA: a shrunken linear discriminant, fitted twice, the second time to features that are mixed."""

from __future__ import annotations

import contextlib

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import scipy.special

from jaxtl.metrics.moments import class_sums
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
  within = statistics.within
  if float(np.trace(within)) <= 1e-18 * statistics.total_variance:
    raise ScoreError("all images of a class have the same features; SFDA divides by their spread")
  shrinkage = max(float(np.exp(-5 * _largest_eigenvalue(within))), 1e-10)
  own = np.arange(len(labels))
  # Posteriors do not change if features and class means move together.
  centred, means = given - statistics.mean, statistics.deviations
  first = _posteriors(centred, labels, means, within, shrinkage)
  keep = scipy.special.softmax(first, axis=1)[own, labels][:, None]
  others = (means.sum(axis=0) - means) / (len(means) - 1)
  mixed = keep * centred + (1 - keep) * others[labels]
  second = discriminant_posteriors(mixed, labels, shrinkage=shrinkage)
  return mean_score(
    second[own, labels], shrinkage=shrinkage, mixing=float(keep.mean()), optimistic=True, no_signal=False
  )


def discriminant_posteriors(features: np.ndarray, labels: np.ndarray, *, shrinkage: float) -> np.ndarray:
  """Computes the posteriors [N, K] of a linear discriminant that is fitted to the same images.

  Args:
    features: [N, D].
    labels: int [N].
    shrinkage: a of the covariance (1 - a) W + a (tr W / D) I.
  """
  labels = np.unique(labels, return_inverse=True)[1]
  centred = np.asarray(features, np.float64)
  centred = centred - centred.mean(axis=0)
  count = np.bincount(labels)
  means = class_sums(centred, labels, num_classes=len(count)) / count[:, None]
  deviations = centred - means[labels]
  return _posteriors(centred, labels, means, deviations.T @ deviations / len(labels), shrinkage)


def _posteriors(
  features: np.ndarray, labels: np.ndarray, means: np.ndarray, within: np.ndarray, shrinkage: float
) -> np.ndarray:
  weights = _solve_within(features, labels, means, within, shrinkage)
  share = np.bincount(labels) / len(labels)
  scores = features @ weights - np.sum(weights * means.T, axis=0) / 2 + np.log(share)
  return scipy.special.softmax(scores, axis=1)


def _solve_within(
  features: np.ndarray, labels: np.ndarray, means: np.ndarray, within: np.ndarray, shrinkage: float
) -> np.ndarray:
  """Returns ((1 - a) W + a (tr W / D) I)^-1 times the class means, [D, K]."""
  num, dim = features.shape
  if num >= dim + len(means):
    matrix = (1 - shrinkage) * within
    matrix[np.diag_indices_from(matrix)] += shrinkage * np.trace(within) / dim
    with contextlib.suppress(np.linalg.LinAlgError):  # columns that repeat each other, and a tiny ridge
      factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
      return scipy.linalg.cho_solve(factor, means.T, check_finite=False)
  # W is singular: its singular vectors are exact where a Cholesky factor with a tiny ridge is not.
  _, singular, axes = scipy.linalg.svd(features - means[labels], full_matrices=False, check_finite=False)
  values = singular**2 / num
  ridge = shrinkage * values.sum() / dim
  change = 1 / ((1 - shrinkage) * values + ridge) - 1 / ridge
  return means.T / ridge + axes.T @ (change[:, None] * (axes @ means.T))


def _largest_eigenvalue(matrix: np.ndarray) -> float:
  if len(matrix) <= DENSE:
    return float(scipy.linalg.eigvalsh(matrix, check_finite=False)[-1])
  start = np.random.default_rng(0).normal(size=len(matrix))
  return float(scipy.sparse.linalg.eigsh(matrix, k=1, v0=start, return_eigenvectors=False)[0])
