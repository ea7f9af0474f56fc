"""Random orders, p-values and intervals: exact cases, published nulls, and coverage in simulations."""

import math

import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.errors import ConfigError
from jaxtl.metrics import RankingError


def test_a_perfect_order_of_four_has_one_chance_in_24():
  accuracies = np.array([0.1, 0.4, 0.3, 0.8])
  assert metrics.order_p_value(10 * accuracies, accuracies) == pytest.approx(1 / 24)
  assert metrics.order_p_value(-accuracies, accuracies) == 1
  assert metrics.order_p_value(np.ones(4), accuracies) == 1


def test_ties_share_the_chance():
  """Of the 24 orders of the scores 1 1 2 3, the two that swap the tie are the same."""
  scores, accuracies = np.array([1.0, 1, 2, 3]), np.array([0.1, 0.2, 0.3, 0.4])
  assert metrics.order_p_value(scores, accuracies) == pytest.approx(2 / 24)


def test_many_checkpoints_have_a_drawn_p_value():
  accuracies = np.arange(12.0)
  assert metrics.order_p_value(accuracies, accuracies, draws=500) == pytest.approx(1 / 501)
  scores = np.random.default_rng(0).permutation(12)
  values = [metrics.order_p_value(scores, accuracies, draws=500, seed=seed) for seed in (0, 0, 1)]
  assert values[0] == values[1] != values[2]
  other = metrics.order_p_value(scores, accuracies, draws=500, measure=metrics.spearman)
  assert other != values[0]


def test_the_p_value_is_uniform_under_the_null():
  """Of 200 random orders of 5, P(p <= 0.05) is at most 0.05; 4 standard errors are 0.062."""
  rng = np.random.default_rng(0)
  accuracies = np.arange(5.0)
  small = [metrics.order_p_value(rng.permutation(5), accuracies) <= 0.05 for _ in range(200)]
  assert np.mean(small) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(
  ("num", "sd", "low", "high", "over_half"),
  [
    (4, 0.52, -0.73, 0.81, 0.25),
    (5, 0.45, -0.71, 0.72, 0.16),
    (6, 0.40, -0.61, 0.68, 0.13),
    (8, 0.32, -0.52, 0.55, 0.07),
    (11, 0.28, -0.45, 0.47, 0.04),
    (16, 0.23, -0.38, 0.40, 0.015),
    (20, 0.21, -0.35, 0.36, 0.007),
  ],
)
def test_random_orders_have_the_spread_of_an_independent_simulation(num, sd, low, high, over_half):
  """The table is of 3,000 draws, whose shares have a standard error of 0.004 at 5 %."""
  values = metrics.random_orders(num, draws=3000)
  assert len(values) == (math.factorial(num) if num <= 7 else 3000)
  assert values.std() == pytest.approx(sd, abs=0.02)
  # Few orders have few values: a quantile is the step on which the distribution function passes its level.
  for quantile, level in ((low, 0.05), (high, 0.95)):
    assert np.mean(values < quantile - 0.02) <= level + 0.015
    assert np.mean(values <= quantile + 0.02) >= level - 0.015
  assert np.mean(values >= 0.5) == pytest.approx(over_half, abs=0.02)


def test_image_intervals_resample_the_same_images_for_all():
  """Two checkpoints that hit the same images differ by nothing in any resample."""
  rng = np.random.default_rng(0)
  hits = rng.random(300) < 0.7
  both = np.stack([hits, hits, rng.random(300) < 0.7])
  paired = metrics.image_interval(both, lambda a: float(a[0] - a[1]))
  assert paired == (0, 0, 0)
  assert not paired.excludes_zero
  single = metrics.image_interval(both, lambda a: float(a[0]))
  share = hits.mean()
  assert single.estimate == pytest.approx(share)
  half = 1.96 * math.sqrt(share * (1 - share) / 300)
  assert (single.low, single.high) == pytest.approx((share - half, share + half), abs=0.015)
  narrow = metrics.image_interval(both, lambda a: float(a[0]), level=0.5)
  assert narrow.high - narrow.low < single.high - single.low


def test_checkpoints_with_equal_hits_tie_in_every_resample():
  """37 images: their shares are not exact in float32."""
  hits = np.random.default_rng(0).random((2, 37)) < 0.5
  equal = np.stack([hits[0], hits[0][::-1], hits[1]])
  seen = []
  metrics.image_interval(equal, lambda a: seen.append(a * 37) or 0.0, draws=50)
  np.testing.assert_allclose(seen, np.round(seen), atol=1e-12)
  assert len(seen) == 51


def coverage(interval, truth, runs=200):
  return np.mean([low <= truth <= high for _, low, high in (interval(seed) for seed in range(runs))])


def test_target_intervals_cover():
  """The nominal 95 % of a percentile interval with 20 targets is about 93; 200 runs have a sd of 1.8."""

  def interval(seed):
    return metrics.target_interval(np.random.default_rng(seed).normal(0.4, 0.2, size=20), draws=400)

  assert 0.90 <= coverage(interval, 0.4) <= 0.99


def test_image_intervals_cover_the_true_difference():
  chance = np.array([0.80, 0.75])

  def interval(seed):
    hits = np.random.default_rng(seed).random((2, 200)) < chance[:, None]
    return metrics.image_interval(hits, lambda a: float(a[0] - a[1]), draws=200)

  assert 0.90 <= coverage(interval, 0.05) <= 0.99


def test_checkpoint_intervals_cover_a_correlation_of_clustered_seeds():
  """Seeds of an arm share most of their values, so that resampling single checkpoints would be too narrow."""
  arms, seeds, rho = 30, 3, 0.5
  clusters = np.repeat(np.arange(arms), seeds)

  def interval(seed, by=clusters, draws=60):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=arms)
    accuracies = rho * scores + math.sqrt(1 - rho**2) * rng.normal(size=arms)
    s, a = scores.repeat(seeds), accuracies.repeat(seeds)
    return metrics.checkpoint_interval(by, lambda m: float(np.corrcoef(s[m], a[m])[0, 1]), draws=draws)

  assert 0.88 <= coverage(interval, rho) <= 0.99
  assert coverage(lambda seed: interval(seed, np.arange(arms * seeds)), rho, runs=60) < 0.85


def test_two_equal_predictors_are_rarely_told_apart():
  """Two noisy copies of one score on 6 targets and 8 clusters: at most 7 % of 60, plus 4 standard errors."""
  targets, arms = 6, 8
  different = 0
  for seed in range(60):
    rng = np.random.default_rng(seed)
    accuracies = rng.normal(size=(targets, arms))
    first, second = accuracies + rng.normal(size=(2, targets, arms))

    def difference(t, m, a=accuracies, pair=(first, second)):
      cells = np.ix_(t, m)
      return float(
        np.mean(metrics.pearson(pair[0][cells], a[cells]) - metrics.pearson(pair[1][cells], a[cells]))
      )

    different += metrics.joint_interval(targets, np.arange(arms), difference, draws=60).excludes_zero
  assert different <= 60 * (0.07 + 4 * math.sqrt(0.07 * 0.93 / 60))


def test_a_better_predictor_is_told_apart():
  rng = np.random.default_rng(0)
  accuracies = rng.normal(size=(6, 10))
  good, bad = accuracies + 0.1 * rng.normal(size=(6, 10)), rng.normal(size=(6, 10))

  def difference(t, m):
    cells = np.ix_(t, m)
    return metrics.mean_agreement(good[cells], accuracies[cells]) - metrics.mean_agreement(
      bad[cells], accuracies[cells]
    )

  interval = metrics.joint_interval(6, np.arange(10), difference, draws=100)
  assert interval.excludes_zero
  assert interval.low < interval.estimate < interval.high
  assert interval == metrics.joint_interval(6, np.arange(10), difference, draws=100)
  assert interval != metrics.joint_interval(6, np.arange(10), difference, draws=100, seed=1)


def test_a_resample_has_three_clusters_with_all_their_seeds():
  clusters = np.array(["a", "a", "b", "c", "c", "c", "d"])
  sizes = {"a": 2, "b": 1, "c": 3, "d": 1}

  def statistic(indices):
    names, counts = np.unique(clusters[indices], return_counts=True)
    assert len(names) >= 3
    assert all(count % sizes[str(name)] == 0 for name, count in zip(names, counts))
    return float("nan")

  assert metrics.checkpoint_interval(clusters, statistic, draws=100) == (0, 0, 0)
  with pytest.raises(RankingError, match="at least 3 clusters of checkpoints, got 2"):
    metrics.checkpoint_interval(clusters[:3], statistic)


def test_a_paired_difference_has_the_error_of_its_images():
  rng = np.random.default_rng(0)
  a = rng.random(500) < 0.8
  b = a.copy()
  b[:5] = ~b[:5]
  difference, error = metrics.paired_difference(a, b)
  assert difference == pytest.approx(a.mean() - b.mean())
  assert error == pytest.approx(np.std(a.astype(float) - b) / math.sqrt(500))
  assert error < math.sqrt(0.2 * 0.8 / 500)


def test_checkpoints_within_a_paired_error_share_a_rank():
  base = np.zeros(100, bool)
  base[:80] = True
  near, far = base.copy(), base.copy()
  near[0], near[90], near[91] = False, False, False
  far[:30] = False
  hits = np.stack([far, base, near])
  # One image lost: a difference of 0.01 with a standard error of 0.00995
  assert metrics.shared_ranks(hits, errors=1.1).tolist() == [3, 1, 1]
  assert metrics.shared_ranks(hits, errors=1.0).tolist() == [3, 1, 2]
  assert metrics.shared_ranks(np.stack([base, base])).tolist() == [1, 1]


@pytest.mark.parametrize("options", [{"draws": 0}, {"level": 0.0}, {"level": 1.0}])
def test_bad_options_are_refused(options):
  for call in (
    lambda: metrics.target_interval(np.arange(3), **options),
    lambda: metrics.image_interval(np.ones((2, 3)), np.mean, **options),
    lambda: metrics.checkpoint_interval(np.arange(3), np.mean, **options),
    lambda: metrics.joint_interval(3, np.arange(3), lambda t, m: 0.0, **options),
  ):
    with pytest.raises(ConfigError, match="expected draws"):
      call()


def test_too_few_of_anything_are_refused():
  with pytest.raises(RankingError, match="at least 2 checkpoints"):
    metrics.random_orders(1)
  with pytest.raises(RankingError, match="at least 2 targets"):
    metrics.target_interval(np.ones(1))
  with pytest.raises(RankingError, match="at least 1 target"):
    metrics.joint_interval(0, np.arange(3), lambda t, m: 0.0)
  with pytest.raises(ConfigError, match="positive number of draws"):
    metrics.random_orders(9, draws=0)
  with pytest.raises(ConfigError, match="expected hits"):
    metrics.image_interval(np.ones(3), np.mean)


def test_resampled_means_have_the_mean_and_the_standard_error_of_the_terms():
  terms = np.random.default_rng(0).random((3, 200)) < np.array([[0.2], [0.5], [0.9]])
  found = metrics.resampled_means(terms, draws=4000, seed=1)
  assert found.shape == (4000, 3)
  errors = terms.std(axis=1) / np.sqrt(200)
  # The standard error of the mean is errors / sqrt(4000), and of the deviation errors / sqrt(8000).
  np.testing.assert_array_less(np.abs(found.mean(axis=0) - terms.mean(axis=1)), 5 * errors / np.sqrt(4000))
  np.testing.assert_array_less(np.abs(found.std(axis=0) - errors), 5 * errors / np.sqrt(8000))
  # All checkpoints see the same images.
  both = metrics.resampled_means(np.stack([terms[0], ~terms[0]]), draws=10)
  np.testing.assert_allclose(both.sum(axis=1), 1)
  for draws, shape in ((0, (1, 3)), (5, (3,)), (5, (2, 0))):
    with pytest.raises(ConfigError, match="expected draws >= 1 and terms"):
      metrics.resampled_means(np.zeros(shape), draws=draws)


def test_first_shares_split_ties_and_ignore_what_is_missing():
  values = np.array([[3.0, 1.0, 2.0], [2.0, 2.0, 1.0], [np.nan, 1.0, 0.0], [1.0, 1.0 + 1e-15, 1.0]])
  np.testing.assert_allclose(
    metrics.first_shares(values), [(1 + 0.5 + 1 / 3) / 4, (0.5 + 1 + 1 / 3) / 4, 1 / 12]
  )
  np.testing.assert_array_equal(metrics.first_shares(np.full((2, 2), np.nan)), [0, 0])


def test_equal_checkpoints_share_the_first_place_and_better_ones_take_it():
  rng = np.random.default_rng(0)
  same = np.repeat(rng.random((1, 300)) < 0.7, 4, axis=0)
  np.testing.assert_allclose(metrics.first_shares(metrics.resampled_means(same, draws=50)), 0.25)
  # 10 points apart with independent images: 2.7 standard errors, first in 0.3 % or fewer by the normal law.
  better = np.stack([rng.permutation(300) < 210, rng.permutation(300) < 180])
  shares = metrics.first_shares(metrics.resampled_means(better, draws=2000))
  assert shares[0] > 0.97
