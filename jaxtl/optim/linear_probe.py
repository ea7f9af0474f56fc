"""The linear probe: multinomial logistic regression on fixed features, solved to its optimum."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import tree
from jaxtl.errors import NonFiniteError
from jaxtl.types import Array

# A feature is constant if its standard deviation is at most this many roundings of its mean.
ROUNDINGS = 10
# Differences of two features must be finite in float32.
LARGEST = float(np.finfo(np.float32).max) / 2
# Rows that are held in float64 at a time.
ROWS = 4096
# Leave-one-out uses at most this many folds; each penalty is fitted once per fold.
MOST_FOLDS = 40


class Probe(NamedTuple):
  """A linear classifier: logits = ((features - mean) / scale) @ kernel + bias.

  `num_iters` L-BFGS steps were taken, and `converged` says whether the gradient reached the tolerance.
  """

  mean: Array
  scale: Array
  kernel: Array
  bias: Array
  num_iters: Array
  converged: Array

  def logits(self, features: Array) -> Array:
    """Computes the logits, [N, D] -> [N, K]."""
    return ((features - self.mean[None]) / self.scale[None]) @ self.kernel + self.bias[None]

  def head(self) -> dict[str, np.ndarray]:
    """Returns the same classifier for unscaled features: {"kernel": [D, K], "bias": [K]}."""
    kernel = np.asarray(self.kernel / self.scale[:, None])
    return {"kernel": kernel, "bias": np.asarray(self.bias) - np.asarray(self.mean) @ kernel}


def fit_probe(
  features: Array | np.ndarray,
  labels: Array | np.ndarray,
  *,
  num_classes: int,
  l2: float,
  max_iters: int = 500,
  tolerance: float = 1e-4,
  use: np.ndarray | None = None,
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
    max_iters: maximum number of L-BFGS steps.
    tolerance: stops when the gradient's norm is below this times its norm at zero.
    use: the examples to fit to, bool [N]; None means all. Fits to several parts compile once.
  """
  use = np.ones(len(labels), bool) if use is None else use
  mean, scale, constant = _standardization(np.asarray(features)[use])
  centred = jnp.asarray(features, jnp.float32) - mean[None]
  # A constant feature holds nothing but rounding, and gets no weight.
  standard = jnp.where(constant[None], 0.0, centred / scale[None])
  (kernel, bias), num_iters, converged = _solve(
    standard,
    jnp.asarray(labels),
    jnp.asarray(use / np.count_nonzero(use), jnp.float32),
    jnp.float32(l2),
    jnp.float32(tolerance),
    num_classes,
    max_iters,
  )
  return Probe(mean, scale, kernel, bias, num_iters, converged)


class PenaltyChoice(NamedTuple):
  """A probe with a penalty that was chosen from a grid.

  Attributes:
    probe: the probe, fitted to all examples.
    l2: its penalty.
    by: how the penalty was chosen: "held_out" or "leave_one_out"; "given" if the grid has one value;
      "nothing" if no example could be left out, so that it is the middle value of the grid.
  """

  probe: Probe
  l2: float
  by: str


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
) -> PenaltyChoice:
  """Fits a probe with the penalty of least cross-entropy on examples that were left out, then fits it to all.

  Each class of at least 3 examples holds out a share of at least one example, and keeps at least one. If most
  classes have fewer than 3, each example is left out once instead, in at most `MOST_FOLDS` parts. The only
  example of a class is never left out, since a probe without it could not know the class. If that leaves no
  example to spare, nothing is chosen. The order of the grid has no effect; among equally good penalties the
  largest wins.

  Args:
    l2_grid: penalties to try.
    held_out: share of the examples of each class that is held out for the choice.
    seed: seed of the split.
    beat: called after each fit.

  Raises:
    NonFiniteError: a feature is NaN or infinite, or beyond half the range of float32.
  """
  if not np.isfinite(features).all():
    raise NonFiniteError("the features have a NaN or an infinity; no probe can be fitted to them")
  if (largest := float(np.abs(features).max(initial=0.0))) > LARGEST:
    raise NonFiniteError(
      f"the features are as large as {largest:.1e}; expected at most {LARGEST:.1e}, since the probe is in "
      "float32: divide them by a constant"
    )
  fit = functools.partial(fit_probe, num_classes=num_classes, max_iters=max_iters)
  grid = sorted(set(l2_grid), reverse=True)
  folds, by = _folds(labels, held_out, seed)
  if len(grid) == 1:
    by = "given"
  best = grid[(len(grid) - 1) // 2]
  if len(grid) > 1 and folds:
    scores = []
    for l2 in grid:
      losses = []
      for left_out in folds:
        probe = fit(features, labels, l2=l2, use=~left_out)
        losses.append(_losses(probe, features, labels)[left_out])
        beat()
      scores.append(np.concatenate(losses).mean(dtype=np.float64))
    best = grid[int(np.argmin(np.nan_to_num(scores, nan=np.inf)))]
  return PenaltyChoice(fit(features, labels, l2=best), best, by)


def _folds(labels: np.ndarray, held_out: float, seed: int) -> tuple[list[np.ndarray], str]:
  """Returns the parts to leave out, bool [N] each, and how they are chosen; none if none can be spared."""
  order = np.random.default_rng(seed).permutation(len(labels))
  members = [order[labels[order] == number] for number in np.unique(labels)]
  sizes = np.array([len(of_class) for of_class in members])
  if np.mean(sizes < 3) > 0.5:
    spared = [of_class for of_class in members if len(of_class) > 1]
    if not spared:
      return [], "nothing"
    # The examples of a class go to different parts, so that no part takes the whole class.
    examples = np.concatenate(spared)
    count = min(len(examples), MOST_FOLDS)
    return [_mask(labels, examples[first::count]) for first in range(count)], "leave_one_out"
  # Rounds half down.
  shares = [max(1, min(math.ceil(held_out * size - 0.5), size - 1)) if size > 2 else 0 for size in sizes]
  held = np.concatenate([of_class[:share] for of_class, share in zip(members, shares)])
  return [_mask(labels, held)], "held_out"


def _mask(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  mask = np.zeros(len(labels), bool)
  mask[chosen] = True
  return mask


def _losses(probe: Probe, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
  logits = probe.logits(jnp.asarray(features))
  return np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)))


def _standardization(features: np.ndarray) -> tuple[Array, Array, np.ndarray]:
  """Returns each feature's mean, scale and whether it is constant: [N, D] -> [D], [D], bool [D].

  The scale is the standard deviation, and 1 if the feature is constant up to rounding.

  A floor on the scale would do two kinds of harm. It would multiply a constant feature by the inverse of the
  floor as soon as a test set has another constant, and it would hide features with a small unit.
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


@functools.partial(jax.jit, static_argnums=(5, 6))
def _solve(
  features: Array,
  labels: Array,
  weights: Array,
  l2: Array,
  tolerance: Array,
  num_classes: int,
  max_iters: int,
) -> tuple[tuple[Array, Array], Array, Array]:
  def objective(params: tuple[Array, Array]) -> Array:
    kernel, bias = params
    losses = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias[None], labels)
    return jnp.sum(weights * losses) + 0.5 * l2 * jnp.sum(kernel**2)

  start = (jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)
  # A gradient of a few roundings counts as 0: constant features and classes of equal size start at the
  # optimum.
  enough = jnp.maximum(tolerance * tree.norm(jax.grad(objective)(start)), 4 * jnp.finfo(jnp.float32).eps)

  def step(carry: Any) -> Any:
    params, state, number, _, _ = carry
    value, grads = value_and_grad(params, state=state)
    updates, state = solver.update(grads, state, params, value=value, grad=grads, value_fn=objective)
    return optax.apply_updates(params, updates), state, number + 1, tree.norm(grads), params

  def unfinished(carry: Any) -> Array:
    return (carry[2] < max_iters) & (carry[3] > enough)

  carry = (start, solver.init(start), jnp.int32(0), jnp.float32(jnp.inf), start)
  params, _, number, norm, before = jax.lax.while_loop(unfinished, step, carry)
  # The carried norm is that of the step before. The last step may lead out of the tolerance again.
  last = tree.norm(jax.grad(objective)(params))
  worse = (norm <= enough) & (last > enough)
  params = jax.tree.map(lambda old, new: jnp.where(worse, old, new), before, params)
  return params, number, (norm <= enough) | (last <= enough)
