"""Nearest neighbours against scikit-learn, ties by their rule, and the dimension of known sets."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from jaxtl.metrics.transferability import nearest as module
from tests.metrics.transferability.examples import clusters


@pytest.mark.parametrize("chunk", [7, 1024])
def test_they_are_scikit_learn_s(chunk, monkeypatch):
  monkeypatch.setattr(module, "CHUNK", chunk)
  features, _ = clusters(num=60, dim=4)
  found = t.neighbours(features, num=5)
  centred = features - features.mean(axis=0)
  for metric, rows, indices, values in (
    ("euclidean", features, found.by_distance, found.distance),
    ("cosine", centred, found.by_cosine, 1 - found.cosine),
  ):
    distance, nearest = NearestNeighbors(n_neighbors=5, metric=metric).fit(rows).kneighbors()
    np.testing.assert_array_equal(indices, nearest)
    np.testing.assert_allclose(values, distance, atol=1e-12)


def test_equally_near_images_come_in_their_order():
  features = np.array([[0.0], [1], [1], [-1], [1], [0.5], [3]])
  found = t.neighbours(features, num=2)
  np.testing.assert_array_equal(found.by_distance[1], [2, 4])
  np.testing.assert_array_equal(found.by_distance[5], [0, 1])
  assert found.zero_distances == pytest.approx(3 / 7)


def vote(labels, closeness, k, metric="cosine"):
  """The score of one image whose neighbours have these labels; the others are irrelevant."""
  num = len(closeness)
  index = np.tile(np.arange(1, num + 1), (num + 1, 1))
  table = np.tile(np.asarray(closeness, float), (num + 1, 1))
  return t.knn(t.Neighbours(index, table, index, table), np.array(labels), k=k, metric=metric).per_example[0]


def test_the_majority_wins_then_the_larger_sum_then_the_lower_class():
  assert vote([1, 2, 1, 1], [0.9, 0.2, 0.1], k=3)
  assert vote([1, 2, 1, 2, 1, 0], [0.9, 0.8, 0.4, 0.6, 0.1], k=4) == (0.8 + 0.6 > 0.9 + 0.4)
  assert not vote([2, 1, 2, 0], [0.5, 0.5, 0.1], k=2)  # a tie of 1 and 2
  assert vote([1, 2, 1, 0], [0.5, 0.5, 0.1], k=2)


def test_smaller_distances_win_a_tie():
  assert vote([1, 2, 1, 0], [0.2, 0.1, 9], k=2, metric="euclidean")
  assert not vote([1, 2, 1, 0], [0.1, 0.2, 9], k=2, metric="euclidean")


def test_both_metrics_and_numbers_of_voters_count():
  features, labels = clusters(num=200, dim=6, classes=4, spread=0.8)
  features *= np.array([10, 1, 1, 1, 1, 1])
  nearest = t.neighbours(features)
  values = {
    (k, m): float(t.knn(nearest, labels, k=k, metric=m)) for k in (1, 5) for m in ("cosine", "euclidean")
  }
  assert len(set(values.values())) == 4


@pytest.mark.parametrize("k", [1, 5])
def test_permuted_labels_have_the_chance_level(k):
  """Within 4 standard errors: false alarm 6e-5 for each of 10."""
  features, labels = clusters()
  nearest = t.neighbours(features)
  error = np.sqrt(1 / 8 * 7 / 8 / 400)
  for seed in range(5):
    permuted = np.random.default_rng(seed).permutation(labels)
    assert abs(float(t.knn(nearest, permuted, k=k)) - 1 / 8) < 4 * error


def test_duplicates_are_classified_correctly_and_counted():
  features, labels = clusters(num=40, dim=3, classes=8, spread=0)
  score = t.knn(t.neighbours(np.vstack([features, features])), np.tile(labels, 2))
  assert float(score) == 1
  assert score.details["zero_distances"] == 1
  assert t.knn(t.neighbours(features), labels).details["zero_distances"] == 0


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_dimension_of_a_uniform_cube_is_found(dim):
  """In 20 columns that a rotation mixes. The estimate has a relative standard error of 1 / sqrt(N) = 0.03."""
  rng = np.random.default_rng(dim)
  features = rng.random((1000, dim)) @ np.linalg.qr(rng.normal(size=(20, 20)))[0][:dim]
  found = t.intrinsic_dimension(t.neighbours(features, num=2))
  assert float(found) == pytest.approx(dim, rel=0.15)
  assert found.details["dropped"] < 0.01


def test_duplicates_do_not_count_for_the_dimension():
  features, _ = clusters(num=100, dim=3)
  twice = np.vstack([features, features[:10]])
  nearest = t.neighbours(twice, num=2)
  found = t.intrinsic_dimension(nearest)
  kept = nearest.distance[:, 0] > 0
  logs = np.log(nearest.distance[kept, 1] / nearest.distance[kept, 0])
  assert float(found) == pytest.approx((len(logs) - 1) / logs.sum())
  # The duplicates, and the images whose two nearest ones are a pair of duplicates
  assert found.details["dropped"] == pytest.approx((20 + np.sum(logs == 0)) / 110)


def test_bad_options_are_refused():
  features, labels = clusters(num=20)
  nearest = t.neighbours(features, num=3)
  for k in (0, 4):
    with pytest.raises(ConfigError, match="expected k from 1 to 3"):
      t.knn(nearest, labels, k=k)
  with pytest.raises(ConfigError, match="'cosine' or 'euclidean'"):
    t.knn(nearest, labels, metric="manhattan")
  with pytest.raises(ConfigError, match="19 labels for 20 images"):
    t.knn(nearest, labels[:19])
  with pytest.raises(ConfigError, match="positive number"):
    t.neighbours(features, num=0)
  with pytest.raises(ConfigError, match="at least 2 neighbours"):
    t.intrinsic_dimension(t.neighbours(features, num=1))
  with pytest.raises(t.ScoreError, match="over 5 images"):
    t.neighbours(features[:5])
  with pytest.raises(t.ScoreError, match="no image has a second neighbour"):
    t.intrinsic_dimension(t.neighbours(np.zeros((5, 2)), num=2))
