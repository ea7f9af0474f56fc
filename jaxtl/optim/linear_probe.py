"""The linear probe: multinomial logistic regression on fixed features, solved to its optimum."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import tree
from jaxtl.types import Array

# A feature is constant where its standard deviation is at most so many roundings of its mean.
ROUNDINGS = 10
# Rows that are held in float64 at a time.
ROWS = 4096


class Probe(NamedTuple):
  """A linear classifier: logits = ((features - mean) / scale) @ kernel + bias.

  `num_iters` L-BFGS steps were taken, and `converged` says whether the gradient came down to the tolerance.
  """

  mean: Array
  scale: Array
  kernel: Array
  bias: Array
  num_iters: Array
  converged: Array

  def logits(self, features: Array) -> Array:
    """[N, D] -> [N, K]."""
    return ((features - self.mean[None]) / self.scale[None]) @ self.kernel + self.bias[None]


def fit_probe(
  features: Array | np.ndarray,
  labels: Array | np.ndarray,
  *,
  num_classes: int,
  l2: float,
  max_iters: int = 500,
  tolerance: float = 1e-4,
) -> Probe:
  """Minimises mean cross-entropy + l2 / 2 |kernel|^2 over standardised features, by L-BFGS.

  The protocol is that of Kornblith, Shlens, Le, "Do Better ImageNet Models Transfer Better?", 2019, arXiv
  1805.08974 (logistic regression on the pooled features, L-BFGS, the penalty chosen on held-out data).

  Each feature is divided by its standard deviation, and by 1 where it is constant up to rounding, as
  scikit-learn's StandardScaler does; a constant feature has the weight 0.

  Args:
    features: [N, D] pooled features.
    labels: [N] classes.
    l2: penalty; features have unit variance, so that it means the same for every backbone.
    max_iters: most L-BFGS steps.
    tolerance: stops when the gradient's norm is below this times its norm at zero.
  """
  mean, scale, constant = _standardization(np.asarray(features))
  centred = jnp.asarray(features, jnp.float32) - mean[None]
  # Rounding is no signal: what is constant gets no weight.
  standard = jnp.where(constant[None], 0.0, centred / scale[None])
  (kernel, bias), num_iters, converged = _solve(
    standard, jnp.asarray(labels), jnp.float32(l2), jnp.float32(tolerance), num_classes, max_iters
  )
  return Probe(mean, scale, kernel, bias, num_iters, converged)


def choose_probe(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  l2_grid: tuple[float, ...],
  held_out: float,
  seed: int,
  max_iters: int = 500,
  beat: Callable[[], None] = lambda: None,
) -> tuple[Probe, float]:
  """The probe with the penalty that does best on a held-out part, refitted on everything; and the penalty.

  Args:
    l2_grid: penalties to try.
    held_out: share of the examples of each class that the choice is made on.
    seed: of the split.
    beat: called after each penalty.
  """
  order = np.random.default_rng(seed).permutation(len(labels))
  rank = np.empty(len(labels))  # rank of each example within its class, as a share
  for number in range(num_classes):
    members = order[labels[order] == number]
    rank[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
  chosen = rank < held_out
  if len(l2_grid) > 1 and chosen.any():
    scores = []
    for l2 in l2_grid:
      probe = fit_probe(
        features[~chosen], labels[~chosen], num_classes=num_classes, l2=l2, max_iters=max_iters
      )
      logits = probe.logits(jnp.asarray(features[chosen]))
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels[chosen]))
      scores.append(float(jnp.mean(losses)))
      beat()
    best = l2_grid[int(np.argmin(np.nan_to_num(scores, nan=np.inf)))]
  else:
    best = l2_grid[0]
  return fit_probe(features, labels, num_classes=num_classes, l2=best, max_iters=max_iters), best


def _standardization(features: np.ndarray) -> tuple[Array, Array, np.ndarray]:
  """Mean, scale and whether it is constant up to rounding, of each feature: [N, D] -> [D], [D], bool [D].

  The scale is the standard deviation, and 1 where the feature is constant.

  A floor on the scale would do two kinds of harm. It would blow a constant feature up by the floor's inverse
  as soon as a test set has another constant, and it would hide features whose unit is small.
  """
  mean = np.mean(features, axis=0, dtype=np.float64)
  parts = np.array_split(features, max(len(features) // ROWS, 1))
  deviations = sum(np.sum((part.astype(np.float64) - mean) ** 2, axis=0) for part in parts)
  std = np.sqrt(deviations / len(features))
  stored = features.dtype if jnp.issubdtype(features.dtype, jnp.floating) else jnp.float32
  rounding = max(float(jnp.finfo(stored).eps), float(jnp.finfo(jnp.float32).eps))
  constant = std <= ROUNDINGS * rounding * np.abs(mean)
  # Below float32's smallest normal number the quotient would not be finite.
  constant |= std < float(jnp.finfo(jnp.float32).tiny)
  scale = np.where(constant, 1.0, std)
  return jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32), constant


@functools.partial(jax.jit, static_argnums=(4, 5))
def _solve(
  features: Array, labels: Array, l2: Array, tolerance: Array, num_classes: int, max_iters: int
) -> tuple[tuple[Array, Array], Array, Array]:
  def objective(params: tuple[Array, Array]) -> Array:
    kernel, bias = params
    losses = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias[None], labels)
    return jnp.mean(losses) + 0.5 * l2 * jnp.sum(kernel**2)

  start = (jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)
  initial = tree.norm(jax.grad(objective)(start))

  def step(carry: Any) -> Any:
    params, state, number, _ = carry
    value, grads = value_and_grad(params, state=state)
    updates, state = solver.update(grads, state, params, value=value, grad=grads, value_fn=objective)
    return optax.apply_updates(params, updates), state, number + 1, tree.norm(grads)

  def unfinished(carry: Any) -> Array:
    return (carry[2] < max_iters) & (carry[3] > tolerance * initial)

  carry = (start, solver.init(start), jnp.int32(0), initial)
  params, _, number, _ = jax.lax.while_loop(unfinished, step, carry)
  # The carried norm is that of the step before: the result's own decides.
  return params, number, tree.norm(jax.grad(objective)(params)) <= tolerance * initial
