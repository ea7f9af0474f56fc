"""Agreement of a score with measured accuracies, against SciPy, worked values and a published benchmark."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxtl import metrics
from jaxtl.errors import ConfigError
from jaxtl.metrics import RankingError


def pairs_with_ties(count=60, seed=0):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    num = rng.integers(3, 12)
    yield rng.integers(0, 5, num).astype(float), rng.integers(0, 5, num) / 10


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (metrics.weighted_tau, scipy.stats.weightedtau),
    (metrics.kendall_tau, scipy.stats.kendalltau),
    (metrics.spearman, scipy.stats.spearmanr),
    (metrics.pearson, scipy.stats.pearsonr),
  ],
)
@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_correlations_are_scipy_s_with_ties(ours, theirs):
  for scores, accuracies in pairs_with_ties():
    if np.ptp(scores) and np.ptp(accuracies):
      assert float(ours(scores, accuracies)) == pytest.approx(theirs(scores, accuracies)[0], abs=1e-12)
    else:
      assert np.isnan(ours(scores, accuracies))


def test_weighted_tau_has_its_worked_value():
  scores, accuracies = np.array([4, 1, 3, 2]), np.array([0.9, 0.2, 0.5, 0.6])
  assert float(metrics.weighted_tau(scores, accuracies)) == pytest.approx(0.733333, abs=1e-6)
  assert float(metrics.kendall_tau(scores, accuracies)) == pytest.approx(0.666667, abs=1e-6)


@pytest.mark.parametrize(
  "measure", [metrics.weighted_tau, metrics.kendall_tau, metrics.spearman, metrics.pearson]
)
def test_many_orders_at_once_are_one_after_the_other(measure):
  rng = np.random.default_rng(0)
  scores, accuracies = rng.integers(0, 4, (5, 3, 8)).astype(float), rng.random(8)
  found = measure(scores, accuracies)
  assert found.shape == (5, 3)
  for index in np.ndindex(5, 3):
    assert found[index] == pytest.approx(float(measure(scores[index], accuracies)), nan_ok=True)


def test_the_top_of_the_order_weighs_most():
  accuracies = np.arange(6.0)
  top, bottom = np.array([0, 1, 2, 3, 5, 4.0]), np.array([1, 0, 2, 3, 4, 5.0])
  assert metrics.weighted_tau(top, accuracies) < metrics.weighted_tau(bottom, accuracies) < 1
  assert metrics.kendall_tau(top, accuracies) == metrics.kendall_tau(bottom, accuracies)


def test_a_partial_correlation_is_that_of_least_squares_residuals():
  rng = np.random.default_rng(0)
  given = rng.random(12)
  scores, accuracies = given + 0.5 * rng.random(12), given + 0.5 * rng.random(12)
  design = np.stack([np.ones(12), scipy.stats.rankdata(given)], axis=1)
  residuals = []
  for values in (scores, accuracies):
    ranks = scipy.stats.rankdata(values)
    residuals.append(np.round(ranks - design @ np.linalg.lstsq(design, ranks)[0], 9))
  expected = scipy.stats.spearmanr(*residuals).statistic
  assert metrics.partial_spearman(scores, accuracies, given) == pytest.approx(expected, abs=1e-12)


def test_a_score_that_repeats_what_is_known_adds_nothing():
  given = np.array([0.1, 0.5, 0.3, 0.9, 0.7])
  accuracies = np.array([0.2, 0.5, 0.6, 0.8, 0.7])
  assert np.isnan(metrics.partial_spearman(10 * given, accuracies, given))
  assert metrics.partial_spearman(accuracies, accuracies, given) == pytest.approx(1)


def test_regret_is_the_loss_of_the_top_scored_and_ties_are_averaged():
  accuracies = np.array([70.0, 80.0, 90.0, 60.0])
  assert metrics.regret(np.array([1, 2, 3, 0]), accuracies) == 0
  assert metrics.regret(np.array([9, 2, 3, 0]), accuracies) == 20
  assert metrics.regret(np.array([5, 5, 1, 0]), accuracies) == 15
  assert metrics.regret(np.zeros(4), accuracies) == pytest.approx(90 - accuracies.mean())
  assert metrics.normalized_regret(np.zeros(4), accuracies) == pytest.approx(1)
  assert metrics.normalized_regret(accuracies, accuracies) == 0
  assert metrics.normalized_regret(accuracies, np.ones(4)) == 0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_regret_of_several_tries_is_the_mean_over_all_ways_to_break_ties(k):
  scores, accuracies = np.array([3, 1, 1, 2, 1, 1, 3.0]), np.array([5, 7, 1, 2, 8, 6, 3.0])
  tries = []
  for order in itertools.permutations(range(7)):
    if list(scores[list(order)]) == sorted(scores, reverse=True):
      tries.append(accuracies.max() - accuracies[list(order[:k])].max())
  assert metrics.regret(scores, accuracies, k=k) == pytest.approx(np.mean(tries))


def test_groups_are_judged_one_by_one():
  """Across two sizes the order is perfect; within each it is reversed."""
  scores = np.array([4, 3, 2, 1, 14, 13, 12, 11.0])
  accuracies = np.array([1, 2, 3, 4, 11, 12, 13, 14.0])
  groups = np.array(["small"] * 4 + ["large"] * 4)
  assert metrics.spearman(scores, accuracies) > 0.5
  assert metrics.within_groups(scores, accuracies, groups, measure=metrics.kendall_tau) == -1
  with pytest.raises(RankingError, match="no group has 5 checkpoints; the largest has 4"):
    metrics.within_groups(scores, accuracies, groups, least=5)


def test_missing_scores_leave_their_checkpoint_out():
  scores = np.array([[1, 2, np.nan, 3], [1, np.nan, np.nan, np.nan]])
  accuracies = np.array([[0.1, 0.2, 0.9, 0.3], [0.1, 0.2, 0.3, np.nan]])
  assert metrics.mean_agreement(scores, accuracies) == pytest.approx(1)
  assert metrics.mean_agreement(np.ones(4), accuracies) == 0
  with pytest.raises(RankingError, match="no target"):
    metrics.mean_agreement(np.full(4, np.nan), accuracies)


def test_the_mean_of_others_skips_the_target_itself():
  accuracies = np.array([[1, 2], [3, np.nan], [5, 6.0]])
  np.testing.assert_allclose(metrics.mean_of_others(accuracies), [[4, 6], [3, 4], [2, 2]])


def test_stability_is_the_agreement_between_targets():
  same = np.array([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4], [0, 1, 2.0]])
  assert metrics.setup_stability(same) == pytest.approx(1)
  assert metrics.setup_stability(np.array([same[0], -same[0]])) == pytest.approx(-1)
  # tau of orders 1 and 2, 1 and 3, 2 and 3: 1/3, -1, -1/3
  assert metrics.setup_stability(np.array([[1, 2, 3], [1, 3, 2], [3, 2, 1.0]])) == pytest.approx(-1 / 3)


def test_points_are_predicted_for_a_target_that_was_left_out():
  """Accuracies are a line in the standardised score, with the same intercept: the prediction is exact."""
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(4, 9)) * np.array([[1], [2], [30], [0.1]]) + np.array([[0], [5], [1], [9]])
  z = (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)
  exact = metrics.predict_accuracies(scores, 70 + 3 * z)
  assert exact.slope == pytest.approx(3)
  assert exact.intercept == pytest.approx(70)
  assert exact.median_error == pytest.approx(0, abs=1e-9)
  noisy = metrics.predict_accuracies(scores, 70 + 3 * z + rng.normal(size=(4, 9)))
  others = (70 + 3 * z).mean()  # the left-out target's own accuracies are not used
  assert noisy.predicted.mean(axis=1) == pytest.approx(np.full(4, others), abs=2)
  assert 0.2 < noisy.median_error < 2


def test_accuracies_of_the_left_out_target_are_not_seen():
  rng = np.random.default_rng(1)
  scores, accuracies = rng.normal(size=(5, 8)), rng.random((5, 8))
  changed = accuracies.copy()
  changed[2] += rng.normal(size=8)
  before, after = (metrics.predict_accuracies(scores, a).predicted for a in (accuracies, changed))
  np.testing.assert_array_equal(before[2], after[2])
  assert not np.allclose(before[0], after[0])


@pytest.mark.parametrize("shape", [(3, 8), (4, 7)])
def test_points_need_enough_targets_and_checkpoints(shape):
  values = np.random.default_rng(0).random(shape)
  with pytest.raises(RankingError, match="4 targets and 8 checkpoints"):
    metrics.predict_accuracies(values, values)


@pytest.mark.parametrize(
  ("scores", "accuracies", "message"),
  [
    ([1.0], [1.0], "at least 2 checkpoints, got 1"),
    ([1.0, np.nan], [1.0, 2.0], "not finite"),
    ([1.0, 2.0, 3.0], [1.0, 2.0], "same checkpoints"),
  ],
)
def test_what_has_no_order_is_refused(scores, accuracies, message):
  for measure in (metrics.weighted_tau, metrics.kendall_tau, metrics.spearman, metrics.pearson):
    with pytest.raises(RankingError, match=message):
      measure(np.array(scores), np.array(accuracies))


def test_k_is_positive():
  with pytest.raises(ConfigError, match="positive k, got 0"):
    metrics.regret(np.arange(3), np.arange(3), k=0)


# Fine-tuned accuracies of 11 torchvision networks on 11 sets, as released with Shao et al., 2022, arXiv
# 2207.03036, and torchvision's published ImageNet top-1 accuracies and parameter counts.
# In the order resnet34, 50, 101, 152, densenet121, 169, 201, mnasnet1_0, mobilenet_v2,
# googlenet, inception_v3
TOP1 = [73.314, 76.130, 77.374, 78.312, 74.434, 75.600, 76.896, 73.456, 71.878, 69.778, 77.294]
MILLIONS = [21.798, 25.557, 44.549, 60.193, 7.979, 14.149, 20.014, 4.383, 3.505, 6.625, 27.161]
FINE_TUNED = {
  "aircraft": [84.06, 84.64, 85.53, 86.29, 84.66, 84.19, 85.38, 66.48, 79.68, 80.32, 80.15],
  "caltech101": [91.15, 91.98, 92.38, 93.1, 91.5, 92.51, 93.14, 89.34, 88.64, 90.85, 92.75],
  "cars": [88.63, 89.09, 89.47, 89.88, 89.34, 89.02, 89.44, 72.58, 86.44, 87.76, 87.74],
  "cifar10": [96.12, 96.28, 97.39, 97.53, 96.45, 96.77, 97.02, 92.59, 94.74, 95.54, 96.18],
  "cifar100": [81.94, 82.8, 84.88, 85.66, 82.75, 84.26, 84.88, 72.04, 78.11, 79.84, 81.49],
  "dtd": [72.96, 74.72, 74.8, 76.44, 74.18, 74.72, 76.04, 70.12, 71.72, 72.53, 72.85],
  "flowers": [95.2, 96.26, 96.53, 96.86, 97.02, 97.32, 97.1, 95.39, 96.2, 95.76, 95.73],
  "food": [81.99, 84.45, 85.58, 86.28, 84.99, 85.84, 86.71, 71.35, 81.12, 79.3, 81.76],
  "pets": [93.5, 93.88, 93.92, 94.42, 93.07, 93.62, 94.03, 91.08, 91.28, 91.38, 92.14],
  "sun397": [61.02, 63.54, 63.76, 64.82, 63.26, 64.1, 64.57, 56.56, 60.29, 59.89, 59.98],
  "voc2007": [84.6, 85.8, 85.68, 86.32, 85.28, 85.77, 85.67, 81.06, 82.8, 82.58, 83.84],
}
BASELINES = {
  "source_accuracy": (
    [0.732, 0.630, 0.732, 0.775, 0.759, 0.736, 0.252, 0.540, 0.725, 0.666, 0.649],
    0.654,
  ),
  "num_parameters": (
    [0.671, 0.536, 0.671, 0.716, 0.697, 0.666, 0.102, 0.409, 0.694, 0.566, 0.634],
    0.578,
  ),
  "mean_of_others": (
    [0.847, 0.712, 0.847, 0.903, 0.986, 0.993, 0.480, 0.824, 0.950, 0.932, 0.731],
    0.837,
  ),
}


@pytest.mark.parametrize("name", BASELINES)
def test_static_baselines_beat_most_estimators_on_the_published_benchmark(name):
  """The published means are LEEP .410, PARC .467, LogME .509, N-LEEP .611, SFDA .710."""
  accuracies = np.array(list(FINE_TUNED.values()))
  scores = {
    "source_accuracy": np.broadcast_to(TOP1, accuracies.shape),
    "num_parameters": np.broadcast_to(MILLIONS, accuracies.shape),
    "mean_of_others": metrics.mean_of_others(accuracies),
  }[name]
  by_target, mean = BASELINES[name]
  np.testing.assert_allclose(metrics.weighted_tau(scores, accuracies), by_target, atol=1e-3)
  assert metrics.mean_agreement(scores, accuracies) == pytest.approx(mean, abs=1e-3)


def test_the_best_source_accuracy_loses_little_on_the_published_benchmark():
  accuracies = np.array(list(FINE_TUNED.values()))
  lost = [metrics.regret(np.array(TOP1), row) for row in accuracies]
  assert np.mean(lost) == pytest.approx(0.085, abs=1e-3)
  assert max(lost) == pytest.approx(0.46, abs=1e-6)
