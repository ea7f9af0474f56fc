"""Indicators of whether a patch helps the old tasks too: one predicts it from a gradient, one measures it.

The second reads losses along the path. Both start at theta_0 (before fine-tuning) and look along
d = theta_1 - theta_0. Losses are those of a supported task. The trees should hold only the leaves that are
interpolated: frozen leaves add nothing to d, but would lengthen the gradient.
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

# Nearer to 0, the rounding of a loss divided by alpha hides the slope; the derivative is used there.
SMALLEST_ALPHA = 0.02


class Indicator(NamedTuple):
  """A number, or the statement that it is not defined.

  Attributes:
    value: the number; 0.0 if it is not defined.
    defined: False if the number would be 0 / 0.
    alpha: where a maximum over alpha is attained, 0.0 for the limit; None if the number is not a maximum.
  """

  value: float
  defined: bool
  alpha: float | None = None


def gradient_similarity(gradient: Params, direction: Params, *, where: str | None = None) -> Indicator:
  """Computes -<d, g> / (|d| |g|), minus the cosine of the gradient and the way to the fine-tuned weights.

  If it is above 0, the first step towards the fine-tuned weights lowers the supported loss.

  Args:
    gradient: g of the mean supported loss at theta_0, over the whole split, in evaluation mode.
    direction: d = theta_1 - theta_0, like `gradient`; `between` makes it.
    where: a regex for the leaves that are interpolated; all by default. Leaves that are not floating never
      count.

  Returns:
    A number in [-1, 1]; not defined if d or g is zero.

  Raises:
    InputError: the trees differ in names or shapes, or one is not finite.
    ConfigError: `where` matches no leaf, or is not a regex.
  """
  g, d = _parts(gradient, direction, where)
  lengths = float(tree.norm(g)), float(tree.norm(d))
  if not all(lengths):
    return Indicator(0.0, False)
  cosine = float(tree.dot(g, d)) / lengths[0] / lengths[1]
  return Indicator(-max(-1.0, min(1.0, cosine)), True)


def slope_along(gradient: Params, direction: Params, *, where: str | None = None) -> tuple[float, float]:
  """Returns (<g, d>, |d|): the derivative of the loss in alpha at 0, and the length of the way.

  The first is `jax.jvp(loss, (theta_0,), (d,))[1]`, but works for losses whose custom gradients have no
  forward mode, and reuses a known gradient. Arguments and errors are those of `gradient_similarity`.
  """
  g, d = _parts(gradient, direction, where)
  return float(tree.dot(g, d)), float(tree.norm(d))


def backward_transfer(losses: Mapping[float, float], *, distance: float, slope: float) -> Indicator:
  """Computes max over alpha in [0, 1] of (L(0) - L(alpha)) / (alpha |d|), the gain of an old task per step.

  At alpha = 0, where the ratio is 0 / 0, the limit -slope / |d| counts. Alphas below 0.02 are left out, since
  rounding hides the slope there. A result above 0 means that some alpha improves the supported task. If the
  loss is convex along the path, the limit is the maximum. The unit is loss per distance, so values are
  comparable among patches of one model, but not among models.

  Args:
    losses: {alpha: mean supported loss}, including alpha 0: all that a search has evaluated, and a grid of
      0.05 for a value to report. Alphas outside [0, 1] do not count.
    distance: |d|.
    slope: the derivative of the loss in alpha at 0, from `jax.jvp` along d or from `slope_along`.

  Returns:
    The maximum and its alpha; not defined if |d| is 0.

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
  """Returns the leaves of both that count."""
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
