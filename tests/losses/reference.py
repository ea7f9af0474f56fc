"""Float64 evaluations of the losses from their definitions, sharing no form with the library's code."""

from __future__ import annotations

import math

import numpy as np


def smoothed_hinge(
  logits: np.ndarray, labels: np.ndarray, margin: float, quadratic: float
) -> tuple[np.ndarray, np.ndarray]:
  """Loss [B] and its gradient [B, K] by logits, in float64.

  The definition as it stands: h is a piecewise function, and log(1 + sum (exp h - 1)) is log1p of a sum of
  expm1 where exp does not overflow float64, else log-sum-exp, beside which the -(K - 1) is below rounding.
  """
  logits = logits.astype(np.float64)
  rows = np.arange(len(labels))
  gaps = logits - logits[rows, labels][:, None] + margin
  for b, k in np.argwhere(np.abs(gaps) < 1e-4 * np.maximum(1, np.abs(logits))):
    gaps[b, k] = math.fsum([logits[b, k], -logits[b, labels[b]], margin])  # rounded once
  violation = np.maximum(0.0, gaps)
  quadratic_part, linear_part = (
    quadratic * violation**2,
    2 * quadratic * margin * violation - quadratic * margin**2,
  )
  exponents = np.where(violation < margin, quadratic_part, linear_part)
  slopes = np.where(violation < margin, 2 * quadratic * violation, 2 * quadratic * margin)
  exponents[rows, labels], slopes[rows, labels] = 0.0, 0.0
  loss = np.array([_log_one_plus_sum_expm1(row) for row in exponents])
  gradient = np.exp(exponents - loss[:, None]) * slopes
  gradient[rows, labels] = -gradient.sum(axis=1)
  return loss, gradient


def _log_one_plus_sum_expm1(exponents: np.ndarray) -> float:
  top = exponents.max()
  if top < 600:
    return float(np.log1p(np.sum(np.expm1(exponents))))
  return float(top + np.log(np.sum(np.exp(exponents - top))))
