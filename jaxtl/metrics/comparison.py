"""Comparison of two arms on the same test images: exact tests, intervals over seeds and images, many arms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from jaxtl.errors import ConfigError, InputError
from jaxtl.metrics.resampling import Interval, percentile_interval


def mcnemar(only_first: int, only_second: int) -> float:
  """Computes the exact two-sided p-value that two classifiers are right equally often.

  p = min(1, 2 P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2): McNemar, "Note on the Sampling Error of the
  Difference Between Correlated Proportions or Percentages", 1947, in its exact form.

  >>> mcnemar(1, 8)
  0.0390625

  Args:
    only_first: b, the number of images that only the first classifies correctly.
    only_second: c, the number that only the second does.

  Raises:
    InputError: a number is negative.
  """
  if only_first < 0 or only_second < 0:
    raise InputError(f"expected numbers of images, got {only_first} and {only_second}")
  total, least = only_first + only_second, min(only_first, only_second)
  tail = sum(math.comb(total, count) for count in range(least + 1))
  return min(1.0, 2 * tail / 2**total)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Adjusts p-values for the number of comparisons; an adjusted one below 0.05 stands among all of them.

  Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

  >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
  {'a': 0.03, 'b': 0.06, 'c': 0.06}

  Raises:
    InputError: a p-value is outside [0, 1].
  """
  for name, value in p_values.items():
    if not 0 <= value <= 1:
      raise InputError(f"the p-value of {name} is {value}; expected a number in [0, 1]")
  adjusted, so_far = {}, 0.0
  for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
    so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[name]))
    adjusted[name] = so_far
  return {name: adjusted[name] for name in p_values}


def seeds_and_images(
  differences: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
  """Computes the mean paired difference of two arms, with an interval over seeds and images.

  Each draw resamples the seeds, and within each chosen seed the images.

  Args:
    differences: [seeds, images], first arm minus second: of losses, or of whether an image is right.
    draws: number of resamples.
    level: coverage of the percentile interval.
    seed: seed of the resamples.

  Raises:
    InputError: there is no difference, or one is not finite.
    ConfigError: `draws` is not positive, or `level` is not in (0, 1).
  """
  values = np.asarray(differences, np.float64)
  if values.ndim != 2 or not values.size or not np.all(np.isfinite(values)):
    raise InputError(f"expected finite differences [seeds, images], got an array of shape {values.shape}")
  if draws < 1 or not 0 < level < 1:
    raise ConfigError(f"draws is {draws} and level {level}; expected at least 1, and a share in (0, 1)")
  rng = np.random.default_rng(seed)
  num_seeds, num_images = values.shape
  means = np.empty(draws)
  for draw in range(draws):
    chosen = rng.integers(0, num_seeds, num_seeds)
    images = rng.integers(0, num_images, (num_seeds, num_images))
    means[draw] = np.take_along_axis(values[chosen], images, axis=1).mean()
  return percentile_interval(float(values.mean()), means, level)


__all__ = ["holm", "mcnemar", "seeds_and_images"]
