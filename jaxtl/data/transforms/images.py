"""Transforms from image bytes to normalised pixels: decode, resize, crop, normalise.

A transform takes an example, which is a mapping with `image` and `label`, and returns an example. Random
transforms take a seed (int [2]) as their second argument. An image is an encoded scalar string until a
transform needs its pixels; then it is [H, W, 3], uint8 or float32, from 0 to 255 until `normalize`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import orientation, pixels
from jaxtl.data.transforms.declared import declares
from jaxtl.errors import ConfigError

Example = Mapping[str, Any]  # of tensors
Size = int | Sequence[int]

# Means and standard deviations of the training pixels in [0, 1], as published with the models trained on
# them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

# Pillow's method; TensorFlow's default differs from it by up to 16 levels and is not faster.
_DCT = "INTEGER_ACCURATE"
# Offset of the byte of a PNG that holds the number of bits per channel.
_PNG_BITS_AT = 24
# For results with fewer pixels, one call of `tf.image.resize` is faster than two passes over rows.
_SMALL = 128 * 128
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


def decode(encoded: tf.Tensor | bytes, *, upright: bool = True) -> tf.Tensor:
  """Decodes an image file to uint8 [H, W, 3]: JPEG and PNG by TensorFlow, every other format by Pillow.

  Modes other than RGB are converted as in `pixels.rgb`: grey is repeated, CMYK, LAB and palettes are
  converted, transparency is dropped, and 16 bits, integers and floats are scaled by their range. An animation
  yields its first frame. A file that is not an image raises `tf.errors.OpError` when the operation runs.

  Args:
    encoded: the contents of the file, a scalar.
    upright: rotate and mirror the image according to its EXIF orientation, as viewers display it. False
      returns the pixels as stored, like torchvision's readers.
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
  """Decodes one image outside a pipeline to uint8 [H, W, 3], as `decode` does.

  Raises:
    tf.errors.OpError: the bytes are not an image.
  """
  return _decoder()(tf.constant(encoded, tf.string)).numpy()


def damage(encoded: bytes) -> str | None:
  """Returns briefly why these bytes are not an image, or None if they are one."""
  try:
    decoded(encoded)
  except tf.errors.OpError as error:
    return why_unreadable(encoded, error)
  return None


def why_unreadable(encoded: bytes, error: Exception) -> str:
  """Returns briefly why these bytes, for which a reader raised `error`, are not an image."""
  if pixels.NOT_FINITE in str(error):
    return pixels.NOT_FINITE
  if not encoded:
    return "it is empty"
  for magic, name in ((b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"RIFF", "WebP")):
    if encoded.startswith(magic):
      return f"truncated or damaged {name} of {len(encoded)} bytes"
  return f"not an image ({len(encoded)} bytes)"


def to_rgb(example: Example, *, upright: bool = True) -> Example:
  """Decodes the image to uint8 [H, W, 3] if it is still encoded.

  The other transforms do this themselves, with the default `upright`. To choose another value, make this the
  first transform.

  Args:
    example: an example with an image.
    upright: as in `decode`; False ignores the EXIF orientation, like torchvision.
  """
  image = example["image"]
  return {**example, "image": decode(image, upright=upright)} if image.dtype == tf.string else example


@declares(maps_views=True)
def normalize(
  example: Example, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Example:
  """Normalises pixels from 0 to 255 to float32 (x / 255 - mean) / std, per channel.

  Args:
    example: an example with an image, and perhaps `views` [V, H, W, 3] of it, which are treated alike.
    mean, std: statistics of the channels, on the scale from 0 to 1. The defaults are ImageNet's.
  """
  normalised = {"image": _normalised(to_rgb(example)["image"], mean, std)}
  if "views" in example:
    views = example["views"]
    height, width = tf.shape(views)[1], tf.shape(views)[2]
    rows = _normalised(tf.reshape(views, [-1, width, 3]), mean, std)
    normalised["views"] = tf.ensure_shape(tf.reshape(rows, [-1, height, width, 3]), views.shape)
  return {**example, **normalised}


def _normalised(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
  image = tf.cast(image, tf.float32)
  shift, scale = 255 * np.asarray(mean, np.float32), 1 / (255 * np.asarray(std, np.float32))
  # Use rows of W * 3 numbers, since TensorFlow broadcasts several times slower over an axis of three.
  height, width = tf.shape(image)[0], tf.shape(image)[1]
  rows = tf.reshape(image, [height, width * 3])
  rows = (rows - tf.tile(shift, [width])) * tf.tile(scale, [width])
  return tf.ensure_shape(tf.reshape(rows, [height, width, 3]), image.shape)


def resize(example: Example, *, size: Size, interpolation: str = "bilinear") -> Example:
  """Resizes the image with antialiasing, as Pillow does.

  Args:
    example: an example with an image.
    size: pixels of the shorter side, which keeps the aspect ratio; or the exact (height, width).
    interpolation: "bilinear" or "bicubic".

  Returns:
    The example with a float32 image from 0 to 255.
  """
  image = to_rgb(example)["image"]
  if not isinstance(size, int):
    return {**example, "image": resampled(image, size=size, interpolation=interpolation)}
  shape = tf.shape(image)[:2]
  # Integer division rounds the longer side down, as torchvision does.
  longer = size * tf.reduce_max(shape) // tf.reduce_min(shape)
  upright = shape[0] >= shape[1]
  height, width = tf.where(upright, longer, size), tf.where(upright, size, longer)
  return {**example, "image": resampled(image, size=(height, width), interpolation=interpolation)}


def center_crop(example: Example, *, size: Size) -> Example:
  """Crops the centre `size` x `size` (or (height, width)); a smaller image is first padded with black."""
  image = to_rgb(example)["image"]
  height, width = pair(size)
  missing = tf.maximum([height, width] - tf.shape(image)[:2], 0)
  before = missing // 2
  image = tf.pad(image, [[before[0], missing[0] - before[0]], [before[1], missing[1] - before[1]], [0, 0]])
  spare = tf.shape(image)[:2] - [height, width]
  # Round half to even, as torchvision does.
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
  """Crops a random part of the image and resizes it with antialiasing ("Inception crop").

  Area and aspect ratio are drawn as in torchvision: up to ten tries, then the largest centred crop with an
  allowed aspect ratio. If a JPEG is still encoded, only the crop is decoded. Szegedy et al., "Going deeper
  with convolutions", 2014, arXiv 1409.4842.

  Args:
    example: an example with an image.
    seed: int [2].
    size: size of the result, the side in pixels or (height, width).
    scale: smallest and largest fraction of the area.
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
  """Pads all sides, then crops a random window: the usual random shift for small images.

  Args:
    example: an example with an image.
    seed: int [2].
    size: size of the window, the side in pixels or (height, width).
    padding: pixels on each side, at least 0.
    mode: "reflect" or "constant" (black).

  Raises:
    ConfigError: the mode is unknown, or the padding is negative.
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
  """Draws the box (y, x, height, width) of a `random_resized_crop` of an image of `shape` (height, width)."""
  height, width = tf.unstack(tf.cast(shape, tf.float32))
  draws = tf.random.stateless_uniform([4, tries], seed)
  area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
  low, high = np.log(ratio[0]), np.log(ratio[1])
  aspect = tf.exp(low + (high - low) * draws[1])
  w, h = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
  y, x = tf.floor(draws[2] * (height - h + 1)), tf.floor(draws[3] * (width - w + 1))
  fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
  # An extra column holds the fallback, so that a first fitting box always exists.
  boxes = tf.concat([tf.stack([y, x, h, w]), _centred(height, width, ratio)[:, None]], axis=1)
  first = tf.argmax(tf.concat([fits, [True]], 0), output_type=tf.int32)
  return tf.cast(boxes[:, first], tf.int32)


def resampled(image: tf.Tensor, *, size: Size, interpolation: str = "bilinear") -> tf.Tensor:
  """Resizes [H, W, 3] to float32 [height, width, 3] with antialiasing.

  Computes `tf.image.resize(..., antialias=True)`, faster.

  Raises:
    ConfigError: the interpolation is unknown.
  """
  if interpolation not in _KERNELS:
    raise ConfigError(f"no interpolation {interpolation!r}; write one of {sorted(_KERNELS)}")
  height, width = pair(size)
  if isinstance(height, int) and height * width < _SMALL:
    image = tf.image.resize(image, [height, width], method=interpolation, antialias=True)
  else:
    image = _by_rows(image, height, width, kernel=_KERNELS[interpolation])
  # The cubic kernel has negative lobes, so the result may overshoot.
  return tf.clip_by_value(image, 0.0, 255.0) if interpolation == "bicubic" else image


def pair(size: Size) -> tuple[int, int]:
  """Returns (height, width); a single length is the side of a square."""
  if isinstance(size, int):
    return size, size
  height, width = size
  return height, width


@functools.cache
def _decoder() -> Any:
  return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _by_rows(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, *, kernel: str) -> tf.Tensor:
  """Resizes the rows, then the columns as rows of the transposed image; plain matrices transpose fastest."""
  columns = tf.shape(image)[1]
  image = tf.transpose(_resample_rows(image, height, kernel=kernel))
  image = _resample_rows(tf.reshape(image, [columns, 3, height]), width, kernel=kernel)
  return tf.reshape(tf.transpose(tf.reshape(image, [width * 3, height])), [height, width, 3])


def _resample_rows(image: tf.Tensor, count: int | tf.Tensor, *, kernel: str) -> tf.Tensor:
  """Resizes the rows of an image: [H, W, C] to [count, W * C].

  ScaleAndTranslate spends most of its time on short rows of channels. One pass down an image that is one
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
  """Decodes a PNG of 1 to 16 bits per channel, without rotating it, to uint8 [H, W, 3]."""

  def deep() -> tf.Tensor:
    values = tf.cast(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16), tf.int32)
    # Rounded v / 257, since 65535 = 255 * 257.
    return tf.cast((values + 128) // 257, tf.uint8)

  # Read from the end of a prefix, since a position beyond a truncated file would raise another error.
  start = tf.strings.substr(encoded, 0, _PNG_BITS_AT + 1)
  is_deep = tf.strings.substr(start, -1, 1) == b"\x10"
  return tf.cond(is_deep, deep, lambda: tf.io.decode_png(encoded, channels=3))
