"""The multi-class smoothed hinge loss, exact in float32 from the margin's edge to logits of 1e37."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.losses import labels as targets
from jaxtl.types import Array

_LARGEST = float(np.finfo(np.float32).max)


def multiclass_smoothed_hinge(
  logits: Array, labels: Array, *, margin: float, quadratic: float = 0.3
) -> Array:
  """Computes the multi-class smoothed hinge (MCSH): 0 where the true class leads every other by `margin`.

      xi_k = max(0, s_k - s_y + m)                for k != y
      h(x) = a x^2            if x < m            (a one-sided Huber function)
           = 2 a m x - a m^2  if x >= m
      L(s, y) = log(1 + sum_{k != y} (exp(h(xi_k)) - 1))

  With all logits equal the loss is log(1 + (K - 1)(exp(a m^2) - 1)), which is 21.6 at K = 1000 and the
  published values. Where one wrong class is far above all others, the slope is 2 a m = 4.2, and that of
  cross-entropy is 1. With many classes near the margin the slope in s_y reaches about sqrt(a (K - 1)): 17.3
  at K = 1000 and 80.9 at K = 21841. So a learning rate does not carry over unchanged.

  The loss is not convex in the logits, because log(sum exp(h_k) - (K - 2)) subtracts a constant from the sum
  of a log-sum-exp. At the published values and violations below the corner x = m, the least eigenvalue of its
  Hessian is 0 up to K = 6, -0.032 at K = 7, -0.31 at K = 10 and -7.1 at K = 100. So its Gauss-Newton matrix
  is indefinite, too: results that assume no negative eigenvalues do not hold for this loss.

  The loss is 0 once the true class leads by the margin:

  >>> scores = jnp.array([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
  >>> multiclass_smoothed_hinge(scores, jnp.array([0, 0]), margin=7.0).round(1).tolist()
  [0.0, 11.5]

  Violations above about 4e37 saturate, so that value and gradient stay finite. The float32 logits count as
  exact: the relative error is a few float32 roundings, even where s_y - s_k is close to the margin.

  Args:
    logits: [B, K] class scores s, any float type.
    labels: [B] integers, the true class y, or [B, K] a distribution t over classes, for which the loss is
      sum_c t_c L(s, c). A distribution costs K evaluations, O(B K^2) time and O(B K) memory: for two labels
      and a weight, as from mixup, use `mixed`, which costs two. An integer outside [0, K) cannot raise under
      `jit`: its loss and its gradient are NaN.
    margin: m > 0, in units of the logits; 7 for both published checkpoints (ResNet-50, ViT-B; ImageNet-1K).
    quadratic: a > 0; 0.3 is the constant of the authors' implementation.

  Returns:
    float32 [B].

  Raises:
    ConfigError: margin or quadratic is not a finite number above 0.
    DataError: logits and labels do not fit.

  Wonjik Kim, Tanaka, Okutomi, Nosato: Multi-class Smoothed Hinge Loss Function in Pre-training for Transfer
  Learning, IEEE ICIP 2025.
  """
  margin, quadratic = targets.positive("margin", margin), targets.positive("quadratic", quadratic)
  logits, labels = targets.prepare(logits, labels)

  def loss(logits: Array, labels: Array) -> Array:
    return _loss_and_weights(logits, labels, margin, quadratic)[0]

  if targets.are_classes(labels):
    return loss(logits, labels)
  return targets.over_classes(loss, logits, labels)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _loss_and_weights(logits: Array, labels: Array, margin: float, quadratic: float) -> tuple[Array, Array]:
  """Returns L [B] and the weights exp(h(xi_k) - L) [B, K], from which all its derivatives follow.

  Every term is scaled by exp(-r), with r = max_k h_k, or r = 0 if that is below 1. The result is then
  r + log1p(exp(-r) - 1 + sum_k exp(-r) (exp(h_k) - 1)), without overflow above or cancellation below.
  """
  is_label = targets.is_label(labels, logits.shape[-1])
  edge = _edge(logits, labels, margin)
  best_wrong = jnp.max(jnp.where(is_label, -_LARGEST, logits), axis=-1, keepdims=True)
  worst = _violation(best_wrong, edge, margin, quadratic)
  x = jnp.where(is_label, 0.0, _violation(logits, edge, margin, quadratic))
  h, h_worst = _one_sided_huber(x, margin, quadratic), _one_sided_huber(worst, margin, quadratic)

  shift = jnp.where(h_worst < 1, 0.0, h_worst)
  scale = jnp.exp(-shift)
  # h_k - max h comes from the difference of logits: between two rounded h of 1e4, exp would lose its digits.
  behind, slope = jnp.clip(best_wrong - logits, 0.0, worst), 2 * quadratic * jnp.minimum(worst, margin)
  h_behind = quadratic * (jnp.minimum(worst, margin) - jnp.minimum(x, margin)) ** 2 - slope * behind
  term = jnp.where(h < 1, scale * jnp.expm1(jnp.minimum(h, 1.0)), jnp.exp(h_behind) - scale)
  total = jnp.sum(term, axis=-1, keepdims=True)
  loss = shift + jnp.log1p(total + jnp.expm1(-shift))
  return loss[:, 0], (term + scale) / (total + scale)


@_loss_and_weights.defjvp
def _differentiate(margin: float, quadratic: float, primals: tuple, tangents: tuple) -> tuple:
  """Computes dL = sum_k w_k h'_k (ds_k - ds_y) and dw_k = w_k (h'_k (ds_k - ds_y) - dL).

  The form is closed, so it holds at any order. It is written out because autodiff cannot follow a value that
  is computed from exact differences of its inputs.
  """
  logits, labels = primals
  dlogits = tangents[0]
  loss, weights = _loss_and_weights(logits, labels, margin, quadratic)
  is_label = targets.is_label(labels, logits.shape[-1])
  x = _violation(logits, _edge(logits, labels, margin), margin, quadratic)
  slope = jnp.where(is_label, 0.0, 2 * quadratic * jnp.minimum(x, margin))
  dh = slope * (dlogits - targets.true_score(dlogits, labels))
  dloss = jnp.sum(weights * dh, axis=-1, keepdims=True)
  return (loss, weights), (dloss[:, 0], weights * (dh - dloss))


def _edge(logits: Array, labels: Array, margin: float) -> tuple[Array, Array]:
  """Returns s_y - m [B, 1], above which a wrong class violates the margin: rounded value, rounding error.

  The error comes from Knuth's TwoSum, which uses only sums; XLA neither reorders them nor contracts them into
  multiply-adds.
  """
  is_valid = targets.valid(labels, logits.shape[-1])[:, None]
  true = jnp.where(is_valid, targets.true_score(logits, labels), jnp.nan)
  rounded_margin = float(np.float32(margin))
  edge = true - rounded_margin
  change = edge - true
  error = (true - (edge - change)) - (rounded_margin + change) - (margin - rounded_margin)
  return edge, jax.lax.stop_gradient(error)


def _violation(scores: Array, edge: tuple[Array, Array], margin: float, quadratic: float) -> Array:
  """Returns xi = max(0, s_k - s_y + m) within two roundings of its exact value for the given logits.

  Where s_k is near the edge, its difference from the rounded edge is exact (Sterbenz). Only the rounding
  error of the edge remains, and it is subtracted afterwards. Further away that error is below one rounding of
  the difference.
  """
  rounded, error = edge
  largest = _LARGEST / (4 * max(1.0, quadratic * margin))  # so that h(x) does not overflow
  return jnp.clip((scores - rounded) - error, 0.0, largest)


def _one_sided_huber(x: Array, margin: float, quadratic: float) -> Array:
  below = jnp.minimum(x, margin)
  return quadratic * below * (2 * x - below)
