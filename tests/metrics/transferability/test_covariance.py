"""H-score and LFC against their definitions, scikit-learn, and their invariances."""

import dataclasses

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters, rotation


def mixed(num=60, dim=12, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(num, dim)) @ rng.normal(size=(dim, dim)) + 3, rng.integers(0, 4, num)


@pytest.mark.parametrize(("num", "dim"), [(60, 12), (20, 30), (2000, 3)])
def test_the_shrinkage_is_scikit_learn_s(num, dim):
  features, labels = mixed(num, dim)
  found = t.ledoit_wolf(t.statistics_of(features, labels))
  assert found == pytest.approx(ledoit_wolf(features)[1], abs=1e-12)


def h_by_definition(features, labels, a):
  """With an explicit inverse; divisors N."""
  centred = features - features.mean(axis=0)
  covariance = centred.T @ centred / len(labels)
  means = np.stack([centred[labels == c].mean(axis=0) for c in labels])
  between = means.T @ means / len(labels)
  dim = features.shape[1]
  shrunken = (1 - a) * covariance + a * np.trace(covariance) / dim * np.eye(dim)
  return np.trace(np.linalg.inv(shrunken) @ between) * (1 - a)


@pytest.mark.parametrize("a", [0, 1e-12, 0.3, 0.9])
def test_the_score_is_its_definition(a):
  features, labels = mixed()
  found = t.h_score(t.statistics_of(features, labels), shrinkage=a)
  assert float(found) == pytest.approx(h_by_definition(features, labels, a), rel=1e-9)
  assert found.details["shrinkage"] == a


def test_fewer_images_than_features_are_scored_with_shrinkage():
  features, labels = mixed(20, 30)
  statistics = t.statistics_of(features, labels)
  a = t.ledoit_wolf(statistics)
  assert float(t.h_score(statistics)) == pytest.approx(h_by_definition(features, labels, a), rel=1e-9)
  with pytest.raises(t.ScoreError, match="expected over D \\+ 1 images, or a shrinkage"):
    t.h_score(statistics, shrinkage=0)


def test_the_plain_form_is_invariant_to_affine_maps_and_bounded():
  features, labels = mixed()
  value = float(t.h_score(t.statistics_of(features, labels), shrinkage=0))
  warp = np.random.default_rng(3).normal(size=(12, 12))
  assert float(t.h_score(t.statistics_of(features @ warp - 5, labels), shrinkage=0)) == pytest.approx(value)
  assert 0 <= value <= 3
  # A repeated column has a pseudo-inverse.
  twice = np.hstack([features, features[:, :1]])
  assert float(t.h_score(t.statistics_of(twice, labels), shrinkage=0)) == pytest.approx(value)


def test_separated_classes_reach_k_minus_1():
  features, labels = clusters(classes=8, spread=1e4)
  assert float(t.h_score(t.statistics_of(features, labels), shrinkage=0)) == pytest.approx(7, abs=1e-4)


@pytest.mark.parametrize("score", [t.h_score, t.lfc])
def test_rotation_shift_and_scale_change_nothing(score):
  features, labels = mixed()
  value = float(score(t.statistics_of(features, labels)))
  for other in (features @ rotation(12), 10 * features, features + 5):
    assert float(score(t.statistics_of(other, labels))) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, float("nan")])
def test_a_shrinkage_out_of_range_is_refused(shrinkage):
  with pytest.raises(ConfigError, match="from 0 to 1"):
    t.h_score(t.statistics_of(*mixed()), shrinkage=shrinkage)


def test_full_shrinkage_leaves_nothing():
  assert float(t.h_score(t.statistics_of(*mixed()), shrinkage=1)) == 0


@pytest.mark.parametrize(("num", "dim"), [(60, 12), (20, 30)])
def test_lfc_is_the_alignment_of_two_gram_matrices(num, dim):
  features, labels = mixed(num, dim)
  centre = np.eye(num) - 1 / num
  gram = centre @ features @ features.T @ centre
  target = centre @ np.where(labels[:, None] == labels, 1, -1) @ centre
  expected = np.sum(gram * target) / np.linalg.norm(gram) / np.linalg.norm(target)
  assert float(t.lfc(t.statistics_of(features, labels))) == pytest.approx(expected, abs=1e-12)


def test_one_hot_features_are_aligned_perfectly():
  labels = np.array([0, 0, 1, 2, 2, 2, 2])
  assert float(t.lfc(t.statistics_of(np.eye(3)[labels], labels))) == pytest.approx(1)


def test_equal_eigenvalues_are_shrunk_fully():
  features = np.vstack([np.eye(4), -np.eye(4)])
  statistics = t.statistics_of(features, np.arange(8) % 2)
  assert t.ledoit_wolf(statistics) == 1
  assert t.ledoit_wolf(dataclasses.replace(statistics, fourth=0.0)) == 1
