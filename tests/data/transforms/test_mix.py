"""mixup and cutmix keep what their papers promise."""

from __future__ import annotations

import numpy as np
import pytest

import jaxtl.data as data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.errors import ConfigError

IMAGES = np.random.default_rng(0).normal(size=(6, 10, 12, 3)).astype(np.float32)
PARTNERS = [1, 0, 3, 2, 5, 4]


def batch():
  labels = np.arange(6, dtype=np.int32)
  return {"image": tf.constant(IMAGES), "label": tf.constant(labels), "mask": tf.ones([6], tf.bool)}


def seeds(count):
  return [tf.constant([9, number], tf.int64) for number in range(count)]


def test_mixup_is_linear_in_the_pair():
  for seed in seeds(5):
    mixed = data.mixup(batch(), seed, alpha=0.4)
    w = mixed["weight"].numpy()[:, None, None, None]
    np.testing.assert_allclose(mixed["image"], w * IMAGES + (1 - w) * IMAGES[PARTNERS], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixed["label"], np.arange(6))
    np.testing.assert_array_equal(mixed["label_b"], PARTNERS)
    assert mixed["weight"].dtype == tf.float32


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weight_has_the_moments_of_the_beta_distribution(alpha):
  mix = tf.function(lambda seed: data.mixup(batch(), seed, alpha=alpha)["weight"][0])
  weights = np.array([mix(seed) for seed in seeds(1500)])
  variance = 1 / (4 * (2 * alpha + 1))
  assert abs(weights.mean() - 0.5) < 5 * np.sqrt(variance / 1500)
  assert weights.var() == pytest.approx(variance, rel=0.15)


def test_cutmix_weight_is_the_share_of_pixels_kept():
  for seed in seeds(30):
    mixed = data.cutmix(batch(), seed, alpha=1.0)
    image = mixed["image"].numpy()
    own, other = (image == IMAGES).all(-1), (image == IMAGES[PARTNERS]).all(-1)
    assert (own | other).all()
    np.testing.assert_allclose(own.mean((1, 2)), mixed["weight"], atol=1e-6)
    pasted = other[0]
    assert pasted.sum() == pasted.any(1).sum() * pasted.any(0).sum()


def test_cutmix_alpha_concentrates_the_share():
  cut = tf.function(lambda seed, alpha: data.cutmix(batch(), seed, alpha=50.0 if alpha else 0.3)["weight"][0])
  spread = [np.std([cut(seed, alpha) for seed in seeds(100)]) for alpha in (True, False)]
  assert spread[0] < spread[1]


@pytest.mark.parametrize("mix", [data.mixup, data.cutmix])
def test_mixing_twice_and_alpha_zero_are_refused(mix):
  with pytest.raises(ConfigError, match="mixed already"):
    mix(data.mixup(batch(), seeds(1)[0]), seeds(1)[0])
  with pytest.raises(ConfigError, match="above 0"):
    mix(batch(), seeds(1)[0], alpha=0.0)


def test_the_odd_last_row_stays_alone():
  odd = {key: value[:5] for key, value in batch().items()}
  np.testing.assert_array_equal(data.mixup(odd, seeds(1)[0])["label_b"], [1, 0, 3, 2, 4])
