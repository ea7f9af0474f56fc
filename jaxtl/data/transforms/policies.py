"""Learned and random policies: AutoAugment and TrivialAugment, with the levels of torchvision."""

from __future__ import annotations

from typing import Literal

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.declared import declares
from jaxtl.data.transforms.draws import fold, signs
from jaxtl.data.transforms.images import Example, to_rgb
from jaxtl.data.transforms.operations import GREY, Strengths, applied, operations
from jaxtl.data.transforms.ranges import Fill, check_fill
from jaxtl.errors import ConfigError

# Each row is a sub-policy: twice an operation, its probability, and its level from 0 to 9. Operations without
# a strength have level 0. The numbers are those of the appendix of Cubuk et al., 2018, as in
# torchvision/transforms/autoaugment.py.
_SubPolicy = tuple[str, float, int, str, float, int]
IMAGENET: tuple[_SubPolicy, ...] = (
  ("posterize", 0.4, 8, "rotate", 0.6, 9),
  ("solarize", 0.6, 5, "autocontrast", 0.6, 0),
  ("equalize", 0.8, 0, "equalize", 0.6, 0),
  ("posterize", 0.6, 7, "posterize", 0.6, 6),
  ("equalize", 0.4, 0, "solarize", 0.2, 4),
  ("equalize", 0.4, 0, "rotate", 0.8, 8),
  ("solarize", 0.6, 3, "equalize", 0.6, 0),
  ("posterize", 0.8, 5, "equalize", 1.0, 0),
  ("rotate", 0.2, 3, "solarize", 0.6, 8),
  ("equalize", 0.6, 0, "posterize", 0.4, 6),
  ("rotate", 0.8, 8, "color", 0.4, 0),
  ("rotate", 0.4, 9, "equalize", 0.6, 0),
  ("equalize", 0.0, 0, "equalize", 0.8, 0),
  ("invert", 0.6, 0, "equalize", 1.0, 0),
  ("color", 0.6, 4, "contrast", 1.0, 8),
  ("rotate", 0.8, 8, "color", 1.0, 2),
  ("color", 0.8, 8, "solarize", 0.8, 7),
  ("sharpness", 0.4, 7, "invert", 0.6, 0),
  ("shear_x", 0.6, 5, "equalize", 1.0, 0),
  ("color", 0.4, 0, "equalize", 0.6, 0),
  ("equalize", 0.4, 0, "solarize", 0.2, 4),
  ("solarize", 0.6, 5, "autocontrast", 0.6, 0),
  ("invert", 0.6, 0, "equalize", 1.0, 0),
  ("color", 0.6, 4, "contrast", 1.0, 8),
  ("equalize", 0.8, 0, "equalize", 0.6, 0),
)
CIFAR10: tuple[_SubPolicy, ...] = (
  ("invert", 0.1, 0, "contrast", 0.2, 6),
  ("rotate", 0.7, 2, "translate_x", 0.3, 9),
  ("sharpness", 0.8, 1, "sharpness", 0.9, 3),
  ("shear_y", 0.5, 8, "translate_y", 0.7, 9),
  ("autocontrast", 0.5, 0, "equalize", 0.9, 0),
  ("shear_y", 0.2, 7, "posterize", 0.3, 7),
  ("color", 0.4, 3, "brightness", 0.6, 7),
  ("sharpness", 0.3, 9, "brightness", 0.7, 9),
  ("equalize", 0.6, 0, "equalize", 0.5, 0),
  ("contrast", 0.6, 7, "sharpness", 0.6, 5),
  ("color", 0.7, 7, "translate_x", 0.5, 8),
  ("equalize", 0.3, 0, "autocontrast", 0.4, 0),
  ("translate_y", 0.4, 3, "sharpness", 0.2, 6),
  ("brightness", 0.9, 6, "color", 0.2, 8),
  ("solarize", 0.5, 2, "invert", 0.0, 0),
  ("equalize", 0.2, 0, "autocontrast", 0.6, 0),
  ("equalize", 0.2, 0, "equalize", 0.6, 0),
  ("color", 0.9, 9, "equalize", 0.6, 0),
  ("autocontrast", 0.8, 0, "solarize", 0.2, 8),
  ("brightness", 0.1, 3, "color", 0.7, 0),
  ("solarize", 0.4, 5, "autocontrast", 0.9, 0),
  ("translate_y", 0.9, 9, "translate_y", 0.7, 9),
  ("autocontrast", 0.9, 0, "solarize", 0.8, 3),
  ("equalize", 0.8, 0, "invert", 0.1, 0),
  ("translate_y", 0.7, 9, "autocontrast", 0.9, 0),
)
POLICIES = {"imagenet": IMAGENET, "cifar10": CIFAR10}

AUTO_AUGMENT = Strengths(
  shear=0.3,
  degrees=lambda level: 30 * level,
  pixels=lambda level, side: 150 / 331 * level * side,
  factor=lambda level, sign: 1 + sign * 0.9 * level,
  bits=lambda level: 8 - tf.round(4 * level),
  threshold=lambda level: 255 * (1 - level),
)
WIDE = Strengths(
  shear=0.99,
  degrees=lambda level: 135 * level,
  pixels=lambda level, side: 32 * level,
  factor=lambda level, sign: 1 + sign * 0.99 * level,
  bits=lambda level: 8 - tf.round(6 * level),
  threshold=lambda level: 255 * (1 - level),
)
# In the order of torchvision's table.
TRIVIAL_AUGMENT = (
  *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
  *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


def _check_trivial_augment(*, num_bins: int, fill: Fill) -> None:
  if num_bins < 2:
    raise ConfigError(f"trivial_augment num_bins is {num_bins}; expected at least 2 (the paper has 31)")
  check_fill("trivial_augment", fill)


@declares(check=_check_trivial_augment)
def trivial_augment(example: Example, seed: tf.Tensor, *, num_bins: int = 31, fill: Fill = GREY) -> Example:
  """Applies one of 14 operations, drawn uniformly, at a uniformly drawn level: TrivialAugment (wide).

  Müller, Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021,
  arXiv 2103.10158. Levels run from no change to a shear of 0.99, a shift of 32 pixels, 135 degrees, an
  enhancement factor of 1 +- 0.99, 2 of 8 bits, and solarization from 0 on. The sign is random where there
  is one. The shift does not depend on the size of the image, so small images move by a larger part.

  Args:
    example: an example with an image from 0 to 255.
    seed: int [2].
    num_bins: number of levels; bin b of n has the level b / (n - 1).
    fill: value of pixels from outside the image, one number or one for each channel; torchvision's is black.

  Returns:
    The example with a float32 image from 0 to 255.

  Raises:
    ConfigError: `num_bins` is below 2, or `fill` has another number of channels.
  """
  _check_trivial_augment(num_bins=num_bins, fill=fill)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  among = [operations(WIDE, fill=fill)[name] for name in TRIVIAL_AUGMENT]
  number = tf.random.stateless_uniform([], seed, 0, len(among), tf.int32)
  chosen = tf.random.stateless_uniform([], fold(seed, 1), 0, num_bins, tf.int32)
  level = tf.cast(chosen, tf.float32) / (num_bins - 1)
  return {**example, "image": applied(image, number, level, signs(fold(seed, 2)), among=among)}


def _check_auto_augment(*, policy: str, fill: Fill) -> None:
  if policy not in POLICIES:
    known = " or ".join(map(repr, POLICIES))
    raise ConfigError(f"auto_augment has no policy {policy!r}; expected {known}")
  check_fill("auto_augment", fill)


@declares(check=_check_auto_augment)
def auto_augment(
  example: Example,
  seed: tf.Tensor,
  *,
  policy: Literal["imagenet", "cifar10"] = "imagenet",
  fill: Fill = GREY,
) -> Example:
  """Applies one of 25 learned sub-policies: two operations, each with its probability and level.

  Cubuk, Zoph, Mané, Vasudevan, Le, "AutoAugment: Learning Augmentation Policies from Data", 2018,
  arXiv 1805.09501. Levels have 10 bins, from no change to a shear of 0.3, a shift by 150 / 331 of the side,
  30 degrees, an enhancement factor of 1 +- 0.9, 4 of 8 bits, and solarization from 0 on. The sign is random
  where there is one.

  Args:
    example: an example with an image from 0 to 255.
    seed: int [2].
    policy: the data on which the policy was learned.
    fill: value of pixels from outside the image, one number or one for each channel; torchvision's is black.

  Returns:
    The example with a float32 image from 0 to 255.

  Raises:
    ConfigError: the policy has no such name, or `fill` has another number of channels.
  """
  _check_auto_augment(policy=policy, fill=fill)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  halves = [[row[:3] for row in POLICIES[policy]], [row[3:] for row in POLICIES[policy]]]
  names = sorted({"identity"} | {name for half in halves for name, _, _ in half})
  table = operations(AUTO_AUGMENT, fill=fill)
  among = [table[name] for name in names]
  row = tf.random.stateless_uniform([], seed, 0, len(halves[0]), tf.int32)
  draws, sign = tf.random.stateless_uniform([2], fold(seed, 1)), signs(fold(seed, 2), shape=(2,))
  for at, half in enumerate(halves):
    numbers = np.array([names.index(name) for name, _, _ in half], np.int32)
    probabilities = np.array([probability for _, probability, _ in half], np.float32)
    levels = np.array([level / 9 for _, _, level in half], np.float32)
    happens = draws[at] < tf.gather(probabilities, row)
    number = tf.where(happens, tf.gather(numbers, row), names.index("identity"))
    image = applied(image, number, tf.gather(levels, row), sign[at], among=among)
  return {**example, "image": image}
