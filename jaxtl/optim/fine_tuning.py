"""Fine-tuning that stays near its start (L2-SP), or moves most what most needs it (Auto-RGN)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.optim import gradients
from jaxtl.optim.transforms import KERNELS, keeps_average
from jaxtl.types import Array, Batch, GradientRule, LossFn, Params, ValueAndGrad


def l2_sp(
  *,
  alpha: float = 0.1,
  beta: float = 0.01,
  where: str = KERNELS,
  head: str = r"^head/",
  inner: GradientRule | None = None,
) -> GradientRule:
  """L2-SP: penalises the distance of the backbone from its start, and the size of the head.

  The gradient is that of loss + alpha/2 |w - w0|^2 + beta/2 |v|^2, where w are the backbone's kernels, w0
  their values at the start, and v those of the head. The logged loss has no penalty. Leave weight decay at
  zero: the penalty takes its place.

  Li, Grandvalet, Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", 2018,
  arXiv 1802.01483, which tunes both coefficients for each data set.

  Args:
    alpha: pull towards the start.
    beta: pull of the head towards zero.
    where: path regex of the penalised parameters; kernels, not biases and norm scales.
    head: path regex of the head.
    inner: the rule that takes the gradient of the loss.

  Raises:
    ConfigError: a coefficient is negative or infinite, or the inner rule has a memory.
  """
  for name, value in (("alpha", alpha), ("beta", beta)):
    if not 0 <= value < math.inf:
      raise ConfigError(f"l2_sp's {name} is {value}; expected a finite number of 0 or more")
  rule = inner or gradients.plain()
  gradients.refuse_memory(rule, "l2_sp")
  backbone = rf"^(?!.*(?:{head})).*(?:{where})"
  classifier = rf"^(?=.*(?:{head})).*(?:{where})"

  def init_memory(params: Params) -> tuple[dict[str, Array]]:
    return (jax.tree.map(jnp.copy, tree.select(params, backbone)),)

  def penalised(loss_fn: LossFn) -> ValueAndGrad:
    value_and_grad = rule(loss_fn)

    def with_penalty(
      params: Params, batch_stats: Params, batch: Batch, key: Array, start: dict[str, Array]
    ) -> tuple[tuple[Array, Any], Params]:
      (loss, aux), grads = value_and_grad(params, batch_stats, batch, key)
      moved = tree.sub(tree.select(params, backbone), start)
      pull = {**tree.scale(alpha, moved), **tree.scale(beta, tree.select(params, classifier))}
      added = tree.add(tree.select(grads, f"{backbone}|{classifier}"), pull)
      return (loss, aux._replace(memory=(start,))), tree.replace(grads, added)

    return with_penalty

  return gradients.CostedRule(penalised, passes=gradients.passes(rule), init_memory=init_memory)


class RgnState(NamedTuple):
  """The state of `auto_rgn`.

  Attributes:
    steps: int32 [], number of steps so far.
    sums: for each parameter, its relative gradient norms since the epoch began, summed.
    factors: for each parameter, the factor of its rate in this epoch.
    inner: the state of the inner transform.
  """

  steps: Array
  sums: Params
  factors: Params
  inner: Any


def auto_rgn(
  *,
  transform: optax.GradientTransformation,
  steps_per_epoch: float,
  batches: int = 5,
  reset: bool = False,
) -> optax.GradientTransformation:
  """Auto-RGN: scales the rate of each parameter by its relative gradient norm, measured again in each epoch.

  The first steps of an epoch only measure, at fixed weights: r = mean of |g| / |w| for each parameter tensor.
  The others scale the update of the tensor by r / max r. A tensor of zeros, such as a fresh bias, has no
  relative norm; its factor is 1. An epoch has `batches` updates less than under `transform` alone.

  Lee, Chen, Tajwar, Kumar, Yao, Liang, Finn, "Surgical Fine-Tuning Improves Adaptation to Distribution
  Shifts", 2023, arXiv 2210.11466.

  Args:
    transform: the optimiser, such as `dict(make=".optim.sgd", peak_rate=1e-3)`.
    steps_per_epoch: period of the measurement; at least `batches` + 1 steps, so that one of them moves.
    batches: number of steps that measure; the authors' code has 5.
    reset: also restarts the optimiser's momentum and moments every epoch, as the authors' code does.

  Raises:
    ConfigError: there are no steps to measure in; when the optimiser is initialised, it keeps a moving
      average of the parameters, whose steps would be scaled after it has seen them.
  """
  if batches < 1:
    raise ConfigError(f"auto_rgn's batches is {batches}; expected at least 1")
  period = max(round(steps_per_epoch), batches + 1)

  def init(params: Params) -> RgnState:
    inner = transform.init(params)
    if keeps_average(inner):
      raise ConfigError("auto_rgn's optimiser keeps a moving average; leave out its ema_decay")
    zero = jax.tree.map(lambda _: jnp.zeros([], jnp.float32), params)
    one = jax.tree.map(lambda _: jnp.ones([], jnp.float32), params)
    return RgnState(jnp.zeros([], jnp.int32), zero, one, inner)

  def measure(grads: Params, state: RgnState, params: Params, position: Array) -> tuple[Params, RgnState]:
    sums = tree.add(state.sums, jax.tree.map(_relative_norm, grads, params))
    is_last = position == batches - 1
    factors = jax.tree.map(lambda new, old: jnp.where(is_last, new, old), _shares(sums), state.factors)
    sums = jax.tree.map(lambda x: jnp.where(is_last, 0.0, x), sums)
    inner = state.inner
    if reset:
      inner = jax.tree.map(lambda new, old: jnp.where(is_last, new, old), transform.init(params), inner)
    return tree.zeros_like(grads), state._replace(sums=sums, factors=factors, inner=inner)

  def move(grads: Params, state: RgnState, params: Params) -> tuple[Params, RgnState]:
    updates, inner = transform.update(grads, state.inner, params)
    updates = jax.tree.map(lambda factor, u: factor.astype(u.dtype) * u, state.factors, updates)
    return updates, state._replace(inner=inner)

  def update(grads: Params, state: RgnState, params: Params | None = None) -> tuple[Params, RgnState]:
    position = state.steps % period
    updates, after = jax.lax.cond(
      position < batches, lambda: measure(grads, state, params, position), lambda: move(grads, state, params)
    )
    return updates, after._replace(steps=state.steps + 1)

  return optax.GradientTransformation(init, update)


def _relative_norm(grad: Array, weight: Array) -> Array:
  """Returns |g| / |w|; infinite for a tensor of zeros."""
  return tree.norm(grad) / tree.norm(weight)


def _shares(ratios: Params) -> Params:
  """Returns each ratio as a share of the largest finite one; 1 where it is not finite, or if all are zero."""
  finite = [jnp.where(jnp.isfinite(x), x, 0.0) for x in jax.tree.leaves(ratios)]
  largest = jnp.max(jnp.stack(finite))
  return jax.tree.map(
    lambda x: jnp.where(jnp.isfinite(x) & (largest > 0), x / jnp.maximum(largest, gradients.TINY), 1.0),
    ratios,
  )


__all__ = ["RgnState", "auto_rgn", "l2_sp"]
