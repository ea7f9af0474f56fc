"""From image bytes to normalised pixels: decode, resize, crop, normalise.

A transform takes an example, a mapping with `image` and `label`, and gives an example. Transforms that draw
take a seed (int [2]) as their second argument. An image is an encoded scalar string until a transform needs
its pixels, then [H, W, 3], uint8 or float32, from 0 to 255 until `normalize`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import orientation, pixels
from jaxtl.errors import ConfigError

Example = Mapping[str, Any]  # of tensors
Size = int | Sequence[int]

# Means and standard deviations of the training pixels in [0, 1], as published with the models trained on
# them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

# What Pillow uses; TensorFlow's default differs from it by up to 16 levels and is no faster.
_DCT = "INTEGER_ACCURATE"
# Where a PNG says how many bits a channel has.
_PNG_BITS_AT = 24
# Pixels of the result below which one call of `tf.image.resize` is faster than two passes over rows.
_SMALL = 128 * 128
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


def decode(encoded: tf.Tensor | bytes, *, upright: bool = True) -> tf.Tensor:
  """An image file as uint8 [H, W, 3]: JPEG and PNG by TensorFlow, every other format by Pillow.

  Other modes than RGB are converted as in `pixels.rgb`: grey is repeated, CMYK, LAB and palettes are
  converted, transparency is dropped, and 16 bits, integers and floats are scaled by their range. Of a moving
  picture the first frame is taken. A file that is not an image raises `tf.errors.OpError` when it runs.

  Args:
    encoded: the contents of the file, a scalar.
    upright: turn the image as its EXIF orientation says, so that it is seen as people see it. False gives the
      pixels as they are stored, like torchvision's readers.
  """
  encoded = tf.convert_to_tensor(encoded)

  def turned(image: tf.Tensor, number: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    return orientation.turned(image, number(encoded)) if upright else image

  def jpeg() -> tf.Tensor:
    return turned(tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT), orientation.of_jpeg)

  def other() -> tf.Tensor:
    is_png = tf.strings.substr(encoded, 0, 4) == b"\x89PNG"
    return tf.cond(is_png, lambda: turned(_png(encoded), orientation.of_file), by_pillow)

  def by_pillow() -> tf.Tensor:
    image, number = pixels.read(encoded)
    return orientation.turned(image, number) if upright else image

  return tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), jpeg, other), [None, None, 3])


def decoded(encoded: bytes) -> np.ndarray:
  """`decode` for one image outside a pipeline: uint8 [H, W, 3]. Raises `tf.errors.OpError` for what is no
  image."""
  return _decoder()(tf.constant(encoded, tf.string)).numpy()


def damage(encoded: bytes) -> str | None:
  """Why these bytes are not an image, in a few words; None where they are one."""
  try:
    decoded(encoded)
  except tf.errors.OpError as error:
    if pixels.NOT_FINITE in str(error):
      return pixels.NOT_FINITE
    if not encoded:
      return "it is empty"
    for magic, name in ((b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"RIFF", "WebP")):
      if encoded.startswith(magic):
        return f"truncated or damaged {name} of {len(encoded)} bytes"
    return f"not an image ({len(encoded)} bytes)"
  return None


def to_rgb(example: Example, *, upright: bool = True) -> Example:
  """Decode the image if it is still encoded, to uint8 [H, W, 3].

  The other transforms do this themselves, with the default. Written as the first of a list, it chooses.

  Args:
    example: with an image.
    upright: as in `decode`; False leaves out what EXIF says, like torchvision.
  """
  image = example["image"]
  return {**example, "image": decode(image, upright=upright)} if image.dtype == tf.string else example


def normalize(
  example: Example, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Example:
  """Pixels from 0 to 255 to float32 (x / 255 - mean) / std, channel by channel.

  Args:
    example: with an image.
    mean, std: of the channels, on the scale from 0 to 1. The defaults are ImageNet's.
  """
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  shift, scale = 255 * np.asarray(mean, np.float32), 1 / (255 * np.asarray(std, np.float32))
  # Rows of W * 3 numbers: TensorFlow is several times slower at broadcasting over an axis of three.
  height, width = tf.shape(image)[0], tf.shape(image)[1]
  rows = tf.reshape(image, [height, width * 3])
  rows = (rows - tf.tile(shift, [width])) * tf.tile(scale, [width])
  return {**example, "image": tf.ensure_shape(tf.reshape(rows, [height, width, 3]), image.shape)}


def resize(example: Example, *, size: Size, interpolation: str = "bilinear") -> Example:
  """Resize with antialiasing, as Pillow does.

  Args:
    example: with an image.
    size: pixels of the shorter side, the aspect ratio kept; or (height, width), exactly.
    interpolation: "bilinear" or "bicubic".

  Returns:
    The example with a float32 image from 0 to 255.
  """
  image = to_rgb(example)["image"]
  if not isinstance(size, int):
    return {**example, "image": resampled(image, size=size, interpolation=interpolation)}
  shape = tf.shape(image)[:2]
  # Integer division: the longer side is rounded down, as torchvision does.
  longer = size * tf.reduce_max(shape) // tf.reduce_min(shape)
  upright = shape[0] >= shape[1]
  height, width = tf.where(upright, longer, size), tf.where(upright, size, longer)
  return {**example, "image": resampled(image, size=(height, width), interpolation=interpolation)}


def center_crop(example: Example, *, size: Size) -> Example:
  """The middle `size` x `size` (or (height, width)) pixels; a smaller image is first padded with black."""
  image = to_rgb(example)["image"]
  height, width = pair(size)
  missing = tf.maximum([height, width] - tf.shape(image)[:2], 0)
  before = missing // 2
  image = tf.pad(image, [[before[0], missing[0] - before[0]], [before[1], missing[1] - before[1]], [0, 0]])
  spare = tf.shape(image)[:2] - [height, width]
  # Rounded half to even, as torchvision places it.
  offset = tf.cast(tf.round(tf.cast(spare, tf.float32) / 2), tf.int32)
  image = tf.slice(image, tf.concat([offset, [0]], 0), [height, width, 3])
  return {**example, "image": tf.ensure_shape(image, [height, width, 3])}


def random_resized_crop(
  example: Example,
  seed: tf.Tensor,
  *,
  size: Size,
  scale: Sequence[float] = (0.08, 1.0),
  ratio: Sequence[float] = (3 / 4, 4 / 3),
  interpolation: str = "bilinear",
  upright: bool = True,
) -> Example:
  """A random part of the image, resized with antialiasing ("Inception crop").

  Area and aspect ratio are drawn as torchvision does: up to ten tries, then the largest centred crop whose
  aspect ratio is allowed. Of a JPEG that is still encoded only the crop is decoded. Szegedy et al., "Going
  deeper with convolutions", 2014, arXiv 1409.4842.

  Args:
    example: with an image.
    seed: int [2].
    size: of the result, pixels or (height, width).
    scale: smallest and largest part of the area.
    ratio: smallest and largest width / height, log-uniform.
    interpolation: "bilinear" or "bicubic".
    upright: as in `decode`, for an image that is still encoded.

  Returns:
    The example with a float32 image from 0 to 255.
  """
  image = example["image"]

  def cropped(pixels: tf.Tensor) -> tf.Tensor:
    y, x, h, w = tf.unstack(crop_box(tf.shape(pixels)[:2], seed, scale=scale, ratio=ratio))
    return tf.slice(pixels, [y, x, 0], [h, w, 3])

  def fused() -> tf.Tensor:
    number = orientation.of_jpeg(image) if upright else tf.constant(1)
    shape = orientation.turned_shape(tf.image.extract_jpeg_shape(image)[:2], number)
    box = orientation.stored_box(crop_box(shape, seed, scale=scale, ratio=ratio), shape, number)
    part = tf.image.decode_and_crop_jpeg(image, box, channels=3, dct_method=_DCT)
    return orientation.turned(part, number)

  if image.dtype == tf.string:
    image = tf.cond(tf.io.is_jpeg(image), fused, lambda: cropped(decode(image, upright=upright)))
  else:
    image = cropped(image)
  return {**example, "image": resampled(image, size=size, interpolation=interpolation)}


def pad_crop(
  example: Example, seed: tf.Tensor, *, size: Size, padding: int = 4, mode: str = "reflect"
) -> Example:
  """Pad all sides, then cut out a random window: the usual shift for small images.

  Args:
    example: with an image.
    seed: int [2].
    size: of the window, pixels or (height, width).
    padding: pixels on each side, at least 0.
    mode: "reflect" or "constant" (black).

  Raises:
    ConfigError: another mode, or a negative padding.
  """
  if mode not in ("reflect", "constant"):
    raise ConfigError(f"pad_crop has no mode {mode!r}; write 'reflect' or 'constant'")
  if padding < 0:
    raise ConfigError(
      f"pad_crop padding is {padding}; expected at least 0 (to cut a border off: center_crop)"
    )
  image = to_rgb(example)["image"]
  height, width = pair(size)
  image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]], mode.upper())
  places = tf.cast(tf.shape(image)[:2] - [height, width] + 1, tf.float32)
  offset = tf.cast(tf.random.stateless_uniform([2], seed) * places, tf.int32)
  image = tf.slice(image, tf.concat([offset, [0]], 0), [height, width, 3])
  return {**example, "image": tf.ensure_shape(image, [height, width, 3])}


def crop_box(
  shape: tf.Tensor, seed: tf.Tensor, *, scale: Sequence[float], ratio: Sequence[float], tries: int = 10
) -> tf.Tensor:
  """(y, x, height, width) of a random crop of an image of `shape` (height, width); see
  `random_resized_crop`."""
  height, width = tf.unstack(tf.cast(shape, tf.float32))
  draws = tf.random.stateless_uniform([4, tries], seed)
  area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
  low, high = np.log(ratio[0]), np.log(ratio[1])
  aspect = tf.exp(low + (high - low) * draws[1])
  w, h = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
  y, x = tf.floor(draws[2] * (height - h + 1)), tf.floor(draws[3] * (width - w + 1))
  fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
  # One more column holds the fallback, so that "the first that fits" always exists.
  boxes = tf.concat([tf.stack([y, x, h, w]), _centred(height, width, ratio)[:, None]], axis=1)
  first = tf.argmax(tf.concat([fits, [True]], 0), output_type=tf.int32)
  return tf.cast(boxes[:, first], tf.int32)


def resampled(image: tf.Tensor, *, size: Size, interpolation: str = "bilinear") -> tf.Tensor:
  """[H, W, 3] to float32 [height, width, 3] with antialiasing: `tf.image.resize(..., antialias=True)`,
  faster."""
  if interpolation not in _KERNELS:
    raise ConfigError(f"no interpolation {interpolation!r}; write one of {sorted(_KERNELS)}")
  height, width = pair(size)
  if isinstance(height, int) and height * width < _SMALL:
    image = tf.image.resize(image, [height, width], method=interpolation, antialias=True)
  else:
    image = _by_rows(image, height, width, kernel=_KERNELS[interpolation])
  # The cubic kernel has negative lobes.
  return tf.clip_by_value(image, 0.0, 255.0) if interpolation == "bicubic" else image


def pair(size: Size) -> tuple[int, int]:
  """One length as a square's (height, width)."""
  if isinstance(size, int):
    return size, size
  height, width = size
  return height, width


@functools.cache
def _decoder() -> Any:
  return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _by_rows(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, *, kernel: str) -> tf.Tensor:
  """Rows first, then columns as the rows of the transposed image; plain matrices transpose fastest."""
  columns = tf.shape(image)[1]
  image = tf.transpose(_resample_rows(image, height, kernel=kernel))
  image = _resample_rows(tf.reshape(image, [columns, 3, height]), width, kernel=kernel)
  return tf.reshape(tf.transpose(tf.reshape(image, [width * 3, height])), [height, width, 3])


def _resample_rows(image: tf.Tensor, count: int | tf.Tensor, *, kernel: str) -> tf.Tensor:
  """[H, W, C] to [count, W * C].

  ScaleAndTranslate spends most of its time on short rows of channels; one pass down an image that is one
  pixel wide and W * C channels deep gives the same numbers faster.
  """
  rows = tf.shape(image)[0]
  flat = tf.reshape(image, [1, rows, 1, -1])
  scale = tf.cast(count, tf.float32) / tf.cast(rows, tf.float32)
  size, scales = tf.stack([count, 1]), tf.stack([scale, 1.0])
  result = tf.raw_ops.ScaleAndTranslate(
    images=flat, size=size, scale=scales, translation=[0.0, 0.0], kernel_type=kernel, antialias=True
  )
  return result[0, :, 0, :]


def _centred(height: tf.Tensor, width: tf.Tensor, ratio: Sequence[float]) -> tf.Tensor:
  w = tf.minimum(width, tf.round(height * ratio[1]))
  h = tf.minimum(height, tf.round(width / ratio[0]))
  return tf.stack([(height - h) // 2, (width - w) // 2, h, w])


def _png(encoded: tf.Tensor) -> tf.Tensor:
  """A PNG of 1 to 16 bits a channel as stored, uint8 [H, W, 3]."""

  def deep() -> tf.Tensor:
    values = tf.cast(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16), tf.int32)
    # v / 257, rounded: 65535 = 255 * 257.
    return tf.cast((values + 128) // 257, tf.uint8)

  # From the end of a prefix: a position beyond the end of a truncated file would raise another error.
  start = tf.strings.substr(encoded, 0, _PNG_BITS_AT + 1)
  is_deep = tf.strings.substr(start, -1, 1) == b"\x10"
  return tf.cond(is_deep, deep, lambda: tf.io.decode_png(encoded, channels=3))
