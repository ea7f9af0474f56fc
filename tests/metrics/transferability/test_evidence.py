"""LogME against the dense evidence, the published fixed point, and its limits."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxtl.metrics import transferability as t
from jaxtl.metrics.transferability import evidence
from tests.metrics.transferability.examples import (
  FEATURES,
  LABELS,
  WIDE,
  WIDE_LABELS,
  clusters,
  noise,
  rotation,
)


@pytest.mark.parametrize(("features", "labels"), [(FEATURES, LABELS), (WIDE, WIDE_LABELS)])
def test_the_evidence_is_that_of_the_gaussian_process(features, labels):
  found = t.log_evidence(t.statistics_of(features, labels))
  num = len(labels)
  for number, (value, alpha, beta) in enumerate(zip(found.value, found.alpha, found.beta)):
    covariance = np.eye(num) / beta + features @ features.T / alpha
    dense = multivariate_normal(np.zeros(num), covariance).logpdf((labels == number).astype(float)) / num
    assert value == pytest.approx(dense, abs=1e-12)


def fixed_point(features, target, steps=500):
  """The published iteration without its epsilons: alpha, beta."""
  u, s, _ = np.linalg.svd(features, full_matrices=False)
  s2 = s**2
  x2 = (u.T @ target) ** 2
  rest = target @ target - x2.sum()
  tau = 1.0
  for _ in range(steps):
    gamma = np.sum(s2 / (s2 + tau))
    alpha = gamma / np.sum(s2 * x2 / (s2 + tau) ** 2)
    beta = (len(target) - gamma) / (np.sum(x2 * (tau / (s2 + tau)) ** 2) + rest)
    tau = alpha / beta
  return alpha, beta


@pytest.mark.parametrize(("features", "labels"), [(FEATURES, LABELS), clusters(num=80, dim=6, classes=3)])
def test_the_optimum_is_the_published_fixed_point(features, labels):
  found = t.log_evidence(t.statistics_of(features, labels))
  for number in range(labels.max() + 1):
    expected = fixed_point(features, (labels == number).astype(float))
    np.testing.assert_allclose([found.alpha[number], found.beta[number]], expected, rtol=1e-4)


def test_the_optimum_beats_every_other_pair_of_precisions():
  features, labels = clusters(num=40, dim=5, classes=2)
  found = t.log_evidence(t.statistics_of(features, labels))
  target = (labels == 0).astype(float)
  rng = np.random.default_rng(0)
  for _ in range(50):
    alpha, beta = found.alpha[0] * np.exp(rng.normal()), found.beta[0] * np.exp(rng.normal())
    covariance = np.eye(40) / beta + features @ features.T / alpha
    assert multivariate_normal(np.zeros(40), covariance).logpdf(target) / 40 <= found.value[0] + 1e-12


def test_scale_rotation_and_zero_columns_change_nothing():
  features, labels = clusters(dim=6, classes=3)
  value = float(t.logme(t.statistics_of(features, labels)))
  for other in (1e3 * features, features @ rotation(6), np.pad(features, ((0, 0), (0, 4)))):
    assert float(t.logme(t.statistics_of(other, labels))) == pytest.approx(value, abs=1e-9)


def test_an_offset_is_an_intercept_in_disguise():
  """The reason to give raw features."""
  features, labels = clusters()
  raw, offset = (float(t.logme(t.statistics_of(x, labels))) for x in (features, features + 5))
  assert offset > raw + 0.01


def test_features_without_signal_take_the_floor():
  """Each class sum of these features is exactly 0."""
  features = np.array([[1.0, 2], [-1, -2], [3, 0], [-3, 0]])
  labels = np.array([0, 0, 1, 1])
  score = t.logme(t.statistics_of(features, labels))
  assert score.details["no_signal"] == 2
  assert float(score) == score.details["floor"] == pytest.approx(-0.5 * (np.log(np.pi) + 1))
  found = t.log_evidence(t.statistics_of(features, labels))
  np.testing.assert_array_equal(found.alpha, [np.inf, np.inf])
  np.testing.assert_allclose(found.beta, 2)
  zero = t.logme(t.statistics_of(np.zeros((4, 3)), labels))
  assert float(zero) == pytest.approx(score.details["floor"])


def test_features_that_hold_the_labels_interpolate():
  features = np.eye(2)[WIDE_LABELS]
  score = t.logme(t.statistics_of(features, WIDE_LABELS))
  assert score.details["interpolates"] == 2
  assert np.isfinite(float(score))
  assert float(score) > float(t.logme(t.statistics_of(WIDE, WIDE_LABELS)))


def test_noise_columns_lower_the_evidence():
  features, labels = clusters()
  with_noise = np.hstack([features, noise()])
  assert float(t.logme(t.statistics_of(with_noise, labels))) < float(
    t.logme(t.statistics_of(features, labels))
  )


def test_golden_section_finds_the_maxima_of_all_classes():
  """Against a grid of 20,001 points around each."""
  problem = evidence._problem(t.statistics_of(*clusters(dim=6, classes=3)))
  found = evidence._maximise(problem)
  fine = found + np.linspace(-5, 5, 20_001)[:, None]
  at = np.array([problem.evidence(log_tau) for log_tau in fine])
  np.testing.assert_allclose(found, fine[at.argmax(axis=0), np.arange(3)], atol=1e-3)
  assert np.all(problem.evidence(found) >= at.max(axis=0) - 1e-14)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize(("num", "dim"), [(60, 5), (20, 40)])
def test_features_far_from_zero_have_the_evidence_of_their_singular_values(num, dim, offset):
  """The direct form with the singular values of the features, which are not centred."""
  features, labels = clusters(num=num, dim=dim, classes=3, spread=2)
  features += offset
  found = t.log_evidence(t.statistics_of(features, labels))
  u, s, _ = np.linalg.svd(features, full_matrices=False)
  for number in range(3):
    target = (labels == number).astype(float)
    x2 = (u.T @ target) ** 2
    tau = found.alpha[number] / found.beta[number]
    # With fewer images than features, the target is in their span.
    rest = target @ target - x2.sum() if num > dim else 0
    residual = np.sum(x2 * tau / (s**2 + tau)) + rest
    expected = -0.5 * (np.log(2 * np.pi * residual / num) + 1 + np.log1p(s**2 / tau).sum() / num)
    assert found.value[number] == pytest.approx(expected, abs=1e-9)
    assert found.beta[number] == pytest.approx(num / residual, rel=1e-7)
