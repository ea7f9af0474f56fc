"""Uncertainty of a comparison of checkpoints: random orders, bootstrap intervals, and paired differences.

Intervals come in three kinds that are never mixed: over test images, over checkpoints (in clusters: an arm
with all its seeds), and over targets. The headline interval resamples targets and clusters together. All are
percentile intervals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.metrics.ranking import EQUAL, Measure, RankingError, weighted_tau

# All M! orders are listed up to this many checkpoints.
MOST_LISTED = 7
# Resamples with fewer distinct clusters are drawn again.
LEAST_CLUSTERS = 3


class Interval(NamedTuple):
  """A percentile interval, and the estimate from the data themselves."""

  estimate: float
  low: float
  high: float

  @property
  def excludes_zero(self) -> bool:
    """Whether two predictors differ, if the interval is of their difference."""
    return self.low > 0 or self.high < 0


def random_orders(
  num: int, *, draws: int = 10_000, seed: int = 0, measure: Measure = weighted_tau
) -> np.ndarray:
  """Computes the agreement of random orders of `num` checkpoints, sorted.

  All orders are listed for at most 7 checkpoints, and `draws` are drawn for more.

  Args:
    num: M.
    draws: number of random orders.
    seed: seed of the draws.
    measure: (scores [B, M], accuracies [M]) -> [B].

  Raises:
    ConfigError: `draws` is not positive.
    RankingError: there are fewer than 2 checkpoints.
  """
  if num < 2:
    raise RankingError(f"expected at least 2 checkpoints, got {num}")
  values = np.arange(num, dtype=float)
  return np.sort(_under_orders(values, values, measure, draws, seed))


def order_p_value(
  scores: np.ndarray,
  accuracies: np.ndarray,
  *,
  measure: Measure = weighted_tau,
  draws: int = 10_000,
  seed: int = 0,
) -> float:
  """Computes the one-sided p-value of an agreement: how often a random order of the scores agrees as well.

  It is exact for at most 7 checkpoints, and (1 + hits) / (1 + draws) for more.

  Args:
    scores, accuracies: [M].
    measure: (scores [B, M], accuracies [M]) -> [B].
    draws: random orders for more than 7 checkpoints.
    seed: seed of the draws.

  Returns:
    The p-value; 1 if scores or accuracies are constant.

  Raises:
    ConfigError: `draws` is not positive.
    RankingError: there are fewer than 2 checkpoints, or a value is not finite.
  """
  scores, accuracies = np.asarray(scores, np.float64), np.asarray(accuracies, np.float64)
  observed = float(measure(scores, accuracies))
  if math.isnan(observed):
    return 1.0
  values = _under_orders(scores, accuracies, measure, draws, seed)
  hits = int(np.sum(values >= observed - EQUAL))
  return hits / len(values) if len(scores) <= MOST_LISTED else (1 + hits) / (1 + len(values))


def _under_orders(
  scores: np.ndarray, accuracies: np.ndarray, measure: Measure, draws: int, seed: int
) -> np.ndarray:
  if draws < 1:
    raise ConfigError(f"expected a positive number of draws, got {draws!r} (for example 10000)")
  if len(scores) <= MOST_LISTED:
    orders = np.array(list(itertools.permutations(scores)))
  else:
    orders = np.random.default_rng(seed).permuted(np.tile(scores, (draws, 1)), axis=1)
  # Pairs of checkpoints of at most 256 orders at a time
  return np.concatenate([measure(orders[at : at + 256], accuracies) for at in range(0, len(orders), 256)])


def image_interval(
  hits: np.ndarray,
  statistic: Callable[[np.ndarray], float],
  *,
  draws: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> Interval:
  """Computes the interval over test images, the same resample for all checkpoints.

  Args:
    hits: bool [M, N], whether checkpoint m classifies image n correctly.
    statistic: accuracies [M] -> value; NaN, a constant order, counts as 0.
    draws: resamples.
    level: coverage.
    seed: seed of the resamples.

  Raises:
    ConfigError: `draws` or `level` is out of range, or the shape is not [M, N].
  """
  _check(draws, level)
  hits = np.asarray(hits)
  if hits.ndim != 2 or not hits.shape[1]:
    raise ConfigError(f"expected hits [M, N] of at least one image, got shape {hits.shape}")
  num = hits.shape[1]
  rng = np.random.default_rng(seed)
  resampled = []
  for first in range(0, draws, 100):
    weights = rng.multinomial(num, np.full(num, 1 / num), size=min(100, draws - first))
    resampled.append(hits.astype(np.float32) @ weights.T.astype(np.float32) / num)
  accuracies = np.concatenate(resampled, axis=1, dtype=np.float64)
  # Equal counts are equal accuracies, whatever the rounding of the division.
  accuracies = np.round(accuracies * num) / num
  return percentile_interval(
    statistic(hits.mean(axis=1)), [statistic(column) for column in accuracies.T], level
  )


def checkpoint_interval(
  clusters: np.ndarray,
  statistic: Callable[[np.ndarray], float],
  *,
  draws: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> Interval:
  """Computes the interval over clusters of checkpoints, such as an arm with all its seeds.

  Args:
    clusters: [M] cluster of each checkpoint.
    statistic: indices of checkpoints, with repetitions, which tie -> value; NaN counts as 0.
    draws, level, seed: as in `image_interval`.

  Raises:
    ConfigError: `draws` or `level` is out of range.
    RankingError: there are fewer than 3 clusters.
  """
  _check(draws, level)
  rng = np.random.default_rng(seed)
  draw = _cluster_sampler(clusters, rng)
  return percentile_interval(
    statistic(np.arange(len(clusters))), [statistic(draw()) for _ in range(draws)], level
  )


def target_interval(values: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
  """Computes the interval of the mean over targets.

  Args:
    values: [T], for example the weighted tau on each target.
    draws, level, seed: as in `image_interval`.

  Raises:
    ConfigError: `draws` or `level` is out of range.
    RankingError: there are fewer than 2 targets.
  """
  _check(draws, level)
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    raise RankingError(f"expected at least 2 targets, got {len(values)}")
  chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
  return percentile_interval(float(values.mean()), values[chosen].mean(axis=1), level)


def joint_interval(
  num_targets: int,
  clusters: np.ndarray,
  statistic: Callable[[np.ndarray, np.ndarray], float],
  *,
  draws: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> Interval:
  """Computes the headline interval: targets and clusters of checkpoints are resampled together.

  For two predictors let the statistic be the difference of their mean agreements. Both see the same
  resamples, and `excludes_zero` says whether they differ.

  Args:
    num_targets: T.
    clusters: [M] cluster of each checkpoint.
    statistic: (indices of targets, indices of checkpoints) -> value, for example
      `lambda t, m: mean_agreement(scores[np.ix_(t, m)], accuracies[np.ix_(t, m)])`; NaN counts as 0.
    draws, level, seed: as in `image_interval`.

  Raises:
    ConfigError: `draws` or `level` is out of range.
    RankingError: there are fewer than 3 clusters, or no target.
  """
  _check(draws, level)
  if num_targets < 1:
    raise RankingError("expected at least 1 target, got 0")
  rng = np.random.default_rng(seed)
  draw = _cluster_sampler(clusters, rng)
  values = [statistic(rng.integers(num_targets, size=num_targets), draw()) for _ in range(draws)]
  return percentile_interval(statistic(np.arange(num_targets), np.arange(len(clusters))), values, level)


def resampled_means(terms: np.ndarray, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
  """Computes the means over resamples of the images, the same resample for all checkpoints.

  Args:
    terms: [M, N], hits or other terms of checkpoint m on image n.
    draws: B resamples.
    seed: seed of the resamples.

  Returns:
    [B, M].

  Raises:
    ConfigError: `draws` is not positive, or the shape is not [M, N].
  """
  terms = np.asarray(terms, np.float64)
  if draws < 1 or terms.ndim != 2 or not terms.shape[1]:
    raise ConfigError(
      f"expected draws >= 1 and terms [M, N] of at least one image, got {draws!r} and shape {terms.shape}"
    )
  num = terms.shape[1]
  rng = np.random.default_rng(seed)
  parts = []
  for first in range(0, draws, 100):
    counts = rng.multinomial(num, np.full(num, 1 / num), size=min(100, draws - first))
    parts.append(counts @ terms.T / num)
  return np.concatenate(parts)


def first_shares(resampled: np.ndarray) -> np.ndarray:
  """Computes the share of resamples in which each checkpoint has the largest value.

  Checkpoints that tie for the first place share it. Values that differ by rounding tie.

  >>> first_shares(np.array([[3.0, 1.0], [2.0, 2.0]])).tolist()
  [0.75, 0.25]

  Args:
    resampled: [B, M] values, as from `resampled_means`; NaN is never first.

  Returns:
    [M] shares that add up to 1; all 0 if every value is NaN.
  """
  values = np.where(np.isnan(resampled), -np.inf, resampled)
  best = values.max(axis=1, keepdims=True)
  leads = np.isfinite(values) & (values >= best - EQUAL * np.maximum(1, np.abs(best)))
  counts = np.maximum(leads.sum(axis=1, keepdims=True), 1)
  return np.mean(leads / counts, axis=0)


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
  """Returns the mean of a - b over the same images [N], and its standard error."""
  differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
  return float(differences.mean()), float(differences.std() / np.sqrt(len(differences)))


def shared_ranks(hits: np.ndarray, *, errors: float = 1.0) -> np.ndarray:
  """Ranks checkpoints by accuracy; those within `errors` paired standard errors of a leader share its rank.

  The best checkpoint leads the first group. The best one that is outside leads the next, and its rank is its
  place in the order.

  Args:
    hits: [M, N], whether checkpoint m classifies image n correctly.
    errors: largest difference within a group, in standard errors over images.

  Returns:
    int [M] ranks from 1.
  """
  hits = np.asarray(hits)
  order = np.argsort(-hits.mean(axis=1), kind="stable")
  ranks = np.zeros(len(hits), int)
  leader, rank = order[0], 1
  for place, index in enumerate(order, start=1):
    difference, error = paired_difference(hits[leader], hits[index])
    if difference > errors * error:
      leader, rank = index, place
    ranks[index] = rank
  return ranks


def _cluster_sampler(clusters: np.ndarray, rng: np.random.Generator) -> Callable[[], np.ndarray]:
  """Returns a function that draws clusters and returns the indices of their checkpoints."""
  names, inverse = np.unique(np.asarray(clusters), return_inverse=True)
  if len(names) < LEAST_CLUSTERS:
    raise RankingError(f"expected at least {LEAST_CLUSTERS} clusters of checkpoints, got {len(names)}")
  members = [np.flatnonzero(inverse == number) for number in range(len(names))]

  def draw() -> np.ndarray:
    while True:
      chosen = rng.integers(len(names), size=len(names))
      if len(np.unique(chosen)) >= LEAST_CLUSTERS:
        return np.concatenate([members[number] for number in chosen])

  return draw


def _check(draws: int, level: float) -> None:
  if draws < 1 or not 0 < level < 1:
    raise ConfigError(
      f"expected draws >= 1 and a level in (0, 1), got {draws!r} and {level!r} (as 1000, 0.95)"
    )


def percentile_interval(estimate: float, values: list[float] | np.ndarray, level: float) -> Interval:
  """Returns the interval between the quantiles of resampled values; an undefined value counts as 0."""
  resampled = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
  low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
  return Interval(float(np.nan_to_num(estimate, nan=0.0)), float(low), float(high))
