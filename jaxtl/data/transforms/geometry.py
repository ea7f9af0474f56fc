"""Random changes of the frame: scale, and crop with padding."""

from __future__ import annotations

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.declared import declares
from jaxtl.data.transforms.images import Example, Size, pair, to_rgb
from jaxtl.data.transforms.ranges import Fill, check_fill
from jaxtl.errors import ConfigError


def _check_random_scale(*, low: float, high: float) -> None:
  if not 0 < low <= high < float("inf"):
    raise ConfigError(
      f"random_scale low is {low:g} and high is {high:g}; expected 0 < low <= high (for example 0.5 and 2)"
    )


@declares(check=_check_random_scale)
def random_scale(example: Example, seed: tf.Tensor, *, low: float = 0.5, high: float = 2.0) -> Example:
  """Resizes both sides by one factor, uniform between `low` and `high`, bilinearly without antialiasing.

  The image then has another size: `random_crop` usually follows. PSPNet's training code
  (hszhao/semseg, util/transform.py) is the source of the defaults and of the interpolation.

  Args:
    example: an example with an image.
    seed: int [2].
    low, high: smallest and largest factor.

  Returns:
    The example with a float32 image; its sides are rounded to whole pixels.

  Raises:
    ConfigError: `low` is not above 0, or `high` is below it.
  """
  _check_random_scale(low=low, high=high)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  factor = low + (high - low) * tf.random.stateless_uniform([], seed)
  sides = tf.round(factor * tf.cast(tf.shape(image)[:2], tf.float32))
  size = tf.maximum(tf.cast(sides, tf.int32), 1)
  resized = tf.image.resize(image, size, method="bilinear", antialias=False)
  return {**example, "image": tf.ensure_shape(resized, [None, None, 3])}


def _check_random_crop(*, fill: Fill, size: Size | None = None) -> None:
  check_fill("random_crop", fill)
  if size is not None and min(pair(size)) < 1:
    raise ConfigError(f"random_crop size is {size}; expected pixels, at least 1 (for example 224)")


@declares(check=_check_random_crop)
def random_crop(example: Example, seed: tf.Tensor, *, size: Size, fill: Fill = 0.0) -> Example:
  """Crops a window at a uniform place; a smaller image is first padded on all sides.

  Half of the missing pixels, rounded down, are added before the image and the others after it, as in
  PSPNet's training code (hszhao/semseg, util/transform.py). That code fills with the mean of ImageNet,
  (123.675, 116.28, 103.53).

  Args:
    example: an example with an image.
    seed: int [2].
    size: size of the window, the side in pixels or (height, width).
    fill: value of the added pixels, one number or one for each channel.

  Returns:
    The example with a float32 image.

  Raises:
    ConfigError: the size is below 1, or `fill` has another number of channels.
  """
  _check_random_crop(size=size, fill=fill)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  height, width = pair(size)
  shape = tf.shape(image)[:2]
  missing = tf.maximum([height, width] - shape, 0)
  before = missing // 2
  around = [[before[0], missing[0] - before[0]], [before[1], missing[1] - before[1]], [0, 0]]
  places = tf.cast(shape + missing - [height, width] + 1, tf.float32)
  offset = tf.concat([tf.cast(tf.random.stateless_uniform([2], seed) * places, tf.int32), [0]], 0)
  pixels = tf.slice(tf.pad(image, around), offset, [height, width, 3])
  inside = tf.slice(tf.pad(tf.ones_like(image[..., :1]), around), offset, [height, width, 1])
  return {**example, "image": tf.where(inside > 0, pixels, tf.constant(fill, tf.float32))}
