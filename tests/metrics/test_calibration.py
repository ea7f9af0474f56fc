"""The calibration error against its definition, spelled out bin by bin, and against closed cases."""

import numpy as np
import pytest

from jaxtl.metrics import confidence_bins, expected_calibration_error, fit_temperature


def by_definition(confidence, correct, num_bins):
  """One bin after the other, in exact fractions of the axis, without numpy's binning."""
  total = 0.0
  for number in range(num_bins):
    low, high = number / num_bins, (number + 1) / num_bins
    members = [
      (c, right) for c, right in zip(confidence, correct) if low < c <= high or (number == 0 and c == 0)
    ]
    if members:
      accuracy = sum(right for _, right in members) / len(members)
      mean = sum(c for c, _ in members) / len(members)
      total += len(members) / len(confidence) * abs(accuracy - mean)
  return total


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15, 100])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_definition(num_bins, seed):
  rng = np.random.default_rng(seed)
  confidence = np.concatenate([rng.beta(4, 1, 300), np.arange(num_bins + 1) / num_bins])
  correct = rng.random(len(confidence)) < confidence**2
  found = expected_calibration_error(confidence, correct, num_bins=num_bins)
  assert found == pytest.approx(by_definition(confidence, correct, num_bins), abs=1e-12)


def test_confident_and_always_right_is_zero_and_always_wrong_is_one():
  sure = np.ones(20, np.float32)
  assert expected_calibration_error(sure, np.ones(20, bool)) == 0
  assert expected_calibration_error(sure, np.zeros(20, bool)) == 1


def test_right_as_often_as_it_says_is_zero():
  confidence = np.repeat([0.25, 0.75], [8, 8])
  correct = np.repeat([True, False, True, False], [2, 6, 6, 2])
  assert expected_calibration_error(confidence, correct) == pytest.approx(0)


def test_over_and_under_confidence_cancel_inside_one_bin_only():
  confidence, correct = np.array([0.9, 0.6]), np.array([False, True])
  assert expected_calibration_error(confidence, correct, num_bins=1) == pytest.approx(0.25)
  assert expected_calibration_error(confidence, correct, num_bins=15) == pytest.approx((0.9 + 0.4) / 2)


def test_a_bin_has_its_upper_edge():
  bins = confidence_bins(np.array([0.0, 0.5, 0.5001, 1.0]), np.array([1, 0, 1, 1]), num_bins=2)
  np.testing.assert_array_equal(bins.counts, [2, 2])
  np.testing.assert_allclose(bins.accuracy, [0.5, 1.0])
  np.testing.assert_allclose(bins.confidence, [0.25, 0.75005])


def test_what_is_empty_is_nan():
  assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0)))
  assert np.isnan(confidence_bins(np.array([0.9]), np.array([True]), num_bins=2).accuracy[0])


@pytest.mark.parametrize(("confidence", "num_bins"), [([np.nan], 15), ([1.1], 15), ([-0.1], 15), ([0.5], 0)])
def test_what_is_no_probability_is_refused(confidence, num_bins):
  with pytest.raises(ValueError, match=r"expected at least 1|not in"):
    expected_calibration_error(np.array(confidence), np.array([True]), num_bins=num_bins)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_a_calibrated_model_is_found(temperature):
  """Labels drawn from the model itself: the logits times T need T, up to the draw."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(20_000, 5)) * 2
  shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  labels = (rng.random((20_000, 1)) > shares.cumsum(axis=1)).sum(axis=1)
  assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.04)


def test_the_slope_is_zero_at_the_temperature():
  rng = np.random.default_rng(1)
  logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
  logits[np.arange(50), labels] += 1.5

  def loss(temperature):
    z = logits / temperature
    return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(50), labels])

  best = fit_temperature(logits, labels)
  assert loss(best) <= min(loss(best * 1.01), loss(best / 1.01))
  assert (loss(best * 1.001) - loss(best / 1.001)) == pytest.approx(0, abs=1e-9)


def test_two_examples_have_a_closed_form():
  """One right and one wrong of three by the same lead d: the share of right ones is 2/3 at T = d / ln 2."""
  logits = np.array([[2.0, 0.0]] * 3)
  assert fit_temperature(logits, np.array([0, 0, 1])) == pytest.approx(2 / np.log(2), rel=1e-9)


def test_a_minimum_beyond_the_range_is_its_end():
  logits = np.array([[1.0, 0.0], [0.0, 1.0]])
  assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(1e-2)  # all right: the surer the better
  assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(
    1e2
  )  # all wrong: the less sure the better


@pytest.mark.parametrize(
  ("logits", "labels"), [(np.zeros((0, 3)), []), (np.zeros((2, 3)), [0]), (np.full((1, 2), np.nan), [0])]
)
def test_logits_without_a_temperature_are_refused(logits, labels):
  with pytest.raises(ValueError, match=r"expected|not finite"):
    fit_temperature(logits, np.array(labels, int))
