"""From which size of a training set on one way of learning is better than another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.errors import InputError

BELOW, ABOVE, INSIDE = "below", "above", "inside"


class Crossover(NamedTuple):
  """Where a difference changes from negative to positive for the last time.

  Attributes:
    where: "inside" the sizes; "below" them if the difference is positive throughout, "above" if it is not
      positive at the largest size.
    size: the size, if it is inside; else None.
  """

  where: str
  size: float | None


class CrossoverInterval(NamedTuple):
  """A crossover with its percentile interval over seeds.

  Attributes:
    found: the crossover of the mean difference.
    low, high: ends of the interval; None for one that lies outside the sizes.
    share_inside: share of the resamples whose crossover is inside.
  """

  found: Crossover
  low: float | None
  high: float | None
  share_inside: float


def crossover(sizes: Sequence[float], differences: Sequence[float]) -> Crossover:
  """Finds where the difference crosses zero from below for the last time, on straight lines in log size.

  >>> crossover([1, 10, 100], [-0.2, -0.1, 0.1]).size.__round__(3)
  31.623

  Args:
    sizes: sizes of the training sets, ascending.
    differences: of the two ways at each size, such as accuracy by fine-tuning minus that of the probe.

  Raises:
    InputError: there are fewer than two sizes, or they do not ascend from above 0.
  """
  x, y = _checked(sizes, differences)
  if y[-1] <= 0:
    return Crossover(ABOVE, None)
  negative = np.flatnonzero(y <= 0)
  if not negative.size:
    return Crossover(BELOW, None)
  last = int(negative[-1])
  share = -y[last] / (y[last + 1] - y[last])
  return Crossover(INSIDE, float(np.exp(x[last] + share * (x[last + 1] - x[last]))))


def crossover_interval(
  sizes: Sequence[float], differences: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> CrossoverInterval:
  """Computes the crossover of the mean difference, with an interval over seeds.

  Whole curves are resampled. A resample without a crossing counts as one beyond that end of the sizes.

  Args:
    sizes: [N], ascending.
    differences: [seeds, N].
    draws: number of resamples.
    level: coverage of the percentile interval.
    seed: seed of the resamples.

  Raises:
    InputError: as in `crossover`, or there is no seed.
  """
  values = np.asarray(differences, np.float64)
  if values.ndim != 2 or not len(values):
    raise InputError(f"expected differences [seeds, sizes], got an array of shape {values.shape}")
  rng = np.random.default_rng(seed)
  beyond = {BELOW: -np.inf, ABOVE: np.inf}
  places = []
  for _ in range(draws):
    chosen = values[rng.integers(0, len(values), len(values))].mean(axis=0)
    one = crossover(sizes, chosen)
    places.append(beyond.get(one.where, one.size))
  ends = np.quantile(
    np.asarray(places, float), [(1 - level) / 2, (1 + level) / 2], method="closest_observation"
  )
  low, high = (float(end) if np.isfinite(end) else None for end in ends)
  share = float(np.mean(np.isfinite(np.asarray(places, float))))
  return CrossoverInterval(crossover(sizes, values.mean(axis=0)), low, high, share)


def _checked(sizes: Sequence[float], differences: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
  x, y = np.asarray(sizes, np.float64), np.asarray(differences, np.float64)
  if len(x) < 2 or x.shape != y.shape or x[0] <= 0 or np.any(np.diff(x) <= 0):
    raise InputError(f"expected a difference for each of at least two ascending sizes, got {list(sizes)}")
  return np.log(x), y


__all__ = ["Crossover", "CrossoverInterval", "crossover", "crossover_interval"]
