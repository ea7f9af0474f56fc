"""Changes of one image that keep its label; random ones take a seed in addition to the example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import color
from jaxtl.data.transforms.declared import declares
from jaxtl.data.transforms.draws import fold, happens
from jaxtl.data.transforms.images import Example, to_rgb
from jaxtl.data.transforms.ranges import Fill, check_fill, check_probability
from jaxtl.errors import ConfigError


def flip_left_right(example: Example, seed: tf.Tensor, *, probability: float = 0.5) -> Example:
  """Mirrors the image left to right with the given probability."""
  image = to_rgb(example)["image"]
  flip = tf.random.stateless_uniform([], seed) < probability
  mirrored = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
  return {**example, "image": tf.ensure_shape(mirrored, image.shape)}


def to_gray(example: Example) -> Example:
  """Replaces all three channels by luma (ITU-R 601, as Pillow's mode L, not rounded), to remove colour.

  Args:
    example: an example with an image.
  """
  return {**example, "image": color.gray(tf.cast(to_rgb(example)["image"], tf.float32))}


def _check_rotate(*, fill: Fill, probability: float, degrees: float = 0.0) -> None:
  del degrees  # any angle is valid
  check_fill("rotate", fill)
  check_probability("rotate", probability=probability)


@declares(check=_check_rotate)
def rotate(
  example: Example, seed: tf.Tensor, *, degrees: float, fill: Fill = 0.0, probability: float = 1.0
) -> Example:
  """Rotates the image about its centre by a uniform angle from -degrees to degrees, with bilinear sampling.

  Args:
    example: an example with an image.
    seed: int [2].
    degrees: the largest angle.
    fill: value of pixels from outside the image, one number or one for each channel.
    probability: probability of a rotation; the image is unchanged otherwise.

  Returns:
    The example with a float32 image.

  Raises:
    ConfigError: the probability is outside [0, 1], or `fill` has another number of channels.
  """
  _check_rotate(fill=fill, probability=probability)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  angle = tf.random.stateless_uniform([], seed, -1.0, 1.0) * (degrees * math.pi / 180)
  if probability == 1:
    return {**example, "image": affine(image, rotation(angle), fill=fill)}
  rotated = tf.cond(
    happens(fold(seed, 1), probability),
    lambda: affine(image, rotation(angle), fill=fill),
    lambda: image,
  )
  return {**example, "image": tf.ensure_shape(rotated, image.shape)}


def color_jitter(
  example: Example,
  seed: tf.Tensor,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
) -> Example:
  """Changes brightness, contrast, saturation and hue by random amounts, in random order, as torchvision.

  Args:
    example: an example with an image from 0 to 255.
    seed: int [2].
    brightness, contrast, saturation: a value s draws a factor uniformly from [max(0, 1 - s), 1 + s].
    hue: a value h draws a shift uniformly from [-h, h] of a full circle; at most 0.5.

  Returns:
    The example with a float32 image from 0 to 255.

  Raises:
    ConfigError: `hue` is outside [0, 0.5].
  """
  if not 0 <= hue <= 0.5:
    raise ConfigError(f"color_jitter hue is {hue:g}; expected 0 to 0.5 (half a circle reaches every hue)")
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  draws = tf.random.stateless_uniform([4], seed)
  strengths = {color.brightness: brightness, color.contrast: contrast, color.saturation: saturation}
  changes: list[tuple[Any, tf.Tensor]] = []
  for draw, (change, strength) in zip(tf.unstack(draws), strengths.items(), strict=False):
    low = max(0.0, 1 - strength)
    if strength:
      changes.append((change, low + (1 + strength - low) * draw))
  if hue:
    changes.append((color.hue, hue * (2 * draws[3] - 1)))
  order = tf.argsort(
    tf.random.stateless_uniform([len(changes)], tf.random.experimental.stateless_fold_in(seed, 1))
  )
  shape = image.shape
  for place in range(len(changes)):
    branches = [lambda change=change, by=by, image=image: change(image, by) for change, by in changes]
    image = color.one_of(order[place], branches, shape)
  return {**example, "image": image}


def random_erasing(
  example: Example,
  seed: tf.Tensor,
  *,
  probability: float = 0.25,
  area: Sequence[float] = (0.02, 0.4),
  ratio: Sequence[float] = (0.3, 1 / 0.3),
  value: float = 0.0,
  noise: float = 1.0,
  tries: int = 10,
) -> Example:
  """Overwrites a random rectangle; meant to be used after `normalize`.

  Zhong et al., "Random Erasing Data Augmentation", 2017, arXiv 1708.04896, the source of `area` and `ratio`.

  Args:
    example: an example with an image.
    seed: int [2].
    probability: probability of erasing a rectangle.
    area: smallest and largest fraction of the image's area.
    ratio: smallest and largest height / width, log-uniform.
    value: mean of the new pixels.
    noise: standard deviation of the new pixels, drawn independently; 0 gives a uniform rectangle.
    tries: number of rectangles drawn to find one that fits; if none fits, the image is unchanged.

  Returns:
    The example with a float32 image.
  """
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  shape = tf.shape(image)
  height, width = tf.unstack(tf.cast(shape[:2], tf.float32))
  draws = tf.random.stateless_uniform([4, tries], seed)
  erased = height * width * (area[0] + (area[1] - area[0]) * draws[0])
  low, high = math.log(ratio[0]), math.log(ratio[1])
  aspect = tf.exp(low + (high - low) * draws[1])
  h, w = tf.round(tf.sqrt(erased * aspect)), tf.round(tf.sqrt(erased / aspect))
  fits = (h < height) & (w < width)
  first = tf.argmax(fits)
  h, w = h[first], w[first]
  y, x = tf.floor(draws[2, first] * (height - h + 1)), tf.floor(draws[3, first] * (width - w + 1))
  rows, columns = tf.range(height)[:, None], tf.range(width)[None, :]
  inside = (rows >= y) & (rows < y + h) & (columns >= x) & (columns < x + w)
  coin = tf.random.stateless_uniform([], tf.random.experimental.stateless_fold_in(seed, 1)) < probability

  def filled() -> tf.Tensor:
    pixels = tf.random.stateless_normal(shape, tf.random.experimental.stateless_fold_in(seed, 2))
    return tf.where(inside[..., None], value + noise * pixels, image)

  result = tf.cond(coin & tf.reduce_any(fits), filled, lambda: image)
  return {**example, "image": tf.ensure_shape(result, image.shape)}


def rotation(angle: tf.Tensor) -> tf.Tensor:
  """Returns the [2, 2] matrix that rotates (x, y), with y pointing down, by `angle` in radians."""
  return tf.stack([tf.stack([tf.cos(angle), -tf.sin(angle)]), tf.stack([tf.sin(angle), tf.cos(angle)])])


def affine(
  image: tf.Tensor, matrix: tf.Tensor, *, shift: tf.Tensor | Sequence[float] = (0.0, 0.0), fill: Fill = 0.0
) -> tf.Tensor:
  """Transforms an image so that its pixel at p is the old one at `matrix` p + `shift`.

  Positions are (x, y), measured from the centre. Sampling is bilinear. Pixels from outside the image have the
  value `fill`, one number or one for each channel.
  """
  if not isinstance(fill, (int, float)):
    # The operation fills all channels alike: shift the colour to 0 and back.
    colour = tf.constant(fill, tf.float32)
    return affine(image - colour, matrix, shift=shift) + colour
  height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
  centre = tf.stack([(width - 1) / 2, (height - 1) / 2])
  offset = centre - tf.linalg.matvec(matrix, centre) + tf.convert_to_tensor(shift)
  transform = tf.concat([matrix[0], offset[:1], matrix[1], offset[1:], [0.0, 0.0]], 0)
  moved = tf.raw_ops.ImageProjectiveTransformV3(
    images=image[None],
    transforms=transform[None],
    output_shape=tf.shape(image)[:2],
    fill_value=fill,
    interpolation="BILINEAR",
    fill_mode="CONSTANT",
  )
  return tf.ensure_shape(moved[0], image.shape)
