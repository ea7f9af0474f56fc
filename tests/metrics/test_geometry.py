"""The geometry of features against closed forms and other decompositions of the same covariance."""

import numpy as np
import pytest

from jaxtl import metrics


def test_traces_add_up_to_the_whole_for_balanced_classes():
  rng = np.random.default_rng(0)
  features, labels = rng.normal(size=(60, 5)) + 3, np.arange(60) % 4
  within, between = metrics.scatter_traces(features, labels)
  assert within + between == pytest.approx(np.trace(np.cov(features.T, bias=True)), rel=1e-12)
  # Shifting a class moves only the trace between the classes.
  moved = metrics.scatter_traces(features + 10.0 * labels[:, None], labels)
  assert moved[0] == pytest.approx(within, rel=1e-12)
  assert moved[1] > between


def test_collapsed_features_do_not_scatter_within_classes():
  labels = np.repeat([0, 1, 3], 5)  # class 2 has no example
  within, between = metrics.scatter_traces(np.eye(4)[labels], labels)
  # Three unit vectors: each is sqrt(2/3) from their mean.
  assert (within, between) == (0, pytest.approx(2 / 3))


def test_the_effective_rank_counts_equal_directions():
  basis = np.concatenate([np.eye(4), -np.eye(4)])
  assert metrics.effective_rank(basis + 7) == pytest.approx(4)
  assert metrics.effective_rank(np.outer(np.arange(5.0), [1, 2, 3])) == pytest.approx(1)
  assert np.isnan(metrics.effective_rank(np.ones((5, 3))))
  rng = np.random.default_rng(1)
  features = rng.normal(size=(30, 6)) * [5, 1, 1, 1, 0.1, 0.1]
  values = np.linalg.eigvalsh(np.cov(features.T))
  shares = values / values.sum()
  assert metrics.effective_rank(features) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
