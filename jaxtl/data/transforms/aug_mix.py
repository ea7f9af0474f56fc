"""AugMix: a convex combination of an image and of chains of operations applied to it.

Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan, "AugMix: A Simple Data Processing Method to Improve
Robustness and Uncertainty", 2019, arXiv 1912.02781. Implementations differ. The variants here are

| | torchvision | original_cifar, original_imagenet |
|---|---|---|
| operations | 13 | 9: no color, contrast, brightness, sharpness, which are corruptions of ImageNet-C |
| severity | 3 of 10 | 3; 1 of 10 |
| level | one of 0..severity - 1, uniform, divided by 9 | uniform from 0.1 to the severity, divided by 10 |
| shift, rotation | pixels truncated | pixels and degrees truncated |
| enhancement (if all_ops) | 1 +- 0.9 level | 0.1 + 1.8 level |
| posterize | 4 - round(4 level) bits | 4 - floor(4 level) bits |
| solarize | from 255 (1 - level) | from 256 - floor(256 level) |
| pixels | whole numbers | not rounded: the authors mix normalised images |

All have a shear of 0.3 about the corner, a shift by a third of the side and 30 degrees at level 1, random
signs, weights ~ Dirichlet(alpha, ..., alpha), and m ~ Beta(alpha, alpha). All leave at most 4 of 8 bits where
they posterize, even at level 0. Sources: torchvision/transforms/autoaugment.py and google-research/augmix.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.declared import VIEWS, declares
from jaxtl.data.transforms.draws import beta, dirichlet, fold, signs
from jaxtl.data.transforms.images import Example, to_rgb
from jaxtl.data.transforms.operations import GREY, Strengths, applied, operations, truncated
from jaxtl.data.transforms.ranges import Fill, check_alpha, check_fill
from jaxtl.errors import ConfigError

Variant = Literal["torchvision", "original_cifar", "original_imagenet"]

_WITHOUT_CORRUPTIONS = (
  *("autocontrast", "equalize", "posterize", "rotate", "solarize"),
  *("shear_x", "shear_y", "translate_x", "translate_y"),
)
_CORRUPTIONS = ("color", "contrast", "brightness", "sharpness")
_DEEPEST = 3  # operations in a chain of random depth
_SEVERITY: dict[str, int] = {"torchvision": 3, "original_cifar": 3, "original_imagenet": 1}

TORCHVISION = Strengths(
  shear=0.3,
  degrees=lambda level: 30 * level,
  pixels=lambda level, side: level * side / 3,
  factor=lambda level, sign: 1 + sign * 0.9 * level,
  bits=lambda level: 4 - tf.round(4 * level),
  threshold=lambda level: 255 * (1 - level),
)
ORIGINAL = Strengths(
  shear=0.3,
  degrees=lambda level: truncated(30 * level),
  pixels=lambda level, side: level * side / 3,
  factor=lambda level, sign: 0.1 + 1.8 * level,
  bits=lambda level: 4 - truncated(4 * level),
  threshold=lambda level: 256 - truncated(256 * level),
)


@dataclasses.dataclass(frozen=True)
class _ChainSettings:
  """The settings of one AugMix, with the variant's defaults filled in; see `aug_mix`."""

  is_original: bool
  severity: int
  all_ops: bool
  width: int
  depth: int | None
  alpha: float
  fill: Fill


def _check_aug_mix(
  *,
  variant: str,
  severity: int | None,
  all_ops: bool | None,
  width: int,
  depth: int | None,
  alpha: float,
  fill: Fill,
) -> None:
  del all_ops  # both values are valid
  if variant not in get_args(Variant):
    raise ConfigError(f"aug_mix has no variant {variant!r}; expected one of {', '.join(get_args(Variant))}")
  if severity is not None and not 1 <= severity <= 10:
    raise ConfigError(f"aug_mix severity is {severity}; expected 1 to 10 (torchvision's is 3)")
  for name, value in (("width", width), ("depth", depth)):
    if value is not None and value < 1:
      raise ConfigError(f"aug_mix {name} is {value}; expected a positive integer (for example 3)")
  check_alpha("aug_mix", alpha=alpha)
  check_fill("aug_mix", fill)


def _settings(
  *,
  variant: str,
  severity: int | None,
  all_ops: bool | None,
  width: int,
  depth: int | None,
  alpha: float,
  fill: Fill,
) -> _ChainSettings:
  _check_aug_mix(
    variant=variant, severity=severity, all_ops=all_ops, width=width, depth=depth, alpha=alpha, fill=fill
  )
  return _ChainSettings(
    is_original=variant != "torchvision",
    severity=_SEVERITY[variant] if severity is None else severity,
    all_ops=variant == "torchvision" if all_ops is None else all_ops,
    width=width,
    depth=depth,
    alpha=alpha,
    fill=fill,
  )


@declares(check=_check_aug_mix)
def aug_mix(
  example: Example,
  seed: tf.Tensor,
  *,
  variant: Variant = "torchvision",
  severity: int | None = None,
  all_ops: bool | None = None,
  width: int = 3,
  depth: int | None = None,
  alpha: float = 1.0,
  fill: Fill = GREY,
) -> Example:
  """Computes (1 - m) x + m sum_i w_i chain_i(x); see the module for the paper and the variants.

  It follows crop and flip, and precedes `normalize`. Weights, chains and m are drawn for each image.

  Args:
    example: an example with an image from 0 to 255.
    seed: int [2].
    variant: "torchvision", "original_cifar" or "original_imagenet".
    severity: 1 to 10; None means 3, or 1 for "original_imagenet".
    all_ops: whether to include the four operations that are corruptions of ImageNet-C; None means that
      "torchvision" includes them and the others do not.
    width: number of chains.
    depth: operations in each chain; None draws 1 to 3.
    alpha: parameter of the distributions of the weights.
    fill: value of pixels from outside the image, one number or one for each channel; the others' is black.

  Returns:
    The example with a float32 image from 0 to 255. Its pixels are whole numbers in the variant "torchvision"
    (torchvision itself truncates them, which makes images darker by half a level on average).

  Raises:
    ConfigError: a setting is out of its range.
  """
  settings = _settings(
    variant=variant, severity=severity, all_ops=all_ops, width=width, depth=depth, alpha=alpha, fill=fill
  )
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  return {**example, "image": _augmented(image, seed, settings)}


@declares(check=_check_aug_mix, gives=(VIEWS,))
def aug_mix_jsd(
  example: Example,
  seed: tf.Tensor,
  *,
  variant: Variant = "original_imagenet",
  severity: int | None = None,
  all_ops: bool | None = None,
  width: int = 3,
  depth: int | None = None,
  alpha: float = 1.0,
  fill: Fill = GREY,
) -> Example:
  """Keeps the image and adds two independent AugMix versions of it, for a consistency loss.

  The task must read them: `.tasks.classification(consistency=12.0)`. Only `normalize` may follow. A step then
  costs three forward-backward passes for each image.

  Args:
    example: an example with an image from 0 to 255.
    seed: int [2].
    variant, severity, all_ops, width, depth, alpha, fill: as in `aug_mix`.

  Returns:
    The example with a float32 image and `views` float32 [2, H, W, 3]. A batch has [B, 2, H, W, 3].

  Raises:
    ConfigError: a setting is out of its range.
  """
  settings = _settings(
    variant=variant, severity=severity, all_ops=all_ops, width=width, depth=depth, alpha=alpha, fill=fill
  )
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  views = tf.map_fn(
    lambda number: _augmented(image, fold(seed, number), settings),
    tf.range(2),
    fn_output_signature=tf.TensorSpec(image.shape, tf.float32),
  )
  return {**example, "image": image, "views": views}


def _augmented(image: tf.Tensor, seed: tf.Tensor, settings: _ChainSettings) -> tf.Tensor:
  weights = dirichlet(fold(seed, 1), alpha=settings.alpha, count=settings.width)
  share = beta(fold(seed, 2), alpha=settings.alpha)
  strengths = ORIGINAL if settings.is_original else TORCHVISION
  table = operations(strengths, fill=settings.fill)
  names = (*_WITHOUT_CORRUPTIONS, *(_CORRUPTIONS if settings.all_ops else ()))
  among = [table[name] for name in names]
  most = _DEEPEST if settings.depth is None else settings.depth
  shape = (settings.width, most)
  numbers = tf.random.stateless_uniform(shape, fold(seed, 3), 0, len(among), tf.int32)
  levels, sign = _levels(fold(seed, 4), shape, settings), signs(fold(seed, 5), shape=shape)
  if settings.depth is None:
    depths = tf.random.stateless_uniform([settings.width], fold(seed, 6), 1, _DEEPEST + 1, tf.int32)
  else:
    depths = tf.fill([settings.width], settings.depth)

  def chain(at: tf.Tensor) -> tf.Tensor:
    def extended(place: tf.Tensor, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      now = applied(pixels, numbers[at, place], levels[at, place], sign[at, place], among=among)
      return place + 1, now

    return tf.while_loop(lambda place, _: place < depths[at], extended, (tf.constant(0), image))[1]

  # A loop traces the operations once, and not once for each of nine places.
  _, mixture = tf.while_loop(
    lambda at, _: at < settings.width,
    lambda at, total: (at + 1, total + weights[at] * chain(at)),
    (tf.constant(0), tf.zeros_like(image)),
    parallel_iterations=1,
  )
  mixed = tf.ensure_shape((1 - share) * image + share * mixture, image.shape)
  return mixed if settings.is_original else tf.round(mixed)


def _levels(seed: tf.Tensor, shape: tuple[int, int], settings: _ChainSettings) -> tf.Tensor:
  """Draws a level from 0 to 1 for each operation."""
  if settings.is_original:
    return tf.random.stateless_uniform(shape, seed, 0.1, float(settings.severity)) / 10
  bins = tf.random.stateless_uniform(shape, seed, 0, settings.severity, tf.int32)
  return tf.cast(bins, tf.float32) / 9
