"""A mean of random samples, and how far it can be trusted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.errors import ConfigError


class Estimate(NamedTuple):
  """The mean of independent samples.

  Attributes:
    value: the mean.
    standard_error: of the mean, one standard deviation.
    num_samples: how many samples it is the mean of.
    num_evaluations: Hessian products, or evaluations of the loss, that all samples took together.
  """

  value: float
  standard_error: float
  num_samples: int
  num_evaluations: int

  def error(self, confidence: float = 0.99) -> float:
    """Returns half the width of the confidence interval, by Student's t: the stated error of an estimate.

    Args:
      confidence: how often the interval contains the true value, if the samples are normal. See `coverage`.
    """
    from scipy import stats

    return self.standard_error * float(stats.t.ppf(0.5 + confidence / 2, self.num_samples - 1))

  def coverage(self, largest: float, confidence: float = 0.95) -> float:
    """Returns how often value ± `error` contains the true trace, given the largest eigenvalue.

    That eigenvalue contributes a squared normal variable to a probe, which is skewed and has the variance
    2 largest^2; all others count as normal. The result is estimated from 20,000 simulations, to within 0.5 %.
    If the eigenvalue causes all of the variance, 95 % intervals contain the true trace in 82 % of cases with
    4 probes, in 85 % with 8, 88 % with 16 and 91 % with 32.

    Args:
      largest: the eigenvalue of the largest size; its share of the trace is largest / value.
      confidence: that of the interval.
    """
    variance = self.num_samples * self.standard_error**2
    part = min(1.0, 2 * largest**2 / variance) if variance > 0 else 1.0
    return _coverage(round(part, 3), self.num_samples, confidence)


@functools.cache
def _coverage(part: float, num_samples: int, confidence: float) -> float:
  """Simulates the coverage of samples with a part of their variance from a squared normal variable."""
  from scipy import stats

  rng = np.random.default_rng(0)
  shape = (20_000, num_samples)
  skewed = (rng.standard_normal(shape) ** 2 - 1) / 2**0.5
  samples = part**0.5 * skewed + (1 - part) ** 0.5 * rng.standard_normal(shape)
  half = np.std(samples, axis=1, ddof=1) / num_samples**0.5
  half *= float(stats.t.ppf(0.5 + confidence / 2, num_samples - 1))
  return float(np.mean(np.abs(np.mean(samples, axis=1)) <= half))


def of_samples(samples: Sequence[float], *, num_evaluations: int) -> Estimate:
  """Returns the mean of the samples and its standard error, computed in float64."""
  values = np.asarray(samples, np.float64)
  spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
  return Estimate(float(np.mean(values)), spread, len(values), num_evaluations)


def check_num_samples(num_samples: int) -> None:
  """Raises ConfigError if there are too few samples for a standard error."""
  if num_samples < 2:
    raise ConfigError(f"num_samples is {num_samples}; a standard error needs at least 2")
