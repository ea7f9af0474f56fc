"""Scale, crop and rotation: identities, frames, and laws of the draws."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from jaxtl import config, data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.train.inputs import Data, check_transforms
from tests.data.made_images import smooth_image

SEED = tf.constant([1, 2], tf.int64)
NOISE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
MEAN = (123.675, 116.28, 103.53)


def example(image):
  return {"image": tf.constant(image), "label": tf.constant(0)}


def seeds(count):
  return [tf.constant([5, number], tf.int64) for number in range(count)]


def resized(image, height, width):
  """Bilinear interpolation between pixel centres, without antialiasing, in float64."""
  for axis, length in ((0, height), (1, width)):
    old = image.shape[axis]
    at = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), old - 2)
    part = (at - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
    image = (1 - part) * np.take(image, low, axis) + part * np.take(image, low + 1, axis)
  return image


def test_scale_one_is_the_identity():
  found = data.random_scale(example(NOISE), SEED, low=1.0, high=1.0)["image"]
  np.testing.assert_array_equal(found, NOISE)


@pytest.mark.parametrize(("factor", "height", "width"), [(0.5, 10, 12), (2.0, 40, 48), (0.77, 15, 18)])
def test_scale_is_bilinear_without_antialiasing_and_rounds_the_sides(factor, height, width):
  found = data.random_scale(example(NOISE), SEED, low=factor, high=factor)["image"].numpy()
  assert found.shape == (height, width, 3)
  np.testing.assert_allclose(found, resized(NOISE.astype(np.float64), height, width), atol=1e-3)


def test_scale_is_uniform_and_not_log_uniform():
  """False alarms: the mean of 400 draws lies 4 s.e. away in 6e-5 of such tests."""
  scale = tf.function(
    lambda seed: tf.shape(data.random_scale(example(np.zeros((100, 100, 3), np.uint8)), seed)["image"])[:2]
  )
  sides = np.array([scale(seed) for seed in seeds(400)]) / 100
  np.testing.assert_array_equal(sides[:, 0], sides[:, 1])
  assert sides.min() >= 0.5
  assert sides.max() <= 2.0
  # The mean of a log-uniform draw is 1.08.
  assert abs(sides[:, 0].mean() - 1.25) < 4 * (1.5 / np.sqrt(12)) / 20


def test_crop_of_a_smaller_image_frames_it_with_the_fill():
  small = np.full((3, 6, 3), 7, np.uint8)
  found = data.random_crop(example(small), SEED, size=(8, 6), fill=MEAN)["image"].numpy()
  # Five rows are missing: two before, three after.
  np.testing.assert_array_equal(found[2:5], small)
  frame = np.broadcast_to(np.float32(MEAN), (8, 6, 3))
  np.testing.assert_array_equal(found[:2], frame[:2])
  np.testing.assert_array_equal(found[5:], frame[5:])
  black = data.random_crop(example(small), SEED, size=(8, 6))["image"].numpy()
  assert (black[:2] == 0).all()
  assert data.random_crop(example(small), SEED, size=4, fill=9.0)["image"].numpy()[3].max() == 9


def test_every_place_of_the_crop_is_equally_likely():
  """False alarms: one of the counts lies 4.5 s.e. away in 2e-4 of such tests."""
  image = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8, 1).repeat(3, -1)
  crop = tf.function(lambda seed: data.random_crop(example(image), seed, size=(4, 4))["image"][0, 0, 0])
  corners = np.array([crop(seed) for seed in seeds(900)]).astype(int)
  places, counts = np.unique(corners, return_counts=True)
  np.testing.assert_array_equal(places, [8 * y + x for y in range(3) for x in range(5)])
  assert abs(counts - 60).max() < 4.5 * np.sqrt(60 * 14 / 15)


def test_the_window_is_a_part_of_the_image():
  found = data.random_crop(example(NOISE), SEED, size=(20, 5))["image"].numpy()
  assert any(np.array_equal(found, NOISE[:, x : x + 5]) for x in range(20))


def test_rotation_keeps_the_centre_and_happens_with_its_probability():
  """False alarms: the share of 400 draws lies 4 s.e. away in 6e-5 of such tests."""
  odd = smooth_image(21, 21)
  turn = tf.function(
    lambda seed: data.rotate(example(odd), seed, degrees=10.0, fill=MEAN, probability=0.3)["image"]
  )
  turned = [turn(seed).numpy() for seed in seeds(400)]
  for image in turned[:20]:
    np.testing.assert_allclose(image[10, 10], odd[10, 10], atol=0.01)
  kept = np.mean([np.array_equal(image, odd) for image in turned])
  assert abs(kept - 0.7) < 4 * np.sqrt(0.3 * 0.7 / 400)
  np.testing.assert_array_equal(data.rotate(example(odd), SEED, degrees=10.0, probability=0.0)["image"], odd)


def test_pixels_from_outside_have_the_fill_of_their_channel():
  white = np.full((30, 30, 3), 255, np.uint8)
  turned = data.rotate(example(white), SEED, degrees=180.0, fill=MEAN)["image"].numpy()
  for channel, value in enumerate(MEAN):
    assert turned[..., channel].min() == pytest.approx(value, abs=1e-3)
    assert turned[..., channel].max() == pytest.approx(255, abs=1e-3)
    one = data.rotate(example(white), SEED, degrees=180.0, fill=value)["image"].numpy()
    np.testing.assert_allclose(turned[..., channel], one[..., channel], atol=1e-3)


def test_the_chain_of_pspnet_is_written_in_a_config():
  chain = [
    dict(fn=".data.resize", size=[32, 32]),
    dict(fn=".data.random_scale", low=0.5, high=2.0),
    dict(fn=".data.rotate", degrees=10.0, probability=0.5, fill=list(MEAN)),
    dict(fn=".data.gaussian_blur", kernel_size=5, probability=0.5),
    dict(fn=".data.flip_left_right", probability=0.5),
    dict(fn=".data.random_crop", size=32, fill=list(MEAN)),
    dict(fn=".data.normalize"),
  ]
  parsed = config.parse(dict(source=dict(make=".data.digits", split="train"), transforms=chain), Data)
  assert check_transforms(parsed) == set()
  source = data.from_arrays(
    images=np.random.default_rng(0).integers(0, 256, (8, 40, 30, 3), np.uint8), labels=np.arange(8) % 2
  )
  transforms = [spec.realize() for spec in parsed.transforms]
  batches = data.train_batches(source, transforms, batch_size=8, seed=0)
  first, second = next(batches), next(batches)
  assert first["image"].shape == (8, 32, 32, 3)
  assert np.isfinite(first["image"]).all()
  # The frame of a reduced image has the mean colour, which is 0 after normalisation.
  assert (abs(np.stack([first["image"], second["image"]])) < 1e-5).all(-1).any()
  again = next(data.train_batches(source, transforms, batch_size=8, seed=0, start_step=1))
  np.testing.assert_array_equal(second["image"], again["image"])


@pytest.mark.parametrize("transform", [partial(data.random_crop, size=16), data.random_scale])
def test_the_same_seed_makes_the_same_image(transform):
  one, two = (transform(example(NOISE), SEED)["image"].numpy() for _ in range(2))
  np.testing.assert_array_equal(one, two)
