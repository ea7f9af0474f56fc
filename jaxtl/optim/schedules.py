"""Learning-rate schedules: step -> rate.

`peak_rate` is 1 by default, so that a schedule is also the factor by which a recipe multiplies its own
peak rate. Spans are given in steps, or in epochs if `steps_per_epoch` of the run is known: the number of
examples divided by the batch size, which need not be a whole number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.types import Array

Schedule = Callable[[Array], Array]


def steps_of(epochs: float, *, steps_per_epoch: float) -> int:
  """Rounds a span in epochs to steps; at least one if the span is above 0.

  Every span in epochs is converted here: the length of a run, its warm-up, its evaluations.

  Raises:
    ConfigError: the span is negative or not finite.
  """
  if not 0 <= epochs < math.inf:
    raise ConfigError(f"expected a span of 0 epochs or more, got {epochs} (for example 2.5)")
  return max(round(epochs * steps_per_epoch), 1) if epochs else 0


def constant(
  *,
  peak_rate: float = 1.0,
  warmup_steps: int = 0,
  warmup_epochs: float = 0.0,
  steps_per_epoch: float | None = None,
  total_steps: int | None = None,
) -> Schedule:
  """Returns a constant schedule after a linear warm-up; `total_steps` only bounds the warm-up."""
  warmup = _warmup(warmup_steps, warmup_epochs, steps_per_epoch, total_steps)
  return _warmed_up(lambda step: jnp.full_like(step, peak_rate), peak_rate, warmup)


def cosine(
  *,
  total_steps: int,
  peak_rate: float = 1.0,
  final_rate: float = 0.0,
  warmup_steps: int = 0,
  warmup_epochs: float = 0.0,
  steps_per_epoch: float | None = None,
) -> Schedule:
  """Returns a linear warm-up followed by half a cosine from `peak_rate` to `final_rate`.

  Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, arXiv 1608.03983,
  without the restarts. The rate of step t < warmup is peak (t + 1) / warmup; that of the last step is above
  `final_rate`.
  """
  warmup = _warmup(warmup_steps, warmup_epochs, steps_per_epoch, total_steps)

  def decay(step: Array) -> Array:
    done = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0, 1)
    return final_rate + (peak_rate - final_rate) * 0.5 * (1 + jnp.cos(jnp.pi * done))

  return _warmed_up(decay, peak_rate, warmup)


def linear(
  *,
  total_steps: int,
  peak_rate: float = 1.0,
  final_rate: float = 0.0,
  warmup_steps: int = 0,
  warmup_epochs: float = 0.0,
  steps_per_epoch: float | None = None,
) -> Schedule:
  """Returns a linear warm-up followed by a straight line from `peak_rate` to `final_rate`."""
  warmup = _warmup(warmup_steps, warmup_epochs, steps_per_epoch, total_steps)

  def decay(step: Array) -> Array:
    done = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0, 1)
    return peak_rate + (final_rate - peak_rate) * done

  return _warmed_up(decay, peak_rate, warmup)


def multi_step(
  *,
  total_steps: int,
  boundaries: Sequence[float],
  factor: float = 0.1,
  peak_rate: float = 1.0,
  warmup_steps: int = 0,
  warmup_epochs: float = 0.0,
  steps_per_epoch: float | None = None,
) -> Schedule:
  """Returns a linear warm-up followed by a drop by `factor` at each boundary.

  Args:
    boundaries: shares of `total_steps` in (0, 1), ascending: (0.5, 0.75, 0.9) drops at epochs 100, 150
      and 180 of 200, where the transfer recipe of the smoothed hinge's reference code drops (by 0.2).
  """
  if any(not 0 < b < 1 for b in boundaries) or list(boundaries) != sorted(boundaries):
    raise ConfigError(f"boundaries are {tuple(boundaries)}; expected ascending shares of the run in (0, 1)")
  warmup = _warmup(warmup_steps, warmup_epochs, steps_per_epoch, total_steps)
  edges = [round(b * total_steps) for b in boundaries]

  def decay(step: Array) -> Array:
    drops = sum((step >= edge).astype(jnp.float32) for edge in edges)
    return peak_rate * jnp.float32(factor) ** drops

  return _warmed_up(decay, peak_rate, warmup)


def _warmed_up(after: Schedule, peak_rate: float, warmup: int) -> Schedule:
  def rate(step: Array) -> Array:
    step = jnp.asarray(step, jnp.float32)
    rising = peak_rate * (step + 1) / max(warmup, 1)
    return jnp.where(step < warmup, rising, after(step))

  return rate


def _warmup(steps: int, epochs: float, steps_per_epoch: float | None, total_steps: int | None) -> int:
  """Returns the warm-up in steps; it is given in steps or in epochs."""
  if not (0 <= steps < math.inf and 0 <= epochs < math.inf):
    raise ConfigError(f"expected a warm-up of 0 or more, got warmup_steps={steps}, warmup_epochs={epochs}")
  if steps and epochs:
    raise ConfigError(f"warmup_steps is {steps} and warmup_epochs is {epochs}; give one of them")
  if epochs and steps_per_epoch is None:
    raise ConfigError(f"warmup_epochs is {epochs}, but steps_per_epoch is not known here; give warmup_steps")
  warmup = steps_of(epochs, steps_per_epoch=steps_per_epoch) if epochs and steps_per_epoch else steps
  if total_steps is not None and warmup > total_steps:
    given = f"warmup_epochs={epochs:g} is {warmup} steps" if epochs else f"warmup_steps is {warmup}"
    raise ConfigError(
      f"{given}, but the whole run has {total_steps}; shorten the warm-up, or train for longer"
    )
  return warmup
