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


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Loss [B] and its gradient [B, K] by logits, of log(1 + sum_{k != y} exp(s_k - s_y))."""
  logits = np.asarray(logits, np.float64)
  rows = np.arange(len(labels))
  gaps = logits - logits[rows, labels][:, None]
  wrong = gaps.copy()
  wrong[rows, labels] = -np.inf
  top = wrong.max(axis=1)
  shift = np.where(top < 600, 0.0, top)
  total = np.sum(np.exp(wrong - shift[:, None]), axis=1)
  loss = np.where(top < 600, np.log1p(total), shift + np.log(np.maximum(total, 1)))
  gradient = np.exp(wrong - loss[:, None])
  gradient[rows, labels] = -gradient.sum(axis=1)
  return loss, gradient


def smoothed_cross_entropy(
  logits: np.ndarray, labels: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
  """Cross-entropy against (1 - epsilon) onehot + epsilon / K: the expected loss over all classes."""
  num_classes = logits.shape[1]
  loss, gradient = (np.multiply(1 - epsilon, x) for x in cross_entropy(logits, labels))
  for c in range(num_classes):
    each, slope = cross_entropy(logits, np.full_like(labels, c))
    loss, gradient = loss + epsilon / num_classes * each, gradient + epsilon / num_classes * slope
  return loss, gradient


def logit_penalty(logits: np.ndarray, labels: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
  """Cross-entropy + beta / 2 |s|^2."""
  loss, gradient = cross_entropy(logits, labels)
  logits = logits.astype(np.float64)
  return loss + beta / 2 * np.sum(logits**2, axis=1), gradient + beta * logits


def logit_norm(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
  """Cross-entropy of u / temperature with u = s / |s|; du is the part of ds orthogonal to u, over |s|."""
  logits = logits.astype(np.float64)
  length = np.linalg.norm(logits, axis=1, keepdims=True)
  direction = logits / length
  loss, gradient = cross_entropy(direction / temperature, labels)
  along = np.sum(gradient * direction, axis=1, keepdims=True)
  return loss, (gradient - along * direction) / (temperature * length)


def cosine_softmax(
  logits: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
  """Cross-entropy of s / temperature."""
  loss, gradient = cross_entropy(logits.astype(np.float64) / temperature, labels)
  return loss, gradient / temperature


def poly1(logits: np.ndarray, labels: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
  """L + epsilon (1 - exp(-L)), with L the cross-entropy."""
  loss, gradient = cross_entropy(logits, labels)
  return loss - epsilon * np.expm1(-loss), gradient * (1 + epsilon * np.exp(-loss))[:, None]


def multiclass_hinge(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """max(0, 1 + max_{k != y} s_k - s_y)."""
  logits, rows = logits.astype(np.float64), np.arange(len(labels))
  wrong = logits.copy()
  wrong[rows, labels] = -np.inf
  loss = np.maximum(0, 1 + wrong.max(axis=1) - logits[rows, labels])
  gradient = np.zeros_like(logits)
  gradient[rows, wrong.argmax(axis=1)] = loss > 0
  gradient[rows, labels] = -(loss > 0).astype(np.float64)
  return loss, gradient


def squared_hinge(logits: np.ndarray, labels: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
  """sum_k max(0, m - sign_k s_k)^2, with sign 1 at the true class and -1 elsewhere."""
  sign = _signs(logits, labels)
  gaps = np.maximum(0, margin - sign * logits)
  return np.sum(gaps**2, axis=1), -2 * sign * gaps


def sigmoid_cross_entropy(
  logits: np.ndarray, labels: np.ndarray, shift: float
) -> tuple[np.ndarray, np.ndarray]:
  """sum_k log(1 + exp(-sign_k (s_k - shift)))."""
  sign = _signs(logits, labels)
  x = sign * (logits - shift)
  return np.sum(np.logaddexp(0, -x), axis=1), -sign * np.exp(-np.logaddexp(0, x))


def focal(
  logits: np.ndarray, labels: np.ndarray, gamma: float, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
  """sum_k -alpha_k (1 - p)^gamma log p, with p = sigmoid(sign_k s_k)."""
  sign = _signs(logits, labels)
  x, weight = sign * logits, np.where(sign > 0, alpha, 1 - alpha)
  minus_log_p, log_rest = np.logaddexp(0, -x), -np.logaddexp(0, x)
  scale = weight * np.exp(gamma * log_rest)
  slope = -scale * (gamma * np.exp(-minus_log_p) * minus_log_p + np.exp(log_rest))
  return np.sum(scale * minus_log_p, axis=1), sign * slope


def _signs(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  return np.where(labels[:, None] == np.arange(logits.shape[1])[None, :], 1.0, -1.0)


def _log_one_plus_sum_expm1(exponents: np.ndarray) -> float:
  top = exponents.max()
  if top < 600:
    return float(np.log1p(np.sum(np.expm1(exponents))))
  return float(top + np.log(np.sum(np.exp(exponents - top))))
