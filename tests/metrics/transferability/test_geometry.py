"""The geometry of features in closed cases and against definitions."""

import numpy as np
import pytest

from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters, rotation


@pytest.mark.parametrize(("num", "dim"), [(100, 5), (30, 40)])
def test_nc1_is_its_definition(num, dim):
  features, labels = clusters(num=num, dim=dim, classes=4)
  labels[:20] = 0
  mean = features.mean(axis=0)
  means = np.stack([features[labels == c].mean(axis=0) for c in range(4)])
  within = (features - means[labels]).T @ (features - means[labels]) / num
  between = (means - mean).T @ (means - mean) / 4
  expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / 4
  assert float(t.nc1(t.statistics_of(features, labels))) == pytest.approx(expected, rel=1e-8)


def test_collapsed_classes_have_nc1_zero():
  labels = np.array([0, 0, 1, 1, 2, 2])
  assert float(t.nc1(t.statistics_of(np.eye(3)[labels], labels))) == pytest.approx(0, abs=1e-12)


def test_equal_means_have_no_nc1():
  features = np.array([[1.0], [-1], [2], [-2]])
  with pytest.raises(t.ScoreError, match="class means are equal"):
    t.nc1(t.statistics_of(features, np.array([0, 0, 1, 1])))


@pytest.mark.parametrize("score", [t.effective_rank, t.participation_ratio])
def test_equal_directions_are_counted(score):
  """3 directions of equal variance in 7 columns."""
  features = np.vstack([np.eye(3), -np.eye(3)]) @ rotation(7)[:3] + 4
  statistics = t.statistics_of(features, np.arange(6) % 2)
  assert float(score(statistics)) == pytest.approx(3)


@pytest.mark.parametrize("score", [t.effective_rank, t.participation_ratio])
def test_ranks_ignore_scale_rotation_and_shift(score):
  features, labels = clusters(dim=6)
  features *= np.arange(1, 7)
  value = float(score(t.statistics_of(features, labels)))
  assert 1 < value < 6
  for other in (1e3 * features, features @ rotation(6), features - 9):
    assert float(score(t.statistics_of(other, labels))) == pytest.approx(value)


@pytest.mark.parametrize("score", [t.effective_rank, t.participation_ratio])
def test_constant_features_have_no_rank(score):
  with pytest.raises(t.ScoreError, match="constant"):
    score(t.statistics_of(np.ones((4, 2)), np.array([0, 0, 1, 1])))
