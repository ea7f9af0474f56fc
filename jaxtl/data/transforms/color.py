"""Functions of float32 pixels [H, W, 3] from 0 to 255, which return the same type.

All except `hue` compute what Pillow does, without its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxtl.data.lazy_tensorflow import tf


def brightness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Scales the brightness: 0 gives black, 1 the image."""
  return blend(tf.zeros_like(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Scales the contrast: 0 gives the mean grey of the whole image, 1 the image."""
  return blend(tf.fill(tf.shape(image), tf.reduce_mean(gray(image))), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Scales the saturation: 0 gives the image in grey, 1 the image."""
  return blend(gray(image), image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Scales the sharpness: 0 gives the image smoothed by a 3 x 3 kernel, 1 the image.

  The outermost pixels are unchanged.
  """
  kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
  kernel = np.tile(kernel[:, :, None, None], [1, 1, 3, 1])
  smooth = tf.nn.depthwise_conv2d(image[None], kernel, strides=[1, 1, 1, 1], padding="VALID")[0]
  inside = tf.pad(tf.ones_like(smooth), [[1, 1], [1, 1], [0, 0]])
  smooth = tf.where(inside > 0, tf.pad(smooth, [[1, 1], [1, 1], [0, 0]]), image)
  return blend(smooth, image, factor)


def hue(image: tf.Tensor, shift: tf.Tensor | float) -> tf.Tensor:
  """Rotates the hue by `shift` of a full circle."""
  return 255 * tf.image.adjust_hue(image / 255, shift)


def posterize(image: tf.Tensor, bits: tf.Tensor | int) -> tf.Tensor:
  """Keeps the `bits` highest of the 8 bits."""
  step = tf.pow(2.0, 8.0 - tf.cast(bits, tf.float32))
  return tf.floor(tf.round(image) / step) * step


def solarize(image: tf.Tensor, threshold: tf.Tensor | float) -> tf.Tensor:
  """Inverts pixels at or above the threshold."""
  return tf.where(image < threshold, image, 255 - image)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
  """Stretches each channel to 0..255; a constant channel is unchanged."""
  low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
  stretched = (image - low) * tf.math.divide_no_nan(255.0, high - low)
  return tf.where(high > low, stretched, image)


def equalize(image: tf.Tensor) -> tf.Tensor:
  """Flattens each channel's histogram by Pillow's integer rule."""
  levels = tf.cast(tf.round(image), tf.int32)
  return tf.stack([_equalized(levels[..., channel]) for channel in range(3)], axis=-1)


def gray(image: tf.Tensor) -> tf.Tensor:
  """Computes the luma of ITU-R 601: [H, W, 3] to the same shape with equal channels."""
  luma = tf.linalg.matvec(image, tf.constant([0.299, 0.587, 0.114]))
  return tf.repeat(luma[..., None], 3, axis=-1)


def blend(a: tf.Tensor, b: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Interpolates between `a` at factor 0 and `b` at 1, extrapolates outside, and clips to 0..255."""
  return tf.clip_by_value(a + factor * (b - a), 0.0, 255.0)


def one_of(
  choice: tf.Tensor, branches: Sequence[Callable[..., tf.Tensor]], shape: tf.TensorShape
) -> tf.Tensor:
  """Returns the result of branch number `choice`; only that branch runs."""
  return tf.ensure_shape(tf.switch_case(choice, list(branches)), shape)


def _equalized(levels: tf.Tensor) -> tf.Tensor:
  histogram = tf.math.bincount(tf.reshape(levels, [-1]), minlength=256, maxlength=256)
  last = tf.reduce_max(levels)
  step = (tf.reduce_sum(histogram) - histogram[last]) // 255
  table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
  result = tf.where(step > 0, tf.gather(tf.clip_by_value(table, 0, 255), levels), levels)
  return tf.cast(result, tf.float32)
