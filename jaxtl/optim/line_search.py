"""Line searches on one batch: the minimum of a loss along a fixed direction, inside a compiled step.

A search takes `loss`, a function of the length eta >= 0 (the loss after a step of eta along the direction),
and an initial length. No search returns a length with a higher loss than at eta = 0. `weights.search` is for
functions on the host, where each evaluation costs a pass over a data set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxtl.types import Array

Loss = Callable[[Array], Array]
# A minimum below this part of the initial length counts as 0.
SMALLEST = 2.0**-40
# The maximum number of Newton steps, and the relative change of eta that ends them: a few float32 roundings.
NEWTON_STEPS, PRECISION = 40, 5e-7
# Trial lengths as factors of the last one, for losses that cost a forward pass at each length.
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


class Found(NamedTuple):
  """The result of a search.

  Attributes:
    eta: float [], the length with the lowest loss; the cap if there is no minimum below it.
    unbounded: bool [], whether the loss still falls at the cap.
    start: float [], a good initial length for the search of a similar loss.
  """

  eta: Array
  unbounded: Array
  start: Array


def newton(loss: Loss, start: Array, *, cap: float) -> Found:
  """Finds the minimum of a convex loss, to the precision of its derivative.

  It doubles or halves `start` until the derivative changes its sign. Then it takes Newton steps to the zero
  of the derivative, each kept within the bracket. The cross-entropy is convex in eta if the logits are affine
  in it. For a loss that is not convex, the result is a stationary point in the bracket, or 0 if the loss is
  higher there.

  Args:
    loss: float [] -> float [], differentiable twice.
    start: float [], above 0.
    cap: the largest eta.
  """
  slope = jax.grad(loss)
  # A loss that is flat in floating point, as far out on a separable batch, counts as still falling.
  bracket = _bracket(lambda eta: slope(eta) > 0, start, cap)
  eta = _zero(slope, bracket)
  found = jnp.where(bracket.unbounded, bracket.high, eta)
  return _never_worse(loss, Found(found, bracket.unbounded, found), start)


def equispaced(loss: Loss, start: Array, *, cap: float, num_trials: int) -> Found:
  """Returns the best of 0 and `num_trials` equally spaced lengths up to the first that is worse than 0.

  This is the search of PoF's released code, with two gaps closed: 0 is among the candidates, and if the first
  length is already worse than 0, it is halved until one half of it is not.

  Args:
    loss: float [] -> float []; all trials are one call under `jax.vmap`.
    start: float [], above 0.
    cap: the largest eta.
    num_trials: 16 in the released code.
  """
  at_zero = loss(jnp.zeros_like(start))
  bracket = _bracket(lambda eta: loss(eta) > at_zero, start, cap)
  etas = bracket.high * jnp.arange(num_trials + 1, dtype=start.dtype) / num_trials
  best = etas[jnp.argmin(jax.vmap(loss)(etas))]
  best = jnp.where(bracket.unbounded, bracket.high, best)  # of several zeros, argmin takes the first
  return Found(best, bracket.unbounded, _after(best, bracket.unbounded, start))


def geometric(loss: Loss, start: Array, *, at_zero: Array, cap: float) -> Found:
  """Returns the best of 0, five lengths around `start`, and the vertex of a parabola through the best three.

  It is for losses that cost a forward pass at each length, and takes six of them. A minimum further away than
  a factor of 4 is reached in a few calls, each of which begins where the last one ended.

  Args:
    loss: float [] -> float [].
    start: float [], above 0.
    at_zero: float [], the loss at eta = 0.
    cap: the largest eta.
  """
  # The trials must differ even at the cap, or the parabola lacks three points.
  start = jnp.minimum(start, cap / FACTORS[-1])
  tried = [start * factor for factor in FACTORS]
  # One after the other: under vmap each trial would hold a copy of the parameters and activations.
  values = jnp.stack([at_zero, *map(loss, tried)])
  etas = jnp.stack([jnp.zeros_like(start), *tried])
  best = jnp.argmin(values)
  vertex = _vertex(etas, values, jnp.clip(best, 1, len(FACTORS) - 1))
  lower = loss(vertex) < values[best]
  eta = jnp.where(lower, vertex, etas[best])
  unbounded = (eta >= cap * (1 - 1e-6)) & ~lower
  return Found(eta, unbounded, jnp.where(eta > 0, eta, start * FACTORS[0]))


def is_affine(function: Callable[[Any], Array], at: Any) -> bool:
  """Returns whether a function is affine: its derivative, as traced, does not read the point.

  Along a line, one derivative of an affine function gives every value. True is certain; False may also mean
  that the traced program is too complex to tell.
  """
  leaves, structure = jax.tree.flatten(at)
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]

  def derivative(point: list[Array], direction: list[Array]) -> Array:
    unflat = functools.partial(jax.tree.unflatten, structure)
    return jax.jvp(function, (unflat(point),), (unflat(direction),))[1]

  program = jax.make_jaxpr(derivative)(shapes, shapes).jaxpr
  read = {x for x in program.outvars if not isinstance(x, Literal)}
  for equation in reversed(program.eqns):
    if read.intersection(equation.outvars):
      read |= {x for x in equation.invars if not isinstance(x, Literal)}
  return not read.intersection(program.invars[: len(leaves)])


class _Bracket(NamedTuple):
  low: Array
  high: Array
  unbounded: Array


def _bracket(beyond: Callable[[Array], Array], start: Array, cap: float) -> _Bracket:
  """Brackets the minimum by neighbours in a grid of powers of two; `beyond` it the loss has risen."""
  start = jnp.clip(start, max(cap * SMALLEST**2, 1e-30), cap)
  double = lambda eta: jnp.minimum(2 * eta, cap)  # noqa: E731
  high = jax.lax.while_loop(lambda eta: (eta < cap) & ~beyond(eta), double, start)
  smallest = SMALLEST * start
  high = jax.lax.while_loop(lambda eta: (eta > smallest) & beyond(eta / 2), lambda eta: eta / 2, high)
  return _Bracket(high / 2, high, ~beyond(high))


def _zero(slope: Loss, bracket: _Bracket) -> Array:
  """Finds the zero of an increasing function in a bracket."""

  def step(carry: Any) -> Any:
    low, high, eta, _, number = carry
    value, derivative = jax.jvp(slope, (eta,), (jnp.ones_like(eta),))
    low, high = jnp.where(value > 0, low, eta), jnp.where(value > 0, eta, high)
    guess = eta - value / derivative
    inside = (guess >= low) & (guess <= high)  # False for NaN, too
    after = jnp.where(inside, guess, (low + high) / 2)
    return low, high, after, jnp.abs(after - eta), number + 1

  def unfinished(carry: Any) -> Array:
    _, _, eta, change, number = carry
    return (number < NEWTON_STEPS) & (change > PRECISION * eta)

  middle = (bracket.low + bracket.high) / 2
  carry = (bracket.low, bracket.high, middle, bracket.high, jnp.int32(0))
  return jax.lax.while_loop(unfinished, step, carry)[2]


def _never_worse(loss: Loss, found: Found, start: Array) -> Found:
  zero = jnp.zeros_like(found.eta)
  eta = jnp.where(loss(found.eta) <= loss(zero), found.eta, zero)
  return Found(eta, found.unbounded, _after(eta, found.unbounded, start))


def _after(eta: Array, unbounded: Array, start: Array) -> Array:
  """Returns where to begin next: at the minimum, or at the same length if there was none."""
  return jnp.where((eta > 0) & ~unbounded, eta, start)


def _vertex(etas: Array, values: Array, middle: Array) -> Array:
  """Returns the minimum of the parabola through a point and its neighbours; the point if there is none."""
  a, b, c = (jax.lax.dynamic_index_in_dim(etas, middle + i, keepdims=False) for i in (-1, 0, 1))
  fa, fb, fc = (jax.lax.dynamic_index_in_dim(values, middle + i, keepdims=False) for i in (-1, 0, 1))
  left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
  vertex = b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)
  return jnp.where((vertex > a) & (vertex < c), vertex, b)
