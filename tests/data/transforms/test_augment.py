"""Random changes: their limits, their rates, and Pillow's results where Pillow has the operation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

import jaxtl.data as data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import color, rand_augment
from jaxtl.errors import ConfigError
from tests.data.made_images import smooth_image

SEED = tf.constant([1, 2], tf.int64)
NOISE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def example(image):
  return {"image": tf.constant(image), "label": tf.constant(0)}


def seeds(count):
  return [tf.constant([5, number], tf.int64) for number in range(count)]


def test_flip_mirrors_with_the_given_probability():
  flip = tf.function(lambda seed, p: data.flip_left_right(example(NOISE), seed, probability=p)["image"])
  flipped = [np.array_equal(flip(seed, 0.3), NOISE[:, ::-1]) for seed in seeds(400)]
  kept = [np.array_equal(flip(seed, 0.3), NOISE) for seed in seeds(400)]
  assert sum(flipped) + sum(kept) == 400
  assert abs(np.mean(flipped) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 400)
  np.testing.assert_array_equal(flip(SEED, 1.0), NOISE[:, ::-1])
  np.testing.assert_array_equal(flip(SEED, 0.0), NOISE)


def test_gray_is_pillows_in_all_three_channels():
  found = data.to_gray(example(NOISE))["image"].numpy()
  assert found.dtype == np.float32
  np.testing.assert_allclose(found[..., 0], np.asarray(Image.fromarray(NOISE).convert("L")), atol=1.0)
  np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=-1))


def test_rotate_by_zero_is_the_identity_and_fill_comes_from_outside():
  np.testing.assert_allclose(data.rotate(example(NOISE), SEED, degrees=0.0)["image"], NOISE, atol=1e-3)
  white = np.full((30, 30, 3), 255, np.uint8)
  turned = data.rotate(example(white), SEED, degrees=180.0, fill=7.0)["image"].numpy()
  assert turned[15, 15, 0] == pytest.approx(255)
  assert 7.0 in turned
  assert 7.0 not in data.rotate(example(white), SEED, degrees=180.0)["image"].numpy()


def test_affine_quarter_turn_and_shift_are_exact():
  from jaxtl.data.transforms.augment import affine, rotation

  square = tf.constant(NOISE[:20, :20].astype(np.float32))
  np.testing.assert_allclose(
    affine(square, rotation(tf.constant(np.pi / 2, tf.float32))), np.rot90(square), atol=0.05
  )
  shifted = affine(square, tf.eye(2), shift=[3.0, -2.0], fill=9.0).numpy()
  np.testing.assert_allclose(shifted[2:, :-3], square[:-2, 3:], atol=1e-3)
  assert (shifted[:2] == 9).all()


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (color.brightness, ImageEnhance.Brightness),
    (color.contrast, ImageEnhance.Contrast),
    (color.saturation, ImageEnhance.Color),
    (color.sharpness, ImageEnhance.Sharpness),
  ],
)
def test_enhancements_are_pillows(ours, theirs, factor):
  # Pillow rounds the grey or smoothed image before blending, and then the result.
  expected = np.asarray(theirs(Image.fromarray(NOISE)).enhance(factor), np.float32)
  result = ours(tf.constant(NOISE, tf.float32), factor)
  np.testing.assert_allclose(result, expected, atol=1.1 + abs(factor - 1))


@pytest.mark.parametrize("image", [NOISE, smooth_image(20, 24) // 2 + 30], ids=["noise", "smooth"])
def test_histogram_operations_are_pillows(image):
  pillow, ours = Image.fromarray(image), tf.constant(image, tf.float32)
  np.testing.assert_array_equal(color.equalize(ours), np.asarray(ImageOps.equalize(pillow), np.float32))
  np.testing.assert_allclose(color.autocontrast(ours), np.asarray(ImageOps.autocontrast(pillow)), atol=1.01)
  np.testing.assert_array_equal(
    color.posterize(ours, 3), np.asarray(ImageOps.posterize(pillow, 3), np.float32)
  )
  np.testing.assert_array_equal(
    color.solarize(ours, 100), np.asarray(ImageOps.solarize(pillow, 100), np.float32)
  )


def test_flat_images_survive_histogram_operations():
  flat = tf.fill([6, 6, 3], 90.0)
  np.testing.assert_array_equal(color.equalize(flat), flat)
  np.testing.assert_array_equal(color.autocontrast(flat), flat)


def test_color_jitter_without_strength_is_the_identity():
  np.testing.assert_array_equal(data.color_jitter(example(NOISE), SEED)["image"], NOISE)


def test_color_jitter_strengths_bound_what_changes():
  for seed in seeds(5):
    brighter = data.color_jitter(example(NOISE), seed, brightness=0.4)["image"].numpy()
    factor = brighter[NOISE > 0].sum() / NOISE.sum()
    assert 0.55 < factor <= 1.4
    grayer = data.color_jitter(example(NOISE), seed, saturation=0.5)["image"].numpy()
    inside = (grayer > 0) & (grayer < 255)
    luma = lambda image: image @ np.array([0.299, 0.587, 0.114])  # noqa: E731
    whole = inside.all(-1)
    np.testing.assert_allclose(luma(grayer)[whole], luma(NOISE)[whole], atol=0.1)
    contrast = data.color_jitter(example(NOISE), seed, contrast=0.5)["image"].numpy()
    assert 0.4 < contrast.std() / NOISE.std() < 1.6
    hue = data.color_jitter(example(NOISE), seed, hue=0.2)["image"].numpy()
    np.testing.assert_allclose(hue.max(-1), NOISE.max(-1), atol=0.1)
    np.testing.assert_allclose(hue.min(-1), NOISE.min(-1), atol=0.1)
    assert not np.allclose(hue, NOISE, atol=1)


def test_color_jitter_draws_its_order():
  # Strong brightness clips, so the result depends on which of the two comes first.
  jitter = tf.function(
    lambda seed: data.color_jitter(example(NOISE), seed, brightness=1.0, contrast=1.0)["image"]
  )
  results = {jitter(seed).numpy().tobytes() for seed in seeds(10)}
  assert len(results) == 10


def test_random_erasing_overwrites_a_rectangle_of_the_given_area():
  image = np.full((40, 50, 3), 100.0, np.float32)
  erase = tf.function(
    lambda seed: data.random_erasing(
      example(image), seed, probability=1.0, area=(0.1, 0.2), ratio=(0.5, 2.0), value=-1.0, noise=0.0
    )["image"]
  )
  for seed in seeds(20):
    erased = (erase(seed).numpy() == -1.0).all(-1)
    rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
    height, width = len(rows), len(columns)
    assert erased.sum() == height * width
    # Both sides are rounded to whole pixels.
    assert 0.1 * 2000 - height - width < erased.sum() < 0.2 * 2000 + height + width
    assert 0.5 * 0.85 < height / width < 2.0 * 1.15


def test_random_erasing_probability_and_noise():
  image = np.zeros((30, 30, 3), np.float32)
  np.testing.assert_array_equal(data.random_erasing(example(image), SEED, probability=0.0)["image"], image)
  erased = data.random_erasing(example(image), SEED, probability=1.0, area=(0.5, 0.5), noise=2.0)[
    "image"
  ].numpy()
  assert erased[erased != 0].std() == pytest.approx(2.0, rel=0.15)
  rate = np.mean(
    [np.any(data.random_erasing(example(image), s, probability=0.5, value=1.0)["image"]) for s in seeds(60)]
  )
  assert 0.2 < rate < 0.8
  never_fits = data.random_erasing(example(image), SEED, probability=1.0, area=(2.0, 3.0), tries=2)
  np.testing.assert_array_equal(never_fits["image"], image)


@pytest.mark.parametrize("name", sorted(rand_augment.OPERATIONS))
def test_operations_keep_the_range_and_are_identity_at_level_zero(name):
  operation = rand_augment.OPERATIONS[name]
  image = tf.constant(NOISE, tf.float32)
  for sign in (-1.0, 1.0):
    strong = operation(image, 1.0, tf.constant(sign)).numpy()
    assert strong.shape == NOISE.shape
    assert strong.min() >= 0
    assert strong.max() <= 255
    if name not in ("autocontrast", "equalize"):
      np.testing.assert_allclose(operation(image, 0.0, tf.constant(sign)), NOISE, atol=1e-3)
    if name != "identity":
      assert not np.allclose(strong, NOISE, atol=1) or name == "autocontrast"


def test_rand_augment_options():
  run = lambda seed, **options: data.rand_augment(example(NOISE), seed, **options)["image"].numpy()  # noqa: E731
  augment = tf.function(lambda seed: data.rand_augment(example(NOISE), seed)["image"])
  assert len({augment(seed).numpy().tobytes() for seed in seeds(30)}) > 20
  one = [run(seed, num_ops=1) for seed in seeds(6)]
  assert any(not np.array_equal(a, run(seed, num_ops=2)) for a, seed in zip(one, seeds(6), strict=True))
  assert any(
    not np.array_equal(a, run(seed, num_ops=1, magnitude=3)) for a, seed in zip(one, seeds(6), strict=True)
  )


@pytest.mark.parametrize(
  ("augment", "said"),
  [
    (lambda e: data.rand_augment(e, SEED, magnitude=11), "magnitude is 11; expected 0 to 10"),
    (lambda e: data.rand_augment(e, SEED, magnitude=-0.5), "magnitude is -0.5"),
    (lambda e: data.rand_augment(e, SEED, num_ops=0), "num_ops is 0; expected at least 1"),
    (lambda e: data.color_jitter(e, SEED, hue=0.6), "hue is 0.6; expected 0 to 0.5"),
    (lambda e: data.color_jitter(e, SEED, hue=-0.1), "hue is -0.1"),
  ],
)
def test_strengths_off_the_scale_are_refused(augment, said):
  with pytest.raises(ConfigError, match=said):
    augment(example(NOISE))


def test_strengths_at_the_ends_of_the_scale_are_allowed():
  for magnitude in (0, 10):
    assert data.rand_augment(example(NOISE), SEED, magnitude=magnitude)["image"].shape == NOISE.shape
  assert data.color_jitter(example(NOISE), SEED, hue=0.5)["image"].shape == NOISE.shape
