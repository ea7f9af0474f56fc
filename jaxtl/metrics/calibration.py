"""Calibration: a confidence of 0.8 should be right eight times in ten.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Bins(NamedTuple):
  """Examples by confidence; bin m of M holds those in ((m - 1) / M, m / M], and the first also holds 0.

  Attributes:
    counts: int64 [M] examples.
    confidence, accuracy: float64 [M] means over the bin, NaN if it is empty.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


def confidence_bins(confidence: np.ndarray, correct: np.ndarray, *, num_bins: int = 15) -> Bins:
  """Groups examples by confidence into the bins of a reliability diagram.

  Args:
    confidence: [N] the highest probability of each example, from 0 to 1.
    correct: [N] whether the class with that probability is the true one.
    num_bins: M bins of equal width.

  Raises:
    ValueError: a confidence is not in [0, 1], or `num_bins` is below 1.
  """
  if num_bins < 1:
    raise ValueError(f"num_bins is {num_bins}; expected at least 1")
  confidence = np.asarray(confidence, np.float64)
  if not np.all((confidence >= 0) & (confidence <= 1)):
    raise ValueError("a confidence is not in [0, 1]")
  edges = np.arange(1, num_bins) / num_bins
  which = np.digitize(confidence, edges, right=True)
  counts = np.bincount(which, minlength=num_bins)
  totals = [np.bincount(which, weights=values, minlength=num_bins) for values in (confidence, correct)]
  means = [np.where(counts > 0, total / np.maximum(counts, 1), np.nan) for total in totals]
  return Bins(counts, *means)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, num_bins: int = 15) -> float:
  """Computes ECE = sum over bins of (examples in the bin / N) |accuracy - mean confidence|, from 0 to 1.

  Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599, eq. 3.

  >>> expected_calibration_error(np.array([0.75, 0.5]), np.array([True, False]))
  0.375

  Args, Raises: as in `confidence_bins`.

  Returns:
    The error; NaN if there are no examples.
  """
  bins = confidence_bins(confidence, correct, num_bins=num_bins)
  if not bins.counts.sum():
    return float("nan")
  gaps = np.abs(bins.accuracy - bins.confidence)
  return float(np.sum(bins.counts * np.nan_to_num(gaps)) / bins.counts.sum())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """Finds the temperature T that minimises the mean cross-entropy of logits / T.

  Guo et al., 2017, arXiv 1706.04599, section 4.2: one number is fitted to validation examples, and no
  prediction changes. The cross-entropy is convex in 1 / T, so the sign of its slope shows on which side the
  minimum is.

  Args:
    logits: [N, K], finite.
    labels: int [N], the true classes.

  Returns:
    T in [1e-2, 1e2]; an end if the minimum is beyond it, as for examples that are all classified correctly.

  Raises:
    ValueError: there are no examples, shapes do not fit, or a logit is not finite.
  """
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
  if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
    raise ValueError(f"logits have shape {logits.shape} and labels {labels.shape}; expected [N, K] and [N]")
  if not np.all(np.isfinite(logits)):
    raise ValueError("a logit is not finite")
  leads = logits - logits[np.arange(len(labels)), labels][:, None]  # 0 for the true class

  def slope(inverse: float) -> float:
    shares = np.exp(inverse * (leads - leads.max(axis=1, keepdims=True)))
    shares /= shares.sum(axis=1, keepdims=True)
    return float(np.mean(np.sum(shares * leads, axis=1)))

  low, high = 1e-2, 1e2
  while high / low > 1 + 1e-12:
    middle = np.sqrt(low * high)
    low, high = (middle, high) if slope(float(middle)) < 0 else (low, middle)
  return float(np.clip(1 / np.sqrt(low * high), 1e-2, 1e2))
