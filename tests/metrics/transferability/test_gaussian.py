"""GBC and TransRate: definitions, bounds, and the defects that keep TransRate out of the default scores."""

import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters, noise, rotation


def gbc_by_definition(features, labels, *, spherical):
  """Pair after pair, over ordered pairs, with covariance matrices."""
  floor = 1e-4 * np.mean(features.var(axis=0))
  dim, classes = features.shape[1], labels.max() + 1
  total = 0
  for a in range(classes):
    for b in range(classes):
      if a == b:
        continue
      means = [features[labels == c].mean(axis=0) for c in (a, b)]
      variances = [np.maximum(features[labels == c].var(axis=0), floor) for c in (a, b)]
      if spherical:
        variances = [np.full(dim, v.mean()) for v in variances]
      first, second = (np.diag(v) for v in variances)
      pooled = (first + second) / 2
      difference = means[0] - means[1]
      distance = difference @ np.linalg.inv(pooled) @ difference / 8
      logs = [np.linalg.slogdet(matrix)[1] for matrix in (pooled, first, second)]
      total += np.exp(-distance - (logs[0] - (logs[1] + logs[2]) / 2) / 2)
  return -total / classes / (classes - 1)


@pytest.mark.parametrize(("score", "spherical"), [(t.gbc, True), (t.gbc_diagonal, False)])
def test_gbc_is_its_definition(score, spherical):
  features, labels = clusters(num=60, dim=3, classes=4)
  features *= np.array([1, 2, 5.0])
  found = score(t.statistics_of(features, labels))
  assert float(found) == pytest.approx(gbc_by_definition(features, labels, spherical=spherical), rel=1e-9)
  assert found.details["log_mean"] == pytest.approx(np.log(-float(found)))


def test_gbc_has_its_bounds():
  features, _ = clusters(num=40, dim=3, classes=1)
  same = np.vstack([features, features])
  labels = np.repeat([0, 1], 40)
  assert float(t.gbc(t.statistics_of(same, labels))) == pytest.approx(-1)
  far = same + 1e3 * labels[:, None]
  score = t.gbc(t.statistics_of(far, labels))
  assert float(score) == 0
  # The logarithm still orders weights whose coefficients all underflow.
  farther = t.gbc(t.statistics_of(same + 2e3 * labels[:, None], labels))
  assert farther.details["log_mean"] < score.details["log_mean"] < -700


def test_gbc_ignores_scale_and_shift():
  features, labels = clusters()
  value = float(t.gbc(t.statistics_of(features, labels)))
  for other in (1e-3 * features, features + 5, features @ rotation(32)):
    assert float(t.gbc(t.statistics_of(other, labels))) == pytest.approx(value, rel=1e-8)


def test_gbc_on_principal_axes_does_not_reward_noise():
  features, labels = clusters()
  wide = np.hstack([features, noise()])
  plain, raw = (t.statistics_of(x, labels) for x in (features, wide))
  assert t.projected(plain, features, labels) is plain
  axes = t.projected(raw, wide, labels)
  assert axes.dim == 64
  assert float(t.gbc(raw)) > float(t.gbc(plain)) > float(t.gbc(axes))
  assert t.projected(raw, wide, labels, num=16).dim == 16


def test_principal_axes_are_those_of_a_singular_value_decomposition():
  features, labels = clusters(dim=80)
  statistics = t.statistics_of(features, labels)
  centred = features - features.mean(axis=0)
  axes = np.linalg.svd(centred, full_matrices=False)[2][:64].T
  expected = t.statistics_of(centred @ axes, labels)
  found = t.projected(statistics, features, labels)
  np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-8)
  assert float(t.gbc_diagonal(found)) == pytest.approx(float(t.gbc_diagonal(expected)))


def test_classes_of_one_image_are_left_out_of_gbc():
  features, labels = clusters(num=41, dim=3, classes=2)
  labels[-1] = 2
  score = t.gbc(t.statistics_of(features, labels))
  assert score.details["skipped"] == 1
  without = t.statistics_of(features[:-1], labels[:-1])
  # The floor and the pairs are those of the two other classes.
  assert float(score) == pytest.approx(float(t.gbc(without)), rel=1e-9)
  with pytest.raises(t.ScoreError, match="2 classes with 2 images, got 1"):
    t.gbc(t.statistics_of(features[:3], np.array([0, 0, 1])))


def test_a_class_without_spread_has_the_floor():
  features = np.array([[0.0], [0], [1], [3]])
  labels = np.array([0, 0, 1, 1])
  values = [float(t.gbc(t.statistics_of(features, labels), floor=floor)) for floor in (1e-4, 1e-1)]
  assert values[1] < values[0] < 0
  with pytest.raises(ConfigError, match="positive floor"):
    t.gbc(t.statistics_of(features, labels), floor=0)


def transrate_by_definition(features, labels, epsilon):
  z = features - features.mean(axis=0)
  z /= np.sqrt(np.mean(np.sum(z**2, axis=1)))

  def rate(rows):
    return 0.5 * np.log(np.linalg.det(np.eye(rows.shape[1]) + rows.T @ rows / len(rows) / epsilon))

  return rate(z) - sum(np.mean(labels == c) * rate(z[labels == c]) for c in np.unique(labels))


@pytest.mark.parametrize("dim", [4, 12])
@pytest.mark.parametrize("epsilon", [1e-4, 1.0])
def test_transrate_is_its_definition(dim, epsilon):
  """12 features are more than the images of a class."""
  features, labels = clusters(num=50, dim=dim, classes=7)
  found = float(t.transrate(features, labels, epsilon=epsilon))
  assert found == pytest.approx(transrate_by_definition(features, labels, epsilon), rel=1e-6)


def test_transrate_does_not_see_two_classes_of_equal_spread():
  features = np.array([[0, 0], [1, 0], [0, 1], [9, 9], [9, 8], [8, 9.0]])
  score = t.transrate(features, np.array([0, 0, 0, 1, 1, 1]))
  assert float(score) == pytest.approx(0, abs=1e-9)
  assert score.details["two_classes"]


def test_transrate_needs_a_distortion():
  with pytest.raises(ConfigError, match="positive epsilon"):
    t.transrate(*clusters(), epsilon=0)
