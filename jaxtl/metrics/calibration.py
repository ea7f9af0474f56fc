"""Whether a confidence of 0.8 is right eight times in ten.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Bins(NamedTuple):
  """Examples by confidence; bin m of M holds those in ((m - 1) / M, m / M], the first 0 as well.

  Attributes:
    counts: int64 [M] examples.
    confidence, accuracy: float64 [M] means over the bin, NaN where it is empty.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


def confidence_bins(confidence: np.ndarray, correct: np.ndarray, *, num_bins: int = 15) -> Bins:
  """What a reliability diagram shows.

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
  """ECE = sum over bins of (examples in the bin / N) |accuracy - mean confidence|, from 0 to 1.

  Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599, equation 3.

  Args, Raises: as in `confidence_bins`.

  Returns:
    The error; NaN over no examples.
  """
  bins = confidence_bins(confidence, correct, num_bins=num_bins)
  if not bins.counts.sum():
    return float("nan")
  gaps = np.abs(bins.accuracy - bins.confidence)
  return float(np.sum(bins.counts * np.nan_to_num(gaps)) / bins.counts.sum())
