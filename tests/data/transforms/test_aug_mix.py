"""AugMix: identities, the laws of its draws, and the strengths of its variants."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from jaxtl import data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import aug_mix as module
from jaxtl.data.transforms.draws import dirichlet

NOISE = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
SEED = tf.constant([1, 2], tf.int64)
VARIANTS = ("torchvision", "original_cifar", "original_imagenet")


def example(image=NOISE):
  return {"image": tf.constant(image), "label": tf.constant(0)}


def over_seeds(function, count, dtype=tf.float32):
  """The results of a function of a seed, for many seeds, in one graph."""
  run = tf.function(
    lambda: tf.map_fn(
      lambda number: function(tf.stack([tf.constant(3, tf.int64), number])),
      tf.range(count, dtype=tf.int64),
      fn_output_signature=dtype,
    )
  )
  return run().numpy()


def distance(draws, distribution):
  """Kolmogorov's distance between draws and a distribution function, times the root of their number."""
  draws = np.sort(draws)
  steps = np.arange(len(draws) + 1) / len(draws)
  expected = distribution(draws)
  return max(abs(expected - steps[1:]).max(), abs(expected - steps[:-1]).max()) * np.sqrt(len(draws))


@pytest.fixture
def counts_operations(monkeypatch):
  """Each operation adds 1, so that a chain adds its depth."""
  monkeypatch.setattr(module, "applied", lambda image, *_, among: image + 1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_mixture_it_is_the_identity(variant, monkeypatch):
  monkeypatch.setattr(module, "beta", lambda seed, alpha: tf.constant(0.0))
  np.testing.assert_array_equal(data.aug_mix(example(), SEED, variant=variant)["image"], NOISE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [1, 3])
def test_chains_of_the_identity_leave_the_image(variant, width, monkeypatch):
  monkeypatch.setattr(module, "applied", lambda image, *_, among: image)
  found = data.aug_mix(example(), SEED, variant=variant, width=width)["image"]
  np.testing.assert_allclose(found, NOISE, atol=1e-4)


def test_pixels_are_whole_numbers_in_torchvisions_variant_alone():
  for variant in VARIANTS:
    images = [data.aug_mix(example(), SEED + n, variant=variant)["image"].numpy() for n in range(3)]
    assert all(np.array_equal(image, np.round(image)) for image in images) is (variant == "torchvision")


def test_weights_are_uniform_on_the_simplex():
  """False alarms: 1e-3 for Kolmogorov's bound of 1.95, and 6e-5 for 4 s.e. of a mean."""
  weights = over_seeds(lambda seed: dirichlet(seed, alpha=1.0, count=3), 1000)
  np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
  assert weights.min() >= 0
  # Each weight has the variance 1/18; the first one's distribution function is 1 - (1 - x)^2.
  assert abs(weights.mean(0) - 1 / 3).max() < 4 * np.sqrt(1 / 18 / 1000)
  assert distance(weights[:, 0], lambda x: 1 - (1 - x) ** 2) < 1.95
  concentrated = over_seeds(lambda seed: dirichlet(seed, alpha=50.0, count=3), 50)
  assert concentrated.std() < weights.std() / 3


def test_the_share_of_the_mixture_is_uniform(counts_operations):
  """False alarms: 1e-3, by Kolmogorov's bound of 1.95."""
  one = partial(data.aug_mix, variant="original_cifar", width=1, depth=2)
  added = over_seeds(lambda seed: one(example(), seed)["image"][0, 0, 0], 800) - NOISE[0, 0, 0]
  assert distance(added / 2, lambda x: np.clip(x, 0, 1)) < 1.95


def test_a_chain_has_one_to_three_operations(counts_operations, monkeypatch):
  """False alarms: one of the counts lies 4 s.e. away in 2e-4 of such tests."""
  monkeypatch.setattr(module, "beta", lambda seed, alpha: tf.constant(1.0))
  one = partial(data.aug_mix, width=1)
  added = over_seeds(lambda seed: one(example(), seed)["image"][0, 0, 0], 900) - NOISE[0, 0, 0]
  depths, counts = np.unique(added, return_counts=True)
  np.testing.assert_array_equal(depths, [1, 2, 3])
  assert abs(counts - 300).max() < 4 * np.sqrt(900 * 2 / 9)
  for width in (1, 4):
    four = data.aug_mix(example(), SEED, width=width, depth=4)["image"]
    np.testing.assert_allclose(four, NOISE + 4.0, atol=1e-3)


def test_operations_are_drawn_from_13_or_from_9(monkeypatch):
  sizes = []
  monkeypatch.setattr(module, "applied", lambda image, *_, among: sizes.append(len(among)) or image)
  for variant, all_ops in [*((v, None) for v in VARIANTS), ("torchvision", False), ("original_cifar", True)]:
    data.aug_mix(example(), SEED, variant=variant, all_ops=all_ops, width=1, depth=1)
  assert sizes == [13, 9, 9, 9, 13]


@pytest.mark.parametrize(
  ("variant", "severity", "largest"), [("torchvision", 3, 2 / 9), ("torchvision", 10, 1.0)]
)
def test_torchvisions_levels_are_the_first_bins(variant, severity, largest):
  """False alarms: one of the counts lies 4.5 s.e. away in 7e-5 of such tests."""
  settings = settings_of(variant=variant, severity=severity)
  levels = over_seeds(lambda seed: module._levels(seed, (3, 3), settings), 200).reshape(-1)
  found, counts = np.unique(np.round(9 * levels).astype(int), return_counts=True)
  np.testing.assert_array_equal(found, np.arange(severity))
  np.testing.assert_allclose(levels.max(), largest, rtol=1e-6)
  expected = len(levels) / severity
  assert abs(counts - expected).max() < 4.5 * np.sqrt(expected)


@pytest.mark.parametrize(("variant", "most"), [("original_cifar", 0.3), ("original_imagenet", 0.1)])
def test_the_originals_levels_are_uniform_from_a_hundredth(variant, most):
  """False alarms: 1e-3, by Kolmogorov's bound of 1.95."""
  levels = over_seeds(lambda seed: module._levels(seed, (3, 3), settings_of(variant=variant)), 200)
  assert levels.min() >= 0.01
  assert levels.max() <= most
  assert distance(levels.reshape(-1), lambda x: (x - 0.01) / (most - 0.01)) < 1.95


def settings_of(**changes):
  whole = dict(variant="torchvision", severity=None, all_ops=None, width=3, depth=None, alpha=1.0, fill=0.0)
  return module._settings(**whole | changes)


def test_strengths_are_those_of_the_two_codes():
  """The originals cut off towards zero what is a whole number there; torchvision rounds the bits."""
  levels = np.random.default_rng(0).uniform(0.01, 1, 200)
  given, side = tf.constant(levels, tf.float32), tf.constant(224.0)
  original, torchvision = module.ORIGINAL, module.TORCHVISION
  np.testing.assert_array_equal(original.degrees(given), [int(10 * x * 30 / 10) for x in levels])
  np.testing.assert_array_equal(original.bits(given), [4 - int(10 * x * 4 / 10) for x in levels])
  np.testing.assert_array_equal(original.threshold(given), [256 - int(10 * x * 256 / 10) for x in levels])
  np.testing.assert_allclose(original.factor(given, -1.0), 0.1 + 1.8 * levels, rtol=1e-6)
  bins = tf.range(10, dtype=tf.float32) / 9
  np.testing.assert_array_equal(torchvision.bits(bins), [4 - round(4 * b / 9) for b in range(10)])
  np.testing.assert_allclose(torchvision.threshold(bins), np.linspace(255, 0, 10), atol=1e-4)
  np.testing.assert_allclose(torchvision.factor(bins, -1.0), 1 - np.linspace(0, 0.9, 10), atol=1e-6)
  for strengths in (original, torchvision):
    assert strengths.shear == 0.3
    assert float(strengths.pixels(tf.constant(1.0), side)) == pytest.approx(224 / 3)
  # Posterize leaves at most four bits, even where the level is 0.
  assert torchvision.bits(tf.constant(0.0)) == original.bits(tf.constant(0.01)) == 4


def test_views_are_two_independent_mixtures_next_to_the_image():
  found = data.aug_mix_jsd(example(), SEED, variant="original_cifar", severity=5)
  np.testing.assert_array_equal(found["image"], NOISE)
  assert found["views"].shape == (2, *NOISE.shape)
  first, second = found["views"].numpy()
  assert not np.allclose(first, second, atol=1)
  same = data.aug_mix_jsd(example(), SEED, variant="original_cifar", severity=5)["views"]
  np.testing.assert_array_equal(same, found["views"])
  other = data.aug_mix_jsd(example(), SEED + 1, variant="original_cifar", severity=5)["views"]
  assert not np.array_equal(other, found["views"])


def test_views_are_normalised_as_the_image_is():
  found = data.aug_mix_jsd(example(), SEED)
  scaled = data.normalize(found, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
  for view, expected in zip(scaled["views"], found["views"], strict=True):
    alone = data.normalize({"image": expected}, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))["image"]
    np.testing.assert_array_equal(view, alone)
