"""Optimisers as recipes over optax: weight decay, freezing, layer-wise rates, and the moving average.

Any `optax.GradientTransformation` can take their place, with a schedule for its rate:
`dict(make="optax.lion", learning_rate=dict(make=".optim.cosine", peak_rate=1e-4))`. The recipes here add what
most image recipes need, by parameter path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.optim.schedules import Schedule, cosine
from jaxtl.types import Array, Params

# Weight decay on kernels only: no bias, no norm scale, no position embedding.
KERNELS = r"kernel$"
Rules = Sequence[tuple[str, float]]


def sgd(
  *,
  peak_rate: float,
  total_steps: int,
  schedule: Schedule | None = None,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  decay_where: str = KERNELS,
  clip_norm: float | None = None,
  freeze: str | None = None,
  rates: Rules = (),
  ema_decay: float | None = None,
) -> optax.GradientTransformation:
  """Stochastic gradient descent with momentum; the decay is the gradient of an L2 penalty, before momentum.

  Args:
    peak_rate: the highest learning rate.
    schedule: factor of `peak_rate` at each step; None means half a cosine over `total_steps`.
    weight_decay: coefficient of 0.5 |w|^2, on the parameters whose path `decay_where` matches.
    clip_norm: largest global norm of the gradient, clipped before everything else.
    freeze: path regex of parameters that stay unchanged. Their gradient is still computed, since the logged
      norm covers all parameters; SAM perturbs them too unless its `where` leaves them out.
    rates: layer-wise learning rates as (path regex, factor) pairs; the first match wins.
    ema_decay: keeps a moving average of the parameters, which evaluation uses, with normalisation statistics
      that are estimated for it; see `ema`.

  Raises:
    ConfigError: a number is out of its range.
  """
  _check_share("momentum", momentum)
  momentum_part = [optax.trace(momentum, nesterov=nesterov)] if momentum else []
  core = [_decay(weight_decay, decay_where), *momentum_part]
  return _recipe(core, peak_rate, schedule, total_steps, clip_norm, freeze, rates, ema_decay)


def adamw(
  *,
  peak_rate: float,
  total_steps: int,
  schedule: Schedule | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 1e-4,
  decay_where: str = KERNELS,
  clip_norm: float | None = None,
  freeze: str | None = None,
  rates: Rules = (),
  ema_decay: float | None = None,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay; keywords as in `sgd`.

  Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv 1711.05101.
  """
  core = [_scale_by_adam(b1, b2, eps), _decay(weight_decay, decay_where)]
  return _recipe(core, peak_rate, schedule, total_steps, clip_norm, freeze, rates, ema_decay)


def adam(
  *,
  peak_rate: float,
  total_steps: int,
  schedule: Schedule | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  decay_where: str = KERNELS,
  clip_norm: float | None = None,
  freeze: str | None = None,
  rates: Rules = (),
  ema_decay: float | None = None,
) -> optax.GradientTransformation:
  """Adam (Kingma and Ba, 2015, arXiv 1412.6980) with an L2 penalty in the gradient; keywords as in `sgd`.

  The transfer recipe of the smoothed hinge's reference code uses it this way.
  """
  core = [_decay(weight_decay, decay_where), _scale_by_adam(b1, b2, eps)]
  return _recipe(core, peak_rate, schedule, total_steps, clip_norm, freeze, rates, ema_decay)


def chain(*, transforms: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
  """Applies several transforms, one after the other."""
  return optax.chain(*transforms)


def where(*, pattern: str, transform: optax.GradientTransformation) -> optax.GradientTransformation:
  """Applies `transform` to the parameters whose path the regex matches; all others pass through."""
  return optax.masked(transform, lambda params: tree.matches(params, pattern))


def layerwise_decay(*, blocks: Sequence[str], factor: float = 0.75) -> Rules:
  """Returns rates that shrink by `factor` per block from the head (1) down to the stem, for `rates`.

  Args:
    blocks: the block names of the model in forward order; a config may leave them to the model.
    factor: 0.75 is the usual value for fine-tuning ViT-B (Bao et al., "BEiT", 2022, arXiv 2106.08254).
  """
  depth = len(blocks) - 1
  return tuple((rf"^{block}/", factor ** (depth - i)) for i, block in enumerate(blocks))


class RateState(NamedTuple):
  """The number of steps taken, and the learning rate of the newest one."""

  steps: Array
  rate: Array


def scale_by_rate(schedule: Schedule) -> optax.GradientTransformation:
  """Scales updates by minus the scheduled rate of the step, and keeps the rate for `current_rate`."""

  def init(params: Params) -> RateState:
    return RateState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

  def update(updates: Params, state: RateState, params: Params | None = None) -> tuple[Params, RateState]:
    rate = jnp.asarray(schedule(state.steps), jnp.float32)
    return jax.tree.map(lambda u: (-rate).astype(u.dtype) * u, updates), RateState(state.steps + 1, rate)

  return optax.GradientTransformation(init, update)


def current_rate(opt_state: Any) -> Array | None:
  """Returns the learning rate of the newest step from an optimiser's state; None if it keeps none.

  For an optimiser of another package it is `hyperparams["learning_rate"]` of `optax.inject_hyperparams`.
  """
  for x in jax.tree.leaves(opt_state, is_leaf=_keeps_rate):
    if _keeps_rate(x):
      return x.rate if isinstance(x, RateState) else x.hyperparams["learning_rate"]
  return None


def _keeps_rate(x: Any) -> bool:
  return isinstance(x, RateState) or "learning_rate" in getattr(x, "hyperparams", {})


class EmaState(NamedTuple):
  """The number of steps taken, and the moving average of the parameters."""

  steps: Array
  average: Params


def ema(*, decay: float) -> optax.GradientTransformation:
  """Keeps a moving average of the parameters that the updates lead to; the updates pass through.

  The decay warms up as min(decay, (1 + t) / (10 + t)), so that a short run's average is not its
  initialisation. Put it last in a chain; `averaged` finds the average.
  """
  _check_share("the decay of the moving average", decay)

  def init(params: Params) -> EmaState:
    return EmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

  def update(updates: Params, state: EmaState, params: Params | None = None) -> tuple[Params, EmaState]:
    rate = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
    average = tree.lerp(optax.apply_updates(params, updates), state.average, rate)
    return updates, EmaState(state.steps + 1, average)

  return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, params: Params) -> Params:
  """Returns the moving average from an optimiser's state, or `params` if the optimiser keeps none."""
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=_is_ema) if _is_ema(x)]
  if not found:
    return params
  # Parameters that the optimiser does not see have no average, and need none.
  return jax.tree.map(
    lambda average, x: x if _is_hidden(average) else average, found[0].average, params, is_leaf=_is_hidden
  )


def keeps_average(opt_state: Any) -> bool:
  """Returns whether an optimiser keeps a moving average of the parameters."""
  return any(map(_is_ema, jax.tree.leaves(opt_state, is_leaf=_is_ema)))


def _is_ema(x: Any) -> bool:
  return isinstance(x, EmaState)


def _is_hidden(x: Any) -> bool:
  return isinstance(x, optax.MaskedNode)


def _is_whole(params: Params) -> bool:
  """Returns whether a transform sees all parameters: a rule that matches nothing is then a mistake."""
  return not any(map(_is_hidden, jax.tree.leaves(params, is_leaf=_is_hidden)))


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  _check_share("b1", b1)
  _check_share("b2", b2)
  return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def _decay(weight_decay: float, decay_where: str) -> optax.GradientTransformation:
  _check_not_negative("weight_decay", weight_decay)
  if not weight_decay:
    return optax.identity()
  mask = lambda params: tree.matches(params, decay_where, needed=_is_whole(params))  # noqa: E731
  return optax.add_decayed_weights(weight_decay, mask=mask)


def _scaled_by_path(rates: Rules) -> optax.GradientTransformation:
  def scaled(updates: Params, params: Params | None) -> Params:
    factors = tree.label(updates, rates, needed=_is_whole(updates))
    return jax.tree.map(lambda u, factor: factor * u, updates, factors)

  return optax.stateless(scaled)


def _recipe(
  core: list[optax.GradientTransformation],
  peak_rate: float,
  schedule: Schedule | None,
  total_steps: int,
  clip_norm: float | None,
  freeze: str | None,
  rates: Rules,
  ema_decay: float | None,
) -> optax.GradientTransformation:
  _check_not_negative("peak_rate", peak_rate)
  if clip_norm is not None and not clip_norm > 0:
    raise ConfigError(f"clip_norm is {clip_norm}; write a number above 0, or None for no clipping")
  if ema_decay is not None:
    _check_share("ema_decay", ema_decay)
  factor = schedule or cosine(total_steps=total_steps)
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  parts += core
  parts += [scale_by_rate(lambda step: peak_rate * factor(step))]
  tx = optax.chain(*parts)
  if freeze:
    # A frozen parameter has no optimiser state and no decay, not just no gradient.
    tx = optax.partition(
      {"trained": tx, "frozen": optax.set_to_zero()},
      lambda params: _frozen_labels(params, freeze),
    )
  after = [_scaled_by_path(rates)] if rates else []
  after += [ema(decay=ema_decay)] if ema_decay else []
  return optax.chain(tx, *after) if after else tx


def _frozen_labels(params: Params, freeze: str) -> Params:
  frozen: Callable[[bool], str] = lambda found: "frozen" if found else "trained"  # noqa: E731
  return jax.tree.map(frozen, tree.matches(params, freeze, needed=_is_whole(params)))


def _check_share(name: str, value: float) -> None:
  if not 0 <= value < 1:
    raise ConfigError(f"{name} is {value}; write a number in [0, 1)")


def _check_not_negative(name: str, value: float) -> None:
  if not 0 <= value < float("inf"):
    raise ConfigError(f"{name} is {value}; write a finite number of 0 or more")
