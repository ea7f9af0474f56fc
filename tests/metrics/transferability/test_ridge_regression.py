"""Ridge on folds against refits, from images and from moments, with its chance level."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from jaxtl import metrics
from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from jaxtl.metrics.transferability import ridge_regression as module
from tests.metrics.transferability.examples import clusters, noise


def by_refits(features, labels, penalties=module.PENALTIES, seed=0):
  """Fits scikit-learn's ridge regression to each part: hits [P, N], squared errors [P]."""
  folds = t.stratified_folds(labels, seed=seed)
  onehot = np.eye(labels.max() + 1)[labels]
  hits, errors = np.zeros((len(penalties), len(labels)), bool), np.zeros(len(penalties))
  for fold in np.unique(folds):
    rows = folds == fold
    train = features[~rows]
    scale = np.sum((train - train.mean(axis=0)) ** 2) / features.shape[1]
    for number, penalty in enumerate(penalties):
      model = Ridge(alpha=penalty * scale, solver="svd").fit(train, onehot[~rows])
      predicted = model.predict(features[rows])
      hits[number, rows] = predicted.argmax(axis=1) == labels[rows]
      errors[number] += np.sum((predicted - onehot[rows]) ** 2)
  return hits, errors


# Folds of 20 images: below and above the number of features, with 100 images also below it in training
@pytest.mark.parametrize("dim", [5, 19, 30, 120])
def test_it_is_that_of_refits(dim):
  features, labels = clusters(num=100, dim=dim, classes=4, spread=0.5)
  hits, errors = by_refits(features + 2, labels)
  score = t.ridge(features + 2, labels)
  best = errors.argmin()
  assert score.details["penalty"] == pytest.approx(module.PENALTIES[best])
  assert score.details["squared_error"] == pytest.approx(errors[best] / 100, rel=1e-8)
  np.testing.assert_array_equal(score.per_example, hits[best])
  assert float(score) == hits[best].mean()


@pytest.mark.parametrize("dim", [5, 30, 120])
def test_moments_alone_choose_the_penalty(dim):
  features, labels = clusters(num=100, dim=dim, classes=4, spread=0.5)
  folds = t.stratified_folds(labels)
  fits = t.fit_ridge_folds(metrics.moments_of(features, labels, folds=folds))
  hits, errors = by_refits(features, labels)
  np.testing.assert_allclose(fits.squared_error, errors, rtol=1e-8)
  found = [
    t.ridge_hits(fits, features[i : i + 7], labels[i : i + 7], folds[i : i + 7]) for i in range(0, 100, 7)
  ]
  np.testing.assert_array_equal(np.concatenate(found), hits[errors.argmin()])


def test_the_penalties_are_those_that_are_given():
  features, labels = clusters(num=100, dim=30, classes=4, spread=0.5)
  scores = {penalty: t.ridge(features, labels, penalties=(penalty,)) for penalty in (1e-4, 1.0, 100.0)}
  both = t.ridge(features, labels, penalties=tuple(scores))
  errors = {penalty: score.details["squared_error"] for penalty, score in scores.items()}
  assert len(set(errors.values())) == 3
  assert both.details["penalty"] == min(errors, key=errors.get)


def test_statistics_of_another_score_are_reused():
  features, labels = clusters(num=100, dim=30, classes=4, spread=0.5)
  statistics = t.statistics_of(features, labels)
  assert float(t.ridge(features, labels, statistics=statistics)) == float(t.ridge(features, labels))
  assert "spectrum" in statistics.__dict__
  with pytest.raises(ConfigError, match="of 100 images and 30 features"):
    t.ridge(features[:90], labels[:90], statistics=statistics)


def test_statistics_that_are_too_inexact_are_computed_again():
  """Far too small eigenvalues leave equations that are not positive definite."""
  features, labels = clusters(num=100, dim=30, classes=4, spread=0.5)
  statistics = t.statistics_of(features, labels)
  values, vectors = statistics.spectrum
  statistics.__dict__["spectrum"] = (values / 10, vectors)
  assert float(t.ridge(features, labels, statistics=statistics)) == float(t.ridge(features, labels))


@pytest.mark.parametrize("dim", [8, 200])
def test_permuted_labels_have_the_chance_level(dim):
  """Within 4 standard errors: false alarm 6e-5 for each of 10."""
  features, labels = clusters(num=400, dim=dim)
  error = np.sqrt(1 / 8 * 7 / 8 / 400)
  for seed in range(5):
    permuted = np.random.default_rng(seed).permutation(labels)
    assert abs(float(t.ridge(features, permuted)) - 1 / 8) < 4 * error


def test_noise_columns_cost_little_and_scale_nothing():
  features, labels = clusters()
  plain = float(t.ridge(features, labels))
  noisy = float(t.ridge(np.hstack([features, noise()]), labels))
  assert plain > 0.97
  assert plain - 0.05 < noisy <= plain + 0.01
  for other in (1e-6 * features, 10 * features + 5):
    assert float(t.ridge(other, labels)) == plain


def test_balanced_accuracy_is_reported_for_unbalanced_classes():
  features, labels = clusters(num=400, dim=6, classes=8, spread=0.3)
  unbalanced = np.where(labels < 7, 0, 1)
  score = t.ridge(features, unbalanced)
  shares = [score.per_example[unbalanced == c].mean() for c in (0, 1)]
  assert score.details["balanced_accuracy"] == pytest.approx(np.mean(shares))
  assert score.details["balanced_accuracy"] < float(score)
  assert t.ridge(features, labels).details["balanced_accuracy"] is None


@pytest.mark.parametrize("dim", [3, 30])
def test_a_class_of_one_image_is_a_miss_and_never_predicted(dim):
  features, labels = clusters(num=60, dim=dim, classes=3)
  labels[0] = 9
  score = t.ridge(features, labels)
  assert not score.per_example[0]
  assert float(score) > 0.5
  with pytest.raises(t.ScoreError, match="class with 2 images"):
    t.ridge(features[:4], np.arange(4))


def test_the_head_is_the_fit_to_all_images():
  features, labels = clusters(num=100, dim=5, classes=4)
  head = t.ridge_head(t.statistics_of(features, labels), penalty=0.1)
  scale = np.sum((features - features.mean(axis=0)) ** 2) / 5
  model = Ridge(alpha=0.1 * scale).fit(features, np.eye(4)[labels])
  np.testing.assert_allclose(head["kernel"], model.coef_.T, rtol=1e-8)
  np.testing.assert_allclose(head["bias"], model.intercept_, rtol=1e-8)


def test_bad_options_are_refused():
  features, labels = clusters(num=40)
  for penalties in ((), (0.0,), (-1.0, 1.0), (1e-12,)):
    with pytest.raises(ConfigError, match="penalties of at least 1e-08"):
      t.ridge(features, labels, penalties=penalties)
  with pytest.raises(ConfigError, match="at least 2 folds"):
    t.ridge(features, labels, num_folds=1)
  with pytest.raises(ConfigError, match="moments by fold"):
    t.fit_ridge_folds(metrics.moments_of(features, labels))


@pytest.mark.parametrize("dim", [5, 30])
def test_the_least_penalty_is_solved_for_repeated_columns(dim):
  features, labels = clusters(num=100, dim=dim, classes=4, spread=0.5)
  score = t.ridge(np.hstack([features] * 3), labels, penalties=(1e-8,))
  # Three copies of a column share its weight, so that the penalty counts a third of it.
  assert float(score) == pytest.approx(float(t.ridge(features, labels, penalties=(1e-8,))), abs=0.02)
