"""Controls of every score: permuted labels, noise columns, offsets, fewer images, and edge cases."""

import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters, noise, rotation


def on_axes(features, labels):
  return t.projected(t.statistics_of(features, labels), features, labels)


SCORES = {
  "h_score": lambda x, y: t.h_score(t.statistics_of(x, y)),
  "plain_h_score": lambda x, y: t.h_score(t.statistics_of(x, y), shrinkage=0),
  "lfc": lambda x, y: t.lfc(t.statistics_of(x, y)),
  "logme": lambda x, y: t.logme(t.statistics_of(x, y)),
  "gbc": lambda x, y: t.gbc(on_axes(x, y)),
  "raw_gbc": lambda x, y: t.gbc(t.statistics_of(x, y)),
  "ridge": t.ridge,
  "knn": lambda x, y: t.knn(t.neighbours(x), y),
  "sfda": t.sfda,
  "transrate": t.transrate,
  "parc": t.parc,
  "n_leep": lambda x, y: t.n_leep(x, y, seeds=(0,)),
}


@pytest.fixture(scope="module")
def values():
  features, labels = clusters()
  permuted = np.random.default_rng(5).permutation(labels)
  cases = {
    "plain": (features, labels),
    "permuted": (features, permuted),
    "noise": (np.hstack([features, noise()]), labels),
    "offset": (features + 5, labels),
    "few": (features[:40], labels[:40]),
  }
  skipped = {("n_leep", "noise")}
  return {
    (name, case): float(score(*data))
    for name, score in SCORES.items()
    for case, data in cases.items()
    if (name, case) not in skipped
  }


@pytest.mark.parametrize("name", SCORES)
def test_labels_that_say_nothing_score_lower(values, name):
  assert values[name, "permuted"] < values[name, "plain"]


@pytest.mark.parametrize("name", ["h_score", "lfc", "logme", "gbc", "ridge", "knn"])
def test_default_scores_do_not_reward_noise(values, name):
  assert values[name, "noise"] <= values[name, "plain"]


@pytest.mark.parametrize("name", ["plain_h_score", "raw_gbc", "transrate", "sfda"])
def test_scores_that_reward_noise_are_known(values, name):
  """The reason why they are not defaults, or are marked."""
  assert values[name, "noise"] > values[name, "plain"]


@pytest.mark.parametrize(
  "name", ["h_score", "plain_h_score", "lfc", "gbc", "raw_gbc", "ridge", "knn", "sfda"]
)
def test_an_offset_changes_nothing(values, name):
  assert values[name, "offset"] == pytest.approx(values[name, "plain"], rel=1e-6)


def test_an_offset_changes_two_scores(values):
  assert values["logme", "offset"] > values["logme", "plain"]


def test_ridge_and_neighbours_lose_with_fewer_images_and_overfitting_scores_gain(values):
  for name in ("ridge", "knn", "h_score", "logme"):
    assert values[name, "few"] < values[name, "plain"]
  for name in ("plain_h_score", "gbc", "sfda", "transrate"):
    assert values[name, "few"] > values[name, "plain"]


@pytest.mark.parametrize("name", ["h_score", "lfc", "logme", "gbc", "ridge", "knn", "transrate", "sfda"])
def test_scale_and_rotation_change_nothing(values, name):
  """SFDA's shrinkage depends on the scale; here it is at its lower bound for both."""
  features, labels = clusters()
  for other in (10 * features, features @ rotation(32)):
    assert float(SCORES[name](other, labels)) == pytest.approx(values[name, "plain"], rel=5e-3)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"n_leep"}))
def test_the_same_weight_twice_has_the_same_score(name):
  features, labels = clusters(num=80, dim=10)
  again = features.astype(np.float32).astype(np.float64)
  assert float(SCORES[name](features, labels)) == pytest.approx(float(SCORES[name](again, labels)), rel=1e-4)
  assert float(SCORES[name](features, labels)) == float(SCORES[name](features.copy(), labels))


FLOORS = {
  "h_score": 0,
  "lfc": 0,
  "gbc": -1,
  "ridge": 1 / 4,
  "knn": 1 / 4,
  "sfda": 1 / 4,
  "transrate": 0,
  "parc": 0,
}


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("name", sorted(set(SCORES) - {"plain_h_score", "raw_gbc"}))
def test_constant_features_have_the_floor(name, constant):
  labels = np.arange(40) % 4
  value = float(SCORES[name](np.full((40, 5), constant), labels))
  assert np.isfinite(value)
  if name in FLOORS:
    # The images that are nearest by their index take one hit from their own class.
    assert value == pytest.approx(FLOORS[name], abs=1 / 40 if name == "knn" else 1e-9)
  elif name == "n_leep":
    assert value == pytest.approx(-np.log(4))
  else:
    # LogME: a constant is an intercept, so that its evidence is that of the class shares or below.
    assert value <= -0.5 * (np.log(2 * np.pi * 0.25 * 0.75) + 1)


def test_constant_features_say_so():
  features, labels = np.ones((40, 5)), np.arange(40) % 4
  for name in ("h_score", "lfc", "gbc", "sfda", "transrate", "n_leep"):
    assert SCORES[name](features, labels).details["no_signal"], name


@pytest.mark.parametrize("name", SCORES)
def test_one_class_is_refused_in_one_line(name):
  with pytest.raises(t.ScoreError, match=r"^expected images of at least 2 classes, got 1$"):
    SCORES[name](np.random.default_rng(0).normal(size=(20, 3)), np.zeros(20, int))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SCORES)
def test_features_that_are_not_finite_are_refused_in_one_line(name, bad):
  features, labels = clusters(num=40, dim=3)
  features[[3, 5], 1] = bad
  with pytest.raises(t.ScoreError, match=r"^the features of 2 of 40 images have a NaN or an infinity$"):
    SCORES[name](features, labels)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"plain_h_score"}))
@pytest.mark.parametrize("shape", [(24, 60), (24, 1)])
def test_narrow_wide_and_singular_features_have_a_value(name, shape):
  """N < D, D = 1, and a class with one image, which GBC leaves out."""
  features = np.random.default_rng(0).normal(size=shape)
  labels = np.append(np.arange(23) % 3, 9)
  assert np.isfinite(float(SCORES[name](features, labels)))


@pytest.mark.parametrize("name", SCORES)
def test_labels_that_do_not_fit_are_refused(name):
  features, labels = clusters(num=40, dim=3)
  for bad in (labels[:39], labels.astype(float), labels[:, None]):
    with pytest.raises(ConfigError, match=r"expected|got"):
      SCORES[name](features, bad)


def test_the_null_is_that_of_permuted_labels():
  features, labels = clusters(num=200, spread=0.5)
  statistics = t.statistics_of(features, labels)

  def score(y):
    return float(t.h_score(t.relabelled(statistics, features, y)))

  null = t.permuted_label_null(score, labels)
  assert null.values.shape == (20,)
  assert null.z == pytest.approx((score(labels) - null.values.mean()) / null.values.std(ddof=1))
  assert null.z > 10
  assert not np.array_equal(null.values, t.permuted_label_null(score, labels, seed=1).values)
  assert len(t.permuted_label_null(score, labels, num_permutations=3).values) == 3
  with pytest.raises(ConfigError, match="at least 2 permutations"):
    t.permuted_label_null(score, labels, num_permutations=1)


@pytest.mark.parametrize("name", ["h_score", "lfc", "ridge", "knn"])
def test_permuted_labels_score_within_their_null(name):
  """|z| < 6 of 20 draws; a Gaussian z of a 21st draw exceeds it with a probability below 1e-5."""
  features, labels = clusters(num=160, dim=8)
  permuted = np.random.default_rng(9).permutation(labels)
  assert abs(t.permuted_label_null(lambda y: float(SCORES[name](features, y)), permuted).z) < 6


def test_pixels_are_averaged_over_equal_areas():
  images = np.random.default_rng(0).random((2, 16, 24, 3))
  blocks = images.reshape(2, 8, 2, 8, 3, 3).mean(axis=(2, 4)).reshape(2, -1)
  assert blocks.shape == (2, 192)
  np.testing.assert_allclose(t.pixel_features(images), blocks)
  # 3 pixels to 2: the middle one counts half on both sides.
  row = np.array([1.0, 2, 6]).reshape(1, 1, 3, 1) * np.ones((1, 3, 1, 1))
  np.testing.assert_allclose(t.pixel_features(row, size=2).reshape(2, 2), [[4 / 3, 14 / 3]] * 2)
  np.testing.assert_allclose(t.pixel_features(images, size=1), images.mean(axis=(1, 2)))


def test_colors_are_means_and_deviations():
  images = np.random.default_rng(0).random((4, 5, 6, 3))
  found = t.color_features(images)
  np.testing.assert_allclose(found[:, :3], images.mean(axis=(1, 2)))
  np.testing.assert_allclose(found[:, 3:], images.std(axis=(1, 2)))
