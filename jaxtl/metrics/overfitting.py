"""Over-fitting, read from the test losses of a training: where they are least, and how far they rise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.errors import InputError
from jaxtl.metrics.resampling import Interval, percentile_interval, resampled_means

# Points that a slope needs.
LEAST_POINTS = 5


class LossCurve(NamedTuple):
  """What a curve of test losses says.

  Attributes:
    least_epoch: the first epoch of the least loss, counted from 1.
    least: the least loss.
    last: the loss after the last epoch.
    rise: last - least.
    relative_rise: rise / least; 0 if both are 0.
    slope: least-squares slope of the loss per epoch from `least_epoch` on; NaN with fewer than 5 points.
    smooth_epoch: the epoch in the middle of the three neighbouring ones with the least mean loss;
      `least_epoch` if there are fewer than three.
  """

  least_epoch: int
  least: float
  last: float
  rise: float
  relative_rise: float
  slope: float
  smooth_epoch: int


def loss_curve(losses: Sequence[float]) -> LossCurve:
  """Summarises the losses after each epoch, without the loss before training.

  The least of a noisy curve lies below its last value whether or not the network over-fits; `rise_interval`
  tests weights that other images chose.

  >>> loss_curve([0.9, 0.5, 0.4, 0.4, 0.6]).least_epoch
  3

  Raises:
    InputError: there is no loss, or one is not finite.
  """
  values = np.asarray(losses, np.float64)
  if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
    raise InputError(f"expected finite losses, one for each epoch; got {list(losses)}")
  least = int(np.argmin(values))
  rise = float(values[-1] - values[least])
  tail = values[least:]
  slope = float(np.polyfit(np.arange(len(tail)), tail, 1)[0]) if len(tail) >= LEAST_POINTS else math.nan
  smooth = least
  if len(values) >= 3:
    smooth = 1 + int(np.argmin(np.convolve(values, np.ones(3), mode="valid")))
  relative = rise / float(values[least]) if rise else 0.0
  return LossCurve(least + 1, float(values[least]), float(values[-1]), rise, relative, slope, smooth + 1)


def rise_interval(
  last: np.ndarray, chosen: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
  """Computes the mean rise of the loss from chosen weights to the last ones, by bootstrap over test images.

  A network over-fits if the interval is above zero and its weights were not chosen on these images.

  Args:
    last, chosen: [N], the losses of the same images.
    draws: number of resamples.
    level: coverage of the percentile interval.
    seed: seed of the resamples.

  Raises:
    InputError: the arrays differ in length, or are empty.
  """
  if last.shape != chosen.shape or last.ndim != 1 or not last.size:
    raise InputError(f"expected the losses of the same images, got {last.shape} and {chosen.shape}")
  differences = np.asarray(last, np.float64) - np.asarray(chosen, np.float64)
  means = resampled_means(differences[None], draws=draws, seed=seed)
  return percentile_interval(float(differences.mean()), means, level)


def patience_epoch(losses: Sequence[float], *, patience: int = 5) -> tuple[int, int]:
  """Returns the epoch that early stopping on these held-out losses restores, and how many it runs.

  Epochs count from 1. The training stops after `patience` epochs without a lower loss.
  """
  best, best_epoch = math.inf, 0
  for epoch, loss in enumerate(losses, 1):
    if loss < best:
      best, best_epoch = loss, epoch
    elif epoch - best_epoch >= patience:
      return best_epoch, epoch
  return best_epoch, len(losses)


__all__ = ["LossCurve", "loss_curve", "patience_epoch", "rise_interval"]
