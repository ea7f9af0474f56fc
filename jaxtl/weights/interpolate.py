"""Weights on the straight line between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.errors import ConfigError, InputError
from jaxtl.types import Array, Params
from jaxtl.weights.perturb import check_alike

NAMES = ("the weights before fine-tuning", "those after it")


def interpolate(
  before: Params, after: Params, alpha: float, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Params:
  """Returns (1 - alpha) before + alpha after, which is bit for bit `before` at 0 and `after` at 1.

  Ilharco, Wortsman, Gadre, Song, Hajishirzi, Kornblith, Farhadi, Schmidt, "Patching open-vocabulary models by
  interpolating weights", 2022, arXiv 2208.05592. One alpha applies to all weights. The result is the sum of
  two products, in float32 or wider; in floating point, before + alpha (after - before) would not be `after`
  at 1. For many alphas, `line` checks the trees once.

  >>> import jax.numpy as jnp
  >>> interpolate({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.25)["w"].tolist()
  [0.25, 0.25]

  Args:
    before: the weights theta_0, a tree of arrays.
    after: the weights theta_1, like `before`.
    alpha: how far to go from `before` to `after`.
    bounds: the range of alpha; a range wider than [0, 1] allows extrapolation, which should not happen by
      mistake.

  Returns:
    A tree in the types of `before`. Leaves that are not floating, such as counters, are those of `before`.

  Raises:
    ConfigError: alpha is not a number within the bounds, or these are not an interval.
    InputError: the trees differ in names, shapes or types, or a weight is not finite; the message names it.
  """
  return line(before, after, bounds=bounds)(alpha)


def line(
  before: Params, after: Params, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Callable[[float], Params]:
  """Returns alpha -> (1 - alpha) before + alpha after, as `interpolate`, with the trees checked once, here.

  Each call makes one copy of the weights, to which nothing here keeps a reference.

  Arguments and errors are those of `interpolate`; errors in alpha are raised at the call.
  """
  check_bounds(bounds)
  check_alike(before, after, names=NAMES)
  for weights, name in zip((before, after), NAMES, strict=True):
    check_finite(weights, name=name)

  def at(alpha: float) -> Params:
    alpha = float(alpha)
    if not bounds[0] <= alpha <= bounds[1]:
      raise ConfigError(
        f"alpha is {alpha:g}, outside [{bounds[0]:g}, {bounds[1]:g}]; give wider bounds to extrapolate"
      )
    return _mixed(before, after, alpha, 1 - alpha)

  return at


def losses_along(
  before: Params,
  after: Params,
  losses: Mapping[str, Callable[[Params], float]],
  *,
  bounds: tuple[float, float] = (0.0, 1.0),
) -> Callable[[float], dict[str, float]]:
  """Returns alpha -> the loss of every task at (1 - alpha) before + alpha after, from one copy of weights.

  Args:
    before, after, bounds: as for `interpolate`.
    losses: for each task, params -> its mean loss. It must be deterministic: the same examples in evaluation
      mode, with the mean in float32 or wider. Noise of one part in a thousand cancels the advantage of a fit
      over a grid.

  Raises:
    ConfigError: there are no tasks, or as `interpolate`.
    InputError: as `interpolate`.
  """
  if not losses:
    raise ConfigError("there are no tasks; give at least one loss")
  at = line(before, after, bounds=bounds)

  def evaluate(alpha: float) -> dict[str, float]:
    params = at(alpha)
    return {name: float(loss(params)) for name, loss in losses.items()}

  return evaluate


def check_bounds(bounds: tuple[float, float]) -> None:
  """Raises ConfigError if the bounds are not two finite numbers in ascending order."""
  if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or not bounds[0] < bounds[1]:
    raise ConfigError(f"bounds are {bounds}; write two numbers, the lower one first")


def check_finite(weights: Params, *, name: str) -> None:
  """Raises InputError if a weight is not finite, and names the first; `name` says whose weights they are."""
  if path := tree.first_nonfinite(weights):
    raise InputError(f"{path} of {name} is not finite; weights with a NaN or an infinity cannot be merged")


def is_floating(x: Array) -> bool:
  """Returns whether a leaf is a weight; integers and booleans are counters and masks, which have no mean."""
  return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def widened(x: Array) -> Array:
  """Casts the leaf to float32, or keeps its own type if that is wider."""
  return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


@jax.jit
def _mixed(before: Params, after: Params, alpha: Array, rest: Array) -> Params:
  def leaf(x: Array, y: Array) -> Array:
    if not is_floating(x):
      return x
    wide = widened(x)
    mixed = rest.astype(wide.dtype) * wide + alpha.astype(wide.dtype) * widened(y)
    # The products alone would turn -0 into 0 at the ends, and denormals too where the hardware flushes them.
    return jnp.where(alpha == 0, x, jnp.where(alpha == 1, y, mixed.astype(x.dtype)))

  return jax.tree.map(leaf, before, after)
