"""A mean of random samples, and how far it can be trusted."""

from __future__ import annotations

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
    """Half the width of the confidence interval, by Student's t: the error that an estimate states.

    Args:
      confidence: how often an interval made so holds the truth.
    """
    from scipy import stats

    return self.standard_error * float(stats.t.ppf(0.5 + confidence / 2, self.num_samples - 1))


def of_samples(samples: Sequence[float], *, num_evaluations: int) -> Estimate:
  """Their mean and its standard error, in float64."""
  values = np.asarray(samples, np.float64)
  spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
  return Estimate(float(np.mean(values)), spread, len(values), num_evaluations)


def check_num_samples(num_samples: int) -> None:
  """Raises ConfigError where there are too few samples for a standard error."""
  if num_samples < 2:
    raise ConfigError(f"num_samples is {num_samples}; a standard error needs at least 2")
