"""The geometry of features, as columns of a table: collapse of classes and the number of directions in use.

No order of checkpoints is claimed. The intrinsic dimension is with the nearest neighbours.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from jaxtl.metrics.transferability.score import Score, ScoreError
from jaxtl.metrics.transferability.statistics import RELATIVE_CUT, ClassStatistics


def nc1(statistics: ClassStatistics) -> Score:
  """Computes the within-class variability relative to the class means, tr(W B^+) / K.

  Papyan, Han, Donoho, "Prevalence of Neural Collapse during the terminal phase of deep learning training",
  2020, arXiv 2008.08186. B is the mean over classes of (class mean - mean)(class mean - mean)', and W has the
  divisor N. It is 0 where all images of a class have the same features.

  Raises:
    ScoreError: all class means are equal.
  """
  # B = A'A / K; the K x K matrix A A' has its non-zero eigenvalues.
  means = statistics.deviations
  num_classes = len(means)
  values, vectors = scipy.linalg.eigh(means @ means.T / num_classes, check_finite=False)
  scale = float(np.sum(statistics.mean**2)) + statistics.total_variance
  if values[-1] <= 1e-18 * scale:
    raise ScoreError("the class means are equal; NC1 divides by their spread")
  kept = values > RELATIVE_CUT * values[-1]
  axes = means.T @ vectors[:, kept] / np.sqrt(num_classes * values[kept])
  within = np.sum(axes * (statistics.within @ axes), axis=0)
  return Score(float(np.sum(np.maximum(within, 0) / values[kept]) / num_classes))


def effective_rank(statistics: ClassStatistics) -> Score:
  """Computes exp of the entropy of the eigenvalue shares of the covariance, from 1 to D.

  Roy and Vetterli, "The effective rank: A measure of effective dimensionality", 2007.

  Raises:
    ScoreError: the features are constant.
  """
  values = _shares(statistics)
  positive = values[values > 0]
  return Score(float(np.exp(-np.sum(positive * np.log(positive)))))


def participation_ratio(statistics: ClassStatistics) -> Score:
  """Computes (sum of eigenvalues)^2 / sum of their squares for the covariance, from 1 to D.

  It needs no eigendecomposition.

  Raises:
    ScoreError: the features are constant.
  """
  _refuse_constant(statistics)
  return Score(float(statistics.total_variance**2 / np.sum(statistics.covariance**2)))


def _shares(statistics: ClassStatistics) -> np.ndarray:
  _refuse_constant(statistics)
  values = statistics.spectrum[0]
  return values / values.sum()


def _refuse_constant(statistics: ClassStatistics) -> None:
  if statistics.constant:
    raise ScoreError("the features are constant, so that their covariance has no spectrum")
