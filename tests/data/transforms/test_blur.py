"""The blur against its published kernels and a dense reference."""

from __future__ import annotations

import numpy as np
import pytest

from jaxtl import data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.blur import blur_kernel

SEED = tf.constant([1, 2], tf.int64)
NOISE = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)


def blurred(image, seed=SEED, **settings):
  example = {"image": tf.constant(image), "label": tf.constant(0)}
  return data.gaussian_blur(example, seed, **{"probability": 1.0, **settings})["image"].numpy()


def dense(image, kernel):
  """Each pixel as a weighted sum over its mirrored neighbourhood, in float64."""
  around = len(kernel) // 2
  padded = np.pad(image.astype(np.float64), [(around, around), (around, around), (0, 0)], "reflect")
  windows = np.lib.stride_tricks.sliding_window_view(padded, (len(kernel), len(kernel)), axis=(0, 1))
  return np.einsum("hwcij,i,j->hwc", windows, kernel, kernel)


def test_an_impulse_becomes_the_outer_product_of_binomials():
  image = np.zeros((9, 9, 3), np.float32)
  image[4, 4] = 256
  found = blurred(image)
  row = np.array([1, 4, 6, 4, 1]) / 16
  np.testing.assert_array_equal(found[2:7, 2:7, 0], 256 * np.outer(row, row))
  np.testing.assert_array_equal(found.sum((0, 1)), [256] * 3)


@pytest.mark.parametrize(("size", "sigma"), [(3, None), (5, None), (7, None), (9, None), (5, 1.1), (7, 0.5)])
def test_it_is_the_dense_sum_over_mirrored_neighbours(size, sigma):
  kernel = blur_kernel(size, sigma)
  assert kernel.sum() == pytest.approx(1, abs=1e-6)
  found = blurred(NOISE, kernel_size=size, sigma=sigma)
  np.testing.assert_allclose(found, dense(NOISE, kernel.astype(np.float64)), atol=1e-3)


def test_kernels_without_sigma_are_opencvs():
  np.testing.assert_array_equal(blur_kernel(1, None), [1])
  np.testing.assert_array_equal(blur_kernel(3, None) * 4, [1, 2, 1])
  np.testing.assert_array_equal(blur_kernel(5, None) * 16, [1, 4, 6, 4, 1])
  np.testing.assert_array_equal(blur_kernel(7, None) * 64, [2, 7, 14, 18, 14, 7, 2])
  # Not what sigma = 1.1, OpenCV's rule for size 5, would give: .0708, .2445, .3695.
  np.testing.assert_allclose(blur_kernel(5, 1.1)[:3], [0.0708, 0.2445, 0.3695], atol=5e-5)
  # From 0.3 ((9 - 1) / 2 - 1) + 0.8 = 1.7 on by the rule.
  np.testing.assert_array_equal(blur_kernel(9, None), blur_kernel(9, 1.7))


def test_the_probability_is_that_of_a_blur():
  """False alarms: the share of 400 draws lies 4 s.e. away in 6e-5 of such tests."""
  blur = tf.function(
    lambda seed: data.gaussian_blur({"image": tf.constant(NOISE)}, seed, probability=0.3)["image"]
  )
  kept = [np.array_equal(blur(tf.constant([7, n], tf.int64)), NOISE) for n in range(400)]
  assert abs(np.mean(kept) - 0.7) < 4 * np.sqrt(0.3 * 0.7 / 400)
  np.testing.assert_array_equal(blurred(NOISE, probability=0.0), NOISE)
