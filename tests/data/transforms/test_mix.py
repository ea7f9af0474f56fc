"""mixup and cutmix keep what their papers promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import jaxtl.data as data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.draws import beta
from jaxtl.data.transforms.mix import box
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


def test_clipping_keeps_two_thirds_of_the_first_image():
  """With alpha 1 and 224 pixels the mean share is 0.683, sd 0.188: 0.01 is 5.3 s.e., false alarms 1e-7."""

  def kept(number):
    seed = tf.stack([tf.constant(4, tf.int64), number])
    share = beta(seed, alpha=1.0)
    top, left, bottom, right = tf.unstack(box(seed + 1, share=share, height=224, width=224))
    return 1 - tf.cast((bottom - top) * (right - left), tf.float32) / 224**2

  run = tf.function(lambda: tf.map_fn(kept, tf.range(10000, dtype=tf.int64), fn_output_signature=tf.float32))
  shares = run().numpy()
  assert abs(shares.mean() - 0.683) < 0.01
  assert shares.std() == pytest.approx(0.188, abs=0.01)


@pytest.mark.parametrize("probabilities", [None, (0.2, 0.8)])
def test_one_transform_is_drawn_for_each_batch(probabilities):
  """False alarms: the share of 400 batches lies 4 s.e. away in 6e-5 of such tests."""
  mix = tf.function(
    partial(
      data.one_of_batch, transforms=[data.cutmix, partial(data.mixup, alpha=1.0)], probabilities=probabilities
    )
  )
  choices = []
  for seed in seeds(400):
    image = mix(batch(), seed)["image"].numpy()
    kept = (image == IMAGES).all(-1) | (image == IMAGES[PARTNERS]).all(-1)
    assert kept.all() or not kept.all((1, 2)).any()  # the same choice for all rows
    choices.append(kept.all())
  expected = 0.5 if probabilities is None else 0.2
  assert abs(np.mean(choices) - expected) < 4 * np.sqrt(expected * (1 - expected) / 400)


def test_the_chosen_transform_has_its_own_draws_and_its_own_result():
  mixed = data.one_of_batch(batch(), seeds(1)[0], transforms=[data.mixup, data.cutmix], probabilities=[1, 0])
  w = mixed["weight"].numpy()[:, None, None, None]
  np.testing.assert_allclose(mixed["image"], w * IMAGES + (1 - w) * IMAGES[PARTNERS], rtol=1e-5, atol=1e-6)
  alone = data.one_of_batch(batch(), seeds(1)[0], transforms=[data.mixup])
  np.testing.assert_array_equal(alone["image"], mixed["image"])
  np.testing.assert_array_equal(alone["label_b"], PARTNERS)


def test_transforms_with_different_results_are_refused():
  smooth = partial(data.timm_mix, smoothing=0.1, num_classes=6)
  mix = tf.function(partial(data.one_of_batch, transforms=[data.mixup, smooth]), autograph=False)
  with pytest.raises(ConfigError, match="return batches with different keys"):
    mix(batch(), seeds(1)[0])
  with pytest.raises(ConfigError, match="mixed already"):
    data.one_of_batch(data.mixup(batch(), seeds(1)[0]), seeds(1)[0], transforms=[data.cutmix])


def test_the_odd_last_row_stays_alone():
  odd = {key: value[:5] for key, value in batch().items()}
  np.testing.assert_array_equal(data.mixup(odd, seeds(1)[0])["label_b"], [1, 0, 3, 2, 4])
