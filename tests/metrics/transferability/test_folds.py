"""Stratified samples and folds, and cross-validation with any classifier."""

import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxtl import optim
from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters


def test_a_sample_has_the_shares_of_the_data():
  labels = np.repeat([0, 1, 2], [500, 300, 200])
  chosen = t.stratified_sample(labels, max_examples=100)
  np.testing.assert_array_equal(np.bincount(labels[chosen]), [50, 30, 20])
  assert len(np.unique(chosen)) == 100
  assert np.all(np.diff(chosen) > 0)
  np.testing.assert_array_equal(t.stratified_sample(labels, max_examples=1000), np.arange(1000))
  assert not np.array_equal(chosen, t.stratified_sample(labels, max_examples=100, seed=1))


def test_the_largest_remainders_are_rounded_up():
  """Quotas of 7 are 3.5, 2.1, 1.4: 3, 2, 1 and one more for the first."""
  labels = np.repeat([3, 5, 9], [5, 3, 2])
  assert np.bincount(labels[t.stratified_sample(labels, max_examples=7)]).tolist() == [
    0,
    0,
    0,
    4,
    0,
    2,
    0,
    0,
    0,
    1,
  ]


def test_folds_differ_by_one_image_of_a_class():
  labels = np.random.default_rng(0).integers(0, 7, 200)
  folds = t.stratified_folds(labels, num_folds=5)
  for number in range(7):
    sizes = np.bincount(folds[labels == number], minlength=5)
    assert sizes.max() - sizes.min() <= 1
  assert not np.array_equal(folds, t.stratified_folds(labels, seed=1))


@pytest.mark.parametrize(
  "call", [lambda y: t.stratified_folds(y, num_folds=1), lambda y: t.stratified_sample(y, max_examples=0)]
)
def test_a_part_needs_images(call):
  with pytest.raises(ConfigError, match="expected"):
    call(np.arange(4) % 2)


def test_each_image_is_judged_by_a_fit_without_it():
  features, labels = clusters(num=50, dim=2, classes=2)
  seen = []

  def fit(x, y, num_classes):
    seen.append(x)
    assert num_classes == 2

    def predict(other):
      assert not (set(map(tuple, other)) & set(map(tuple, x)))
      return np.zeros((len(other), 2))

    return predict

  score = t.cross_validate(features, labels, fit=fit)
  assert len(seen) == 5
  assert float(score) == pytest.approx(0.5)
  assert score.details["cross_entropy"] == pytest.approx(np.log(2))


def test_the_probe_of_the_library_agrees_with_scikit_learn():
  features, labels = clusters(num=60, dim=4, classes=3)
  features = features.astype(np.float32)

  def probe(x, y, num_classes):
    choose = functools.partial(optim.choose_probe, l2_grid=(0.01,), held_out=0.2, seed=0)
    return choose(x, y, num_classes=num_classes).probe.logits

  def reference(x, y, num_classes):
    mean, std = x.mean(axis=0), x.std(axis=0)
    model = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-8, max_iter=1000).fit((x - mean) / std, y)
    return lambda other: model.decision_function((other - mean) / std)

  ours, theirs = (t.cross_validate(features, labels, fit=fit) for fit in (probe, reference))
  assert float(ours) == pytest.approx(float(theirs), abs=1 / 60)
  # The softmax of scores that sum to 0 and of ours is the same.
  assert ours.details["cross_entropy"] == pytest.approx(theirs.details["cross_entropy"], abs=1e-3)
