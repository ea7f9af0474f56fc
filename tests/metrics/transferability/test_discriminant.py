"""SFDA: scikit-learn's discriminant twice, and what its score cannot do."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jaxtl.metrics import transferability as t
from jaxtl.metrics.transferability import discriminant
from tests.metrics.transferability.examples import clusters, noise, rotation


def posteriors(features, labels, a):
  """scikit-learn's decision rule, with the coefficients of the shrunken pooled covariance."""
  count = np.bincount(labels)
  means = np.stack([features[labels == c].mean(axis=0) for c in range(len(count))])
  within = (features - means[labels]).T @ (features - means[labels]) / len(labels)
  dim = features.shape[1]
  within = (1 - a) * within + a * np.trace(within) / dim * np.eye(dim)
  model = LinearDiscriminantAnalysis(solver="lsqr").fit(features, labels)
  model.coef_ = np.linalg.solve(within, means.T).T
  model.intercept_ = -0.5 * np.diag(means @ model.coef_.T) + np.log(count / count.sum())
  return model.predict_proba(features)


@pytest.mark.parametrize(("num", "dim"), [(120, 6), (40, 60)])
def test_the_score_is_two_discriminants(num, dim):
  features, labels = clusters(num=num, dim=dim, classes=4, spread=0.6)
  features = 0.5 * features
  before = features.copy()
  score = t.sfda(features, labels)
  np.testing.assert_array_equal(features, before)
  a = score.details["shrinkage"]
  means = np.stack([features[labels == c].mean(axis=0) for c in range(4)])
  within = (features - means[labels]).T @ (features - means[labels]) / num
  assert a == pytest.approx(np.exp(-5 * np.linalg.eigvalsh(within)[-1]), rel=1e-9)
  shares = np.exp(posteriors(features, labels, a))
  shares /= shares.sum(axis=1, keepdims=True)
  keep = shares[np.arange(num), labels][:, None]
  mixed = keep * features + (1 - keep) * ((means.sum(axis=0) - means) / 3)[labels]
  second = posteriors(mixed, labels, a)[np.arange(num), labels]
  assert float(score) == pytest.approx(second.mean(), rel=1e-6)
  assert score.details["mixing"] == pytest.approx(keep.mean(), rel=1e-6)


def test_the_pooled_discriminant_is_scikit_learn_s():
  """With its own covariance: no shrinkage, pooled with the class shares."""
  features, labels = clusters(num=90, dim=5, classes=3)
  model = LinearDiscriminantAnalysis(solver="lsqr").fit(features, labels)
  found = t.discriminant_posteriors(features, labels, shrinkage=0.0)
  np.testing.assert_allclose(found, model.predict_proba(features), atol=1e-10)


def test_woodbury_is_the_dense_solution():
  features, labels = clusters(num=40, dim=60, classes=4)
  statistics = t.statistics_of(features, labels)
  within = statistics.within
  found = discriminant._solve_within(features - statistics.mean, labels, statistics.deviations, within, 0.01)
  dense = 0.99 * within + 0.01 * np.trace(within) / 60 * np.eye(60)
  np.testing.assert_allclose(found, np.linalg.solve(dense, statistics.deviations.T), rtol=1e-8, atol=1e-10)


def test_lanczos_finds_the_eigenvalue_of_a_wide_matrix():
  features, labels = clusters(dim=300)
  within = t.statistics_of(features, labels).within
  assert discriminant._largest_eigenvalue(within) == pytest.approx(np.linalg.eigvalsh(within)[-1], rel=1e-9)


def test_rotation_and_shift_change_nothing_and_scale_does():
  features, labels = clusters(spread=0.3)
  features = 0.4 * features
  value = float(t.sfda(features, labels))
  for other in (features @ rotation(32), features + 5):
    assert float(t.sfda(other, labels)) == pytest.approx(value, rel=1e-8)
  assert t.sfda(0.1 * features, labels).details["shrinkage"] > t.sfda(features, labels).details["shrinkage"]


def test_noise_columns_raise_it_so_it_is_marked_optimistic():
  features, labels = clusters(spread=0.5)
  plain, noisy = t.sfda(features, labels), t.sfda(np.hstack([features, noise()]), labels)
  assert float(noisy) > float(plain)
  assert plain.details["optimistic"]


def test_classes_without_spread_are_refused():
  labels = np.array([0, 0, 1, 1])
  with pytest.raises(t.ScoreError, match="divides by their spread"):
    t.sfda(np.eye(2)[labels], labels)


def test_repeated_columns_are_harmless():
  """W is singular, and its ridge is at the lower bound of 1e-10."""
  features, labels = clusters(num=200, dim=8, classes=4, spread=0.5)
  features = 5 * features
  score = t.sfda(np.hstack([features] * 6), labels)
  assert score.details["shrinkage"] == 1e-10
  assert float(score) == pytest.approx(float(t.sfda(features, labels)), abs=1e-4)
