"""RandAugment: operations drawn from a fixed list, all at one magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import color
from jaxtl.data.transforms.augment import affine, rotation
from jaxtl.data.transforms.declared import declares
from jaxtl.data.transforms.images import Example, to_rgb
from jaxtl.data.transforms.operations import GREY, Operation
from jaxtl.errors import ConfigError

# Pixels from outside the image become middle grey, as in the authors' code.
_FILL = GREY


def _check_rand_augment(*, num_ops: int, magnitude: float) -> None:
  if num_ops < 1:
    raise ConfigError(
      f"rand_augment num_ops is {num_ops}; expected at least 1 (leave it out to switch it off)"
    )
  if not 0 <= magnitude <= 10:
    raise ConfigError(
      f"rand_augment magnitude is {magnitude:g}; expected 0 to 10, the paper's scale (9 is usual; "
      "divide by 3 what was tuned on a scale to 30)"
    )


@declares(check=_check_rand_augment)
def rand_augment(example: Example, seed: tf.Tensor, *, num_ops: int = 2, magnitude: float = 9.0) -> Example:
  """Applies `num_ops` operations in turn, each drawn uniformly from the 14 of the paper.

  Cubuk, Zoph, Shlens, Le, "RandAugment: Practical automated data augmentation with a reduced search space",
  2019, arXiv 1909.13719. The magnitude is on the paper's scale. Its maximum, 10, means 30 degrees, a shear of
  0.3, a shift by 45 % of the side, an enhancement factor of 1 +- 0.9, 4 of 8 bits, and solarization from 0
  on. Every operation grows stronger with the magnitude and is the identity at 0, except autocontrast and
  equalize, which have no strength. Signs are random.

  The same strengths on other scales:

  | elsewhere | here | what remains different |
  |---|---|---|
  | magnitude M of a scale to 30 | M / 3 | nothing |
  | torchvision, bin M of 31 (default: `num_ops` 2, M 9) | M / 3 | shift by 150 / 331 of the side |

  torchvision also shears about the upper left corner and fills with black, sampled to the nearest pixel.

  Args:
    example: an example with an image from 0 to 255.
    seed: int [2].
    num_ops: N of the paper, at least 1.
    magnitude: M of the paper, 0 to 10.

  Returns:
    The example with a float32 image from 0 to 255.

  Raises:
    ConfigError: `num_ops` is below 1, or the magnitude is off the scale.
  """
  _check_rand_augment(num_ops=num_ops, magnitude=magnitude)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  choices = tf.random.stateless_uniform([num_ops], seed, 0, len(OPERATIONS), tf.int32)
  coins = tf.random.stateless_uniform([num_ops], tf.random.experimental.stateless_fold_in(seed, 1))
  signs = tf.where(coins < 0.5, -1.0, 1.0)
  shape = image.shape
  for number in range(num_ops):
    branches = [
      lambda operation=operation, image=image, sign=signs[number]: operation(image, magnitude / 10, sign)
      for operation in OPERATIONS.values()
    ]
    image = color.one_of(choices[number], branches, shape)
  return {**example, "image": image}


def _rotate(image: tf.Tensor, level: float, sign: tf.Tensor) -> tf.Tensor:
  return affine(image, rotation(sign * level * (30 * math.pi / 180)), fill=_FILL)


def _shear_x(image: tf.Tensor, level: float, sign: tf.Tensor) -> tf.Tensor:
  return affine(image, tf.stack([tf.stack([1.0, sign * 0.3 * level]), tf.constant([0.0, 1.0])]), fill=_FILL)


def _shear_y(image: tf.Tensor, level: float, sign: tf.Tensor) -> tf.Tensor:
  return affine(image, tf.stack([tf.constant([1.0, 0.0]), tf.stack([sign * 0.3 * level, 1.0])]), fill=_FILL)


def _translate_x(image: tf.Tensor, level: float, sign: tf.Tensor) -> tf.Tensor:
  pixels = tf.round(0.45 * level * tf.cast(tf.shape(image)[1], tf.float32))
  return affine(image, tf.eye(2), shift=tf.stack([sign * pixels, 0.0]), fill=_FILL)


def _translate_y(image: tf.Tensor, level: float, sign: tf.Tensor) -> tf.Tensor:
  pixels = tf.round(0.45 * level * tf.cast(tf.shape(image)[0], tf.float32))
  return affine(image, tf.eye(2), shift=tf.stack([0.0, sign * pixels]), fill=_FILL)


def _enhancement(change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Operation:
  return lambda image, level, sign: change(image, 1 + sign * 0.9 * level)


OPERATIONS: dict[str, Operation] = {
  "identity": lambda image, level, sign: image,
  "autocontrast": lambda image, level, sign: color.autocontrast(image),
  "equalize": lambda image, level, sign: color.equalize(image),
  "rotate": _rotate,
  "solarize": lambda image, level, sign: color.solarize(image, 256 * (1 - level)),
  "saturation": _enhancement(color.saturation),
  "posterize": lambda image, level, sign: color.posterize(image, 8 - round(4 * level)) if level else image,
  "contrast": _enhancement(color.contrast),
  "brightness": _enhancement(color.brightness),
  "sharpness": _enhancement(color.sharpness),
  "shear_x": _shear_x,
  "shear_y": _shear_y,
  "translate_x": _translate_x,
  "translate_y": _translate_y,
}
