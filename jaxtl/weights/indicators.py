"""Will a patch help the old tasks too? One number from a gradient foretells it, one from the path says it.

Both look from theta_0 (before fine-tuning) along d = theta_1 - theta_0. Losses are those of a supported task.
Only what is interpolated belongs into the trees: frozen leaves add nothing to d, but would lengthen the
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax

from jaxtl import tree
from jaxtl.errors import ConfigError, InputError
from jaxtl.types import Params
from jaxtl.weights.interpolate import check_finite, is_floating
from jaxtl.weights.perturb import check_alike

# Nearer to 0, the rounding of a loss divided by alpha hides the slope; there the derivative stands in.
SMALLEST_ALPHA = 0.02


class Indicator(NamedTuple):
  """A number, or the statement that there is none.

  Attributes:
    value: 0.0 where it is not defined.
    defined: False where it would be 0 / 0.
    alpha: where a maximum over alpha is attained, 0.0 for the limit; None for what is no maximum.
  """

  value: float
  defined: bool
  alpha: float | None = None


def gradient_similarity(gradient: Params, direction: Params, *, where: str | None = None) -> Indicator:
  """-<d, g> / (|d| |g|): minus the cosine of the gradient and the way to the fine-tuned weights.

  Above 0, the first step towards the fine-tuned weights lowers the supported loss.

  Args:
    gradient: g of the mean supported loss at theta_0, over the whole split, in evaluation mode.
    direction: d = theta_1 - theta_0, like `gradient`; `between` makes it.
    where: a regex for the leaves that are interpolated; all by default. Leaves that are not floating never
      count.

  Returns:
    A number in [-1, 1]; not defined where d or g is zero.

  Raises:
    InputError: the trees differ in names or shapes, or one is not finite.
    ConfigError: `where` finds no leaf, or is no regex.
  """
  g, d = _parts(gradient, direction, where)
  lengths = float(tree.norm(g)), float(tree.norm(d))
  if not all(lengths):
    return Indicator(0.0, False)
  cosine = float(tree.dot(g, d)) / lengths[0] / lengths[1]
  return Indicator(-max(-1.0, min(1.0, cosine)), True)


def slope_along(gradient: Params, direction: Params, *, where: str | None = None) -> tuple[float, float]:
  """(<g, d>, |d|): the derivative of the loss by alpha at 0, and the length of the way.

  The same as `jax.jvp(loss, (theta_0,), (d,))[1]`, for losses whose own gradients have no forward mode, and
  for a gradient that is known already. Args and errors are those of `gradient_similarity`.
  """
  g, d = _parts(gradient, direction, where)
  return float(tree.dot(g, d)), float(tree.norm(d))


def backward_transfer(losses: Mapping[float, float], *, distance: float, slope: float) -> Indicator:
  """max over alpha in [0, 1] of (L(0) - L(alpha)) / (alpha |d|): how much an old task gains for each step.

  At alpha = 0, which would be 0 / 0, the limit -slope / |d| counts; alphas below 0.02 are left out, since
  rounding hides the slope there. Above 0, some alpha improves the supported task. Where the loss is convex
  along the path the limit is the maximum. The unit is loss by weight: comparable among patches of one model,
  not among models.

  Args:
    losses: {alpha: mean supported loss}, 0 among them; all that a search has evaluated, and a grid of 0.05
      for a value to report. Alphas beyond [0, 1] do not count.
    distance: |d|.
    slope: the derivative of the loss by alpha at 0: by `jax.jvp` along d, or by `slope_along`.

  Returns:
    The maximum, and the alpha of it; not defined where |d| is 0.

  Raises:
    ConfigError: there is no loss at 0.
    InputError: a number is not finite, or the distance is negative.
  """
  if 0.0 not in losses:
    raise ConfigError("losses have no alpha 0, from which a gain is counted")
  if not (math.isfinite(distance) and distance >= 0 and math.isfinite(slope)):
    raise InputError(
      f"distance {distance} and slope {slope}; both must be finite, and the distance 0 or more"
    )
  if bad := [alpha for alpha, loss in losses.items() if not math.isfinite(loss)]:
    raise InputError(f"the loss is {losses[bad[0]]} at alpha {bad[0]:g}; a gain needs finite losses")
  if distance == 0:
    return Indicator(0.0, False)
  gains = {0.0: -slope / distance}
  for alpha, loss in losses.items():
    if SMALLEST_ALPHA <= alpha <= 1:
      gains[alpha] = (losses[0.0] - loss) / (alpha * distance)
  best = max(gains, key=gains.__getitem__)
  return Indicator(gains[best], True, best)


def _parts(gradient: Params, direction: Params, where: str | None) -> tuple[Params, Params]:
  """The leaves of both that count."""
  names = ("the gradient", "the direction")
  check_alike(gradient, direction, names=names, types=False)
  chosen = tree.matches(gradient, where)
  counts = jax.tree.map(lambda c, x, y: c and is_floating(x) and is_floating(y), chosen, gradient, direction)
  kept = [path for path, count in zip(tree.paths(gradient), jax.tree.leaves(counts), strict=True) if count]
  parts = []
  for weights, name in zip((gradient, direction), names, strict=True):
    leaves = dict(zip(tree.paths(weights), jax.tree.leaves(weights), strict=True))
    parts.append({path: leaves[path] for path in kept})
    check_finite(parts[-1], name=name)
  return parts[0], parts[1]
