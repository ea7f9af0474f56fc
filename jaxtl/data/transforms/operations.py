"""The image operations that augmentation policies choose from, on a common scale of levels from 0 to 1.

Geometry is sampled bilinearly and filled with middle grey unless a policy says otherwise; torchvision samples
its policies to the nearest pixel and fills with black. Shear is about the upper left corner, as in Pillow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import color
from jaxtl.data.transforms.augment import affine, rotation
from jaxtl.data.transforms.ranges import Fill

GREY = 128.0

Operation = Callable[..., Any]  # (image, level, sign) -> image


@dataclasses.dataclass(frozen=True)
class Strengths:
  """The meaning of the levels from 0 to 1.

  Attributes:
    shear: tangent of the angle at level 1.
    degrees: angle of rotation as a function of the level.
    pixels: (level, side of the image) -> shift, truncated to whole pixels.
    factor: (level, sign) -> factor of an enhancement; 1 is the image itself.
    bits: level -> number of bits that posterize keeps.
    threshold: level -> smallest pixel value that solarize inverts.
  """

  shear: float
  degrees: Callable[[tf.Tensor], tf.Tensor]
  pixels: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
  factor: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
  bits: Callable[[tf.Tensor], tf.Tensor]
  threshold: Callable[[tf.Tensor], tf.Tensor]


def operations(strengths: Strengths, *, fill: Fill = GREY) -> dict[str, Operation]:
  """Returns the operations by name, each (image, level, sign) -> image of the same shape, 0 to 255.

  Args:
    strengths: the meaning of the levels.
    fill: value of pixels from outside the image, one number or one for each channel.
  """
  shear, fraction = strengths.shear, strengths.pixels
  height = lambda image: tf.cast(tf.shape(image)[0], tf.float32)  # noqa: E731
  width = lambda image: tf.cast(tf.shape(image)[1], tf.float32)  # noqa: E731
  return {
    "identity": lambda image, level, sign: image,
    "shear_x": lambda image, level, sign: sheared_x(image, sign * shear * level, fill=fill),
    "shear_y": lambda image, level, sign: sheared_y(image, sign * shear * level, fill=fill),
    "translate_x": lambda image, level, sign: shifted(
      image, sign * truncated(fraction(level, width(image))), 0.0, fill=fill
    ),
    "translate_y": lambda image, level, sign: shifted(
      image, 0.0, sign * truncated(fraction(level, height(image))), fill=fill
    ),
    "rotate": lambda image, level, sign: rotated(image, sign * strengths.degrees(level), fill=fill),
    "brightness": lambda image, level, sign: color.brightness(image, strengths.factor(level, sign)),
    "color": lambda image, level, sign: color.saturation(image, strengths.factor(level, sign)),
    "contrast": lambda image, level, sign: color.contrast(image, strengths.factor(level, sign)),
    "sharpness": lambda image, level, sign: color.sharpness(image, strengths.factor(level, sign)),
    "posterize": lambda image, level, sign: color.posterize(image, strengths.bits(level)),
    "solarize": lambda image, level, sign: color.solarize(image, strengths.threshold(level)),
    "autocontrast": lambda image, level, sign: color.autocontrast(image),
    "equalize": lambda image, level, sign: color.equalize(image),
    "invert": lambda image, level, sign: 255.0 - image,
  }


def applied(
  image: tf.Tensor, number: tf.Tensor, level: tf.Tensor, sign: tf.Tensor, *, among: Sequence[Operation]
) -> tf.Tensor:
  """Returns the result of operation `number`; only that one runs."""
  branches = [lambda operation=operation: operation(image, level, sign) for operation in among]
  return color.one_of(number, branches, image.shape)


def rotated(image: tf.Tensor, degrees: tf.Tensor, *, fill: Fill) -> tf.Tensor:
  """Rotates the image about its centre."""
  return affine(image, rotation(degrees * (math.pi / 180)), fill=fill)


def sheared_x(image: tf.Tensor, amount: tf.Tensor, *, fill: Fill) -> tf.Tensor:
  """Moves each row by `amount` times its distance from the upper edge."""
  height = tf.cast(tf.shape(image)[0], tf.float32)
  matrix = tf.stack([tf.stack([1.0, amount]), tf.constant([0.0, 1.0])])
  return affine(image, matrix, shift=tf.stack([amount * height / 2, 0.0]), fill=fill)


def sheared_y(image: tf.Tensor, amount: tf.Tensor, *, fill: Fill) -> tf.Tensor:
  """Moves each column by `amount` times its distance from the left edge."""
  width = tf.cast(tf.shape(image)[1], tf.float32)
  matrix = tf.stack([tf.constant([1.0, 0.0]), tf.stack([amount, 1.0])])
  return affine(image, matrix, shift=tf.stack([0.0, amount * width / 2]), fill=fill)


def shifted(image: tf.Tensor, x: tf.Tensor | float, y: tf.Tensor | float, *, fill: Fill) -> tf.Tensor:
  """Moves the image by whole pixels: to the left by x and up by y."""
  return affine(image, tf.eye(2), shift=tf.stack([x, y]), fill=fill)


def truncated(value: tf.Tensor) -> tf.Tensor:
  """Rounds a number of 0 or more down, forgiving the rounding of float32 just below a whole number."""
  return tf.floor(value + 1e-4)
