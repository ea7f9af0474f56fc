"""A number found by sampling, with how far it can be trusted."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
  """The mean of independent samples.

  Attributes:
    value: the mean.
    standard_error: the standard deviation of the mean, from the spread of the samples (n - 1 in the
      denominator). The estimator's own noise alone: not that of the data.
    num_evaluations: how often the loss, or a product, was evaluated.
  """

  value: float
  standard_error: float
  num_evaluations: int
