"""N-LEEP and its mixture: limits, scikit-learn's likelihood, and seeds."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters


def entropy(labels):
  share = np.bincount(labels) / len(labels)
  return -np.sum(share * np.log(share))


def test_far_clusters_are_perfect_and_one_component_knows_nothing():
  features, labels = clusters(num=200, dim=4, classes=4, spread=200)
  assert float(t.n_leep(features, labels)) == pytest.approx(0, abs=1e-6)
  assert float(t.n_leep(features, labels, components=1)) == pytest.approx(-entropy(labels))


def test_the_better_separated_features_score_higher():
  near, far = (clusters(num=300, dim=6, classes=4, spread=spread) for spread in (0.3, 1.5))
  assert float(t.n_leep(*near)) < float(t.n_leep(*far)) - 0.2
  permuted = np.random.default_rng(0).permutation(far[1])
  assert float(t.n_leep(far[0], permuted)) < float(t.n_leep(*far)) - 0.2


@pytest.mark.parametrize("components", [1, 2, 4])
def test_the_mixture_fits_as_well_as_scikit_learn_s(components):
  """Our k-means++ start against the best of 10 of theirs, on clusters that all runs find."""
  x, _ = clusters(num=300, dim=3, classes=4, spread=8)
  fits = [t.fit_mixture(x, components=components, seed=seed, tolerance=1e-9) for seed in range(5)]
  best = max(np.mean(np.logaddexp.reduce(fit.log_joint(x), axis=1)) for fit in fits)
  peer = GaussianMixture(components, covariance_type="diag", n_init=10, random_state=0).fit(x)
  assert best == pytest.approx(peer.score(x), abs=0.02)


def test_the_likelihood_is_a_gaussian_density():
  x, _ = clusters(num=50, dim=2)
  fit = t.fit_mixture(x, components=1)
  variance = x.var(axis=0)
  expected = -0.5 * np.sum((x - x.mean(axis=0)) ** 2 / variance + np.log(2 * np.pi * variance), axis=1)
  np.testing.assert_allclose(fit.log_joint(x)[:, 0], expected, rtol=1e-9)


def test_more_steps_fit_better():
  x, _ = clusters(num=300, dim=3, classes=4, spread=1)
  values = [
    np.mean(
      np.logaddexp.reduce(t.fit_mixture(x, components=8, max_steps=n, tolerance=0).log_joint(x), axis=1)
    )
    for n in (1, 5, 30)
  ]
  assert values == sorted(values)
  assert values[0] < values[2]


def test_options_change_the_mixture():
  features, labels = clusters(num=120, dim=20, classes=3, spread=0.5)
  score = t.n_leep(features, labels)
  assert score.details["components"] == 15
  values, _ = t.statistics_of(features, labels).spectrum
  shares = np.cumsum(values[::-1]) / values.sum()
  axes = score.details["axes"]
  assert shares[axes - 2] < 0.8 <= shares[axes - 1]
  assert t.n_leep(features, labels, variance=1.0).details["axes"] == 20
  assert t.n_leep(features[:30], labels[:30]).details["components"] == 6
  assert float(score) == float(t.n_leep(features, labels))
  assert float(score) != float(t.n_leep(features, labels, seeds=(3, 4, 5)))
  assert score.standard_error > 0
  assert np.isnan(t.n_leep(features, labels, seeds=(0,)).standard_error)


def test_more_components_than_distinct_images_are_harmless():
  features = np.repeat(np.eye(3), 4, axis=0)
  labels = np.repeat([0, 1, 2], 4)
  assert float(t.n_leep(features, labels, components=12)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("options", [{"components": 0}, {"variance": 0.0}, {"variance": 1.1}, {"seeds": ()}])
def test_bad_options_are_refused(options):
  with pytest.raises(ConfigError, match="expected a variance"):
    t.n_leep(*clusters(num=40), **options)
