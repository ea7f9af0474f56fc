"""PARC against SciPy's rank correlation, and its samples."""

import numpy as np
import pytest
import scipy.stats
from sklearn.decomposition import PCA

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters


def by_definition(features, labels):
  x = (features - features.mean(axis=0)) / features.std(axis=0)
  above = np.triu_indices(len(labels), 1)
  onehot = np.eye(labels.max() + 1)[labels]
  ranks = [np.round(1 - np.corrcoef(rows)[above], 12) for rows in (x, onehot)]
  return scipy.stats.spearmanr(*ranks).statistic


def test_it_is_its_definition():
  features, labels = clusters(num=80, dim=20, classes=4)
  assert float(t.parc(features, labels)) == pytest.approx(by_definition(features, labels), abs=1e-12)


def test_wide_features_are_projected():
  features, labels = clusters(num=80, dim=60, classes=4)
  # The correlation of rows depends on the signs of columns; ours are those of scikit-learn.
  projected = PCA(32, svd_solver="full").fit_transform(features)
  assert float(t.parc(features, labels)) == pytest.approx(by_definition(projected, labels), abs=1e-9)
  assert float(t.parc(features, labels, num_axes=4)) != float(t.parc(features, labels))


def test_at_most_so_many_images_are_used_by_seed():
  features, labels = clusters(num=300, dim=5, classes=4)
  score = t.parc(features, labels, max_examples=100)
  assert score.details["examples"] == 100
  chosen = t.stratified_sample(labels, max_examples=100)
  assert float(score) == pytest.approx(by_definition(features[chosen], labels[chosen]), abs=1e-12)
  assert float(score) != float(t.parc(features, labels, max_examples=100, seed=1))


def test_constant_rows_and_columns_are_no_nan():
  features, labels = clusters(num=40, dim=5, classes=4)
  features[3] = features.mean(axis=0)
  features = np.hstack([features, np.full((40, 1), 0.1)])
  assert np.isfinite(float(t.parc(features, labels)))


def test_without_a_pair_of_a_class_there_is_no_score():
  features, _ = clusters(num=4)
  with pytest.raises(t.ScoreError, match="one of them with 2 images"):
    t.parc(features, np.arange(4))
  with pytest.raises(ConfigError, match="positive num_axes"):
    t.parc(*clusters(num=40), num_axes=0)
