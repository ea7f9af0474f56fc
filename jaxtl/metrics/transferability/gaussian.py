"""Scores of Gaussian classes: the Bhattacharyya coefficient and the coding rate (TransRate)."""

from __future__ import annotations

import numpy as np
import scipy.special

from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.score import Score, ScoreError, checked
from jaxtl.metrics.transferability.statistics import ClassStatistics


def gbc(statistics: ClassStatistics, *, floor: float = 1e-4) -> Score:
  """Computes minus the mean Bhattacharyya coefficient of pairs of classes, as spherical Gaussians.

  Pandy, Agostinelli, Uijlings, Ferrari, Mensink, "Transferability Estimation using Bhattacharyya Class
  Separability", 2022, arXiv 2111.12780. The published score is the sum over ordered pairs; the mean, which
  orders checkpoints in the same way, is comparable between targets.

  Args:
    statistics: of the features on their first 64 principal axes, see `projected`. On raw features, columns
      of noise raise the score.
    floor: least variance of a feature within a class, as a share of the mean variance of a feature.

  Returns:
    A value in [-1, 0], larger is better; -1 for identical classes. Details: "log_mean", the logarithm of the
    mean coefficient, which orders checkpoints where all coefficients underflow; "skipped", the number of
    classes with one image; "no_signal".

  Raises:
    ConfigError: the floor is not positive.
    ScoreError: fewer than two classes have 2 images.
  """
  return _gbc(statistics, floor, spherical=True)


def gbc_diagonal(statistics: ClassStatistics, *, floor: float = 1e-4) -> Score:
  """Computes `gbc` with a variance for each feature of each class; everything else is the same.

  Raises:
    ConfigError, ScoreError: as in `gbc`.
  """
  return _gbc(statistics, floor, spherical=False)


def _gbc(statistics: ClassStatistics, floor: float, *, spherical: bool) -> Score:
  if not floor > 0:
    raise ConfigError(f"expected a positive floor, got {floor!r} (for example 1e-4)")
  used = statistics.count >= 2
  skipped = int(np.sum(~used))
  if used.sum() < 2:
    raise ScoreError(f"expected at least 2 classes with 2 images, got {int(used.sum())}")
  if statistics.constant:
    return Score(-1.0, details={"log_mean": 0.0, "skipped": skipped, "no_signal": True})
  variances = np.maximum(statistics.variances[used], floor * statistics.total_variance / statistics.dim)
  if spherical:
    variances = np.repeat(variances.mean(axis=1, keepdims=True), statistics.dim, axis=1)
  means = statistics.deviations[used]
  exponents = []
  for number in range(len(means) - 1):
    mean, variance = means[number + 1 :] - means[number], variances[number + 1 :]
    pooled = (variance + variances[number]) / 2
    spread = np.log(pooled) - (np.log(variance) + np.log(variances[number])) / 2
    exponents.append(-np.sum(mean**2 / (8 * pooled) + spread / 2, axis=1))
  pairs = np.concatenate(exponents)
  log_mean = float(scipy.special.logsumexp(pairs) - np.log(len(pairs)))
  return Score(
    -float(np.exp(log_mean)), details={"log_mean": log_mean, "skipped": skipped, "no_signal": False}
  )


def transrate(features: np.ndarray, labels: np.ndarray, *, epsilon: float = 1e-4) -> Score:
  """Computes the coding rate of all features minus the mean coding rate of the classes.

  Huang, Huang, Rong, Yang, Wei, "Frustratingly Easy Transferability Estimation", 2022, arXiv 2106.09362. The
  rate is R(Z) = (1/2) logdet(I + Z'Z / (n epsilon)). Features are centred over all images and scaled to a
  mean squared length of 1, since the rate depends on the scale. Classes are weighted by their shares.

  Columns of noise raise the score, and two balanced classes of equal spread score 0 however far apart they
  are. It is not a default score for these reasons.

  Args:
    features: [N, D].
    labels: int [N].
    epsilon: distortion; the default is the paper's.

  Returns:
    A value in [0, inf), larger is better; 0 for constant features. Details: "two_classes", whether the case
    above may apply; "no_signal".

  Raises:
    ConfigError: the distortion is not positive, or shapes do not fit.
    ScoreError: a feature is not finite, or fewer than two classes have images.
  """
  if not epsilon > 0:
    raise ConfigError(f"expected a positive epsilon, got {epsilon!r} (for example 1e-4)")
  given, classes, labels = checked(features, labels)
  centred = given - given.mean(axis=0)
  size = float(np.mean(np.sum(centred**2, axis=1)))
  details = {"two_classes": len(classes) == 2, "no_signal": size <= 1e-18 * np.mean(np.sum(given**2, axis=1))}
  if details["no_signal"]:
    return Score(0.0, details=details)
  centred /= np.sqrt(size)
  by_class = sum(
    np.mean(labels == number) * _rate(centred[labels == number], epsilon) for number in range(len(classes))
  )
  return Score(max(float(_rate(centred, epsilon) - by_class), 0.0), details=details)


def _rate(rows: np.ndarray, epsilon: float) -> float:
  # The Gram matrix of the shorter side has the same non-zero eigenvalues.
  product = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
  product /= len(rows) * epsilon
  product[np.diag_indices_from(product)] += 1
  return 0.5 * float(np.linalg.slogdet(product)[1])
