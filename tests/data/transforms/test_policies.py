"""Policies: their tables, the strengths of their levels, Pillow's results, and the laws of the draws."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxtl import data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.operations import operations
from jaxtl.data.transforms.policies import AUTO_AUGMENT, CIFAR10, IMAGENET, TRIVIAL_AUGMENT, WIDE
from tests.data.made_images import smooth_image

# More than 255 pixels, below which Pillow does not equalize. Neither black nor white: a stretch of contrast
# changes it, and a threshold of 255 does not.
NOISE = np.random.default_rng(0).integers(10, 200, (24, 24, 3), dtype=np.uint8)
SMOOTH = smooth_image(40, 30)


def applied(strengths, name, level, sign=1.0, image=SMOOTH):
  operation = operations(strengths, fill=0.0)[name]
  return operation(tf.constant(image, tf.float32), tf.constant(level, tf.float32), tf.constant(sign)).numpy()


def pillow(image, kind, value):
  """The operation as Pillow computes it from the value that it takes."""
  if kind == "affine":
    return image.transform(image.size, Image.Transform.AFFINE, value, Image.Resampling.BILINEAR)
  if kind == "rotate":
    return image.rotate(value, Image.Resampling.BILINEAR)
  if kind in ("posterize", "solarize"):
    return getattr(ImageOps, kind)(image, value)
  return getattr(ImageEnhance, kind)(image).enhance(value)


@pytest.mark.parametrize(
  ("strengths", "name", "level", "sign", "kind", "value"),
  [
    (WIDE, "shear_x", 1.0, 1.0, "affine", (1, 0.99, 0, 0, 1, 0)),
    (WIDE, "shear_y", 10 / 30, -1.0, "affine", (1, 0, 0, -0.33, 1, 0)),
    (WIDE, "translate_x", 15 / 30, 1.0, "affine", (1, 0, 16, 0, 1, 0)),
    (WIDE, "translate_y", 15 / 30, -1.0, "affine", (1, 0, 0, 0, 1, -16)),
    (WIDE, "rotate", 20 / 30, 1.0, "rotate", 90),
    (WIDE, "brightness", 1.0, -1.0, "Brightness", 0.01),
    (WIDE, "color", 1.0, 1.0, "Color", 1.99),
    (WIDE, "contrast", 0.5, 1.0, "Contrast", 1.495),
    (WIDE, "sharpness", 0.5, -1.0, "Sharpness", 0.505),
    (WIDE, "posterize", 1.0, 1.0, "posterize", 2),
    (WIDE, "posterize", 10 / 30, 1.0, "posterize", 6),
    (WIDE, "solarize", 1.0, 1.0, "solarize", 0),
    (WIDE, "solarize", 15 / 30, 1.0, "solarize", 127.5),
    (AUTO_AUGMENT, "shear_x", 5 / 9, 1.0, "affine", (1, 1 / 6, 0, 0, 1, 0)),
    # 150 / 331 of 30 and 40 pixels, truncated.
    (AUTO_AUGMENT, "translate_x", 1.0, 1.0, "affine", (1, 0, 13, 0, 1, 0)),
    (AUTO_AUGMENT, "translate_y", 1.0, 1.0, "affine", (1, 0, 0, 0, 1, 18)),
    (AUTO_AUGMENT, "rotate", 8 / 9, -1.0, "rotate", -30 * 8 / 9),
    (AUTO_AUGMENT, "color", 4 / 9, 1.0, "Color", 1.4),
    (AUTO_AUGMENT, "contrast", 8 / 9, -1.0, "Contrast", 0.2),
    (AUTO_AUGMENT, "posterize", 8 / 9, 1.0, "posterize", 4),
    (AUTO_AUGMENT, "posterize", 5 / 9, 1.0, "posterize", 6),
    (AUTO_AUGMENT, "solarize", 5 / 9, 1.0, "solarize", 255 * 4 / 9),
  ],
)
def test_a_level_is_pillows_operation_of_that_strength(strengths, name, level, sign, kind, value):
  expected = np.asarray(pillow(Image.fromarray(SMOOTH), kind, value), np.float32)
  found = applied(strengths, name, level, sign)
  # Pillow rounds, and at the border it decides otherwise which pixels have all their neighbours.
  covered = np.pad(expected.max(-1) > 0, 1, constant_values=kind not in ("affine", "rotate"))
  inside = np.lib.stride_tricks.sliding_window_view(covered, (3, 3)).all((2, 3))
  assert inside.mean() > (0.1 if name == "shear_x" else 0.3)
  assert abs(found - expected)[inside].max() <= 2.5


@pytest.mark.parametrize("strengths", [WIDE, AUTO_AUGMENT], ids=["wide", "auto"])
@pytest.mark.parametrize("name", TRIVIAL_AUGMENT)
def test_level_zero_changes_nothing(strengths, name):
  if name not in ("autocontrast", "equalize"):
    for sign in (-1.0, 1.0):
      np.testing.assert_allclose(applied(strengths, name, 0.0, sign, NOISE), NOISE, atol=1e-3)


def test_bits_and_shifts_are_those_of_torchvisions_bins():
  bins = tf.range(31, dtype=tf.float32) / 30
  np.testing.assert_array_equal(WIDE.bits(bins), [8 - round(6 * number / 30) for number in range(31)])
  bins = tf.range(10, dtype=tf.float32) / 9
  np.testing.assert_array_equal(AUTO_AUGMENT.bits(bins), [8, 8, 7, 7, 6, 6, 5, 5, 4, 4])
  ramp = np.tile(np.arange(64, dtype=np.float32)[None, :, None], (64, 1, 3))
  for number in range(31):
    moved = applied(WIDE, "translate_x", number / 30, 1.0, ramp)
    assert moved[5, 0, 0] == pytest.approx(int(32 * number / 30), abs=1e-3)


def test_the_tables_are_the_published_ones():
  """Rows picked from the tables of the paper's appendix."""
  assert len(IMAGENET) == len(CIFAR10) == 25
  for at, row in {
    0: ("posterize", 0.4, 8, "rotate", 0.6, 9),
    3: ("posterize", 0.6, 7, "posterize", 0.6, 6),
    7: ("posterize", 0.8, 5, "equalize", 1.0, 0),
    10: ("rotate", 0.8, 8, "color", 0.4, 0),
    17: ("sharpness", 0.4, 7, "invert", 0.6, 0),
    18: ("shear_x", 0.6, 5, "equalize", 1.0, 0),
    24: ("equalize", 0.8, 0, "equalize", 0.6, 0),
  }.items():
    assert IMAGENET[at] == row
  for at, row in {
    0: ("invert", 0.1, 0, "contrast", 0.2, 6),
    1: ("rotate", 0.7, 2, "translate_x", 0.3, 9),
    3: ("shear_y", 0.5, 8, "translate_y", 0.7, 9),
    7: ("sharpness", 0.3, 9, "brightness", 0.7, 9),
    14: ("solarize", 0.5, 2, "invert", 0.0, 0),
    21: ("translate_y", 0.9, 9, "translate_y", 0.7, 9),
    24: ("translate_y", 0.7, 9, "autocontrast", 0.9, 0),
  }.items():
    assert CIFAR10[at] == row
  counts = Counter(row[at] for row in IMAGENET for at in (0, 3))
  assert counts == {
    "equalize": 17, "color": 6, "rotate": 6, "posterize": 5, "solarize": 7, "invert": 3,
    "autocontrast": 2, "contrast": 2, "sharpness": 1, "shear_x": 1,
  }  # fmt: skip
  for row in (*IMAGENET, *CIFAR10):
    for name, probability, level in (row[:3], row[3:]):
      assert 0 <= probability <= 1
      assert 0 <= level <= 9
      assert level == 0 or name not in ("autocontrast", "equalize", "invert", "identity")


def unchanged(transform, count):
  """The share of draws that leave the noise as it is."""

  @tf.function
  def run():
    return tf.map_fn(
      lambda number: tf.reduce_all(
        abs(transform({"image": tf.constant(NOISE)}, tf.stack([3, number]))["image"] - NOISE) < 0.01
      ),
      tf.range(count),
      fn_output_signature=tf.bool,
    )

  return run().numpy().mean()


def test_trivial_augment_leaves_the_image_as_often_as_its_uniform_draws_say():
  """False alarms: the share of 3000 draws lies 4.4 s.e. away in 1e-5 of such tests."""
  # The identity; the first of 31 bins of nine signed operations; three bins of 8 bits; a threshold of 255.
  expected = (1 + 9 / 31 + 3 / 31 + 1 / 31) / 14
  found = unchanged(data.trivial_augment, 3000)
  assert abs(found - expected) < 4.4 * np.sqrt(expected * (1 - expected) / 3000)
  # With two bins half of the signed operations do nothing.
  expected = (1 + 9 / 2 + 1 / 2 + 1 / 2) / 14
  found = unchanged(partial(data.trivial_augment, num_bins=2), 1000)
  assert abs(found - expected) < 4.4 * np.sqrt(expected * (1 - expected) / 1000)


@pytest.mark.parametrize(("policy", "table"), [("imagenet", IMAGENET), ("cifar10", CIFAR10)])
def test_auto_augment_leaves_the_image_as_often_as_its_table_says(policy, table):
  """False alarms: the share of 3000 draws lies 4.4 s.e. away in 1e-5 of such tests."""

  def kept(name, probability, level):
    return 1.0 if name == "color" and level == 0 else 1 - probability

  expected = np.mean([kept(*row[:3]) * kept(*row[3:]) for row in table])
  found = unchanged(partial(data.auto_augment, policy=policy), 3000)
  assert abs(found - expected) < 4.4 * np.sqrt(expected * (1 - expected) / 3000)


@pytest.mark.parametrize("transform", [data.trivial_augment, partial(data.auto_augment, policy="cifar10")])
def test_the_fill_is_what_comes_from_outside(transform):
  white = {"image": tf.fill([20, 20, 3], 255.0)}
  fill = (250.0, 251.0, 252.0)
  run = tf.function(lambda seed: transform(white, seed, fill=fill)["image"])
  images = [run(tf.constant([1, n], tf.int64)).numpy() for n in range(40)]
  assert any((abs(image - np.float32(fill)) < 1e-3).all(-1).any() for image in images)


def test_operations_differ_little_from_nearest_pixels_with_black():
  """torchvision samples to the nearest pixel: the difference of a smooth image stays small inside."""
  image = smooth_image(64, 64).astype(np.float32)
  steps = max(abs(np.diff(image, axis=0)).max(), abs(np.diff(image, axis=1)).max())
  rows = np.arange(64)[:, None]
  for bin_number in range(10):
    shear = 0.3 * bin_number / 9
    nearest = np.clip(np.floor(np.arange(64)[None] + 0.5 + shear * (rows + 0.5)).astype(int), 0, 63)
    inside = np.arange(64)[None] + shear * (rows + 0.5) < 63
    expected = np.take_along_axis(image, nearest[..., None], 1)
    found = applied(AUTO_AUGMENT, "shear_x", bin_number / 9, 1.0, image)
    assert abs(found - expected)[inside].max() <= steps
