"""The geometry of features: how they scatter within and between classes, and over how many directions."""

from __future__ import annotations

import numpy as np


def scatter_traces(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Computes the traces of the covariance within classes and of the covariance of the class means.

  Their ratio falls towards 0 as features collapse to their class means: Papyan, Han, Donoho, "Prevalence of
  Neural Collapse during the terminal phase of deep learning training", 2020, arXiv 2008.08186.

  >>> scatter_traces(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]))
  (1.0, 25.0)

  Args:
    features: [N, D].
    labels: int [N]; classes without an example do not count.

  Returns:
    The mean squared distance of an example to the mean of its class, and the mean squared distance of a class
    mean to the mean of the class means.
  """
  features = np.asarray(features, np.float64)
  classes, which = np.unique(labels, return_inverse=True)
  counts = np.bincount(which)
  sums = np.zeros((len(classes), features.shape[1]))
  np.add.at(sums, which, features)
  means = sums / counts[:, None]
  within = np.mean(np.sum((features - means[which]) ** 2, axis=1))
  between = np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))
  return float(within), float(between)


def effective_rank(features: np.ndarray) -> float:
  """Computes exp of the entropy of the shares of the eigenvalues of the covariance of features [N, D].

  Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007; here of the
  covariance, as the selection study uses it.

  Returns:
    From 1, if all features lie on a line, to D; NaN if they do not vary.
  """
  features = np.asarray(features, np.float64)
  values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
  if not values.sum() > 0:
    return float("nan")
  shares = values[values > 0] / values.sum()
  return float(np.exp(-np.sum(shares * np.log(shares))))
