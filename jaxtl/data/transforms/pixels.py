"""Conversion of every mode that Pillow opens to 8-bit RGB.

| stored | becomes |
|---|---|
| 1, L, P, RGB, YCbCr, HSV, CMYK | converted |
| LAB | sRGB, by its D50 white |
| LA, PA, RGBA, RGBX | converted without the last channel |
| La, RGBa | converted likewise, after dividing the colours by the opacity |
| I;16 | v / 257, rounded; from a TIFF file with fewer bits, scaled by their largest value |
| I | scaled by 65535 (signed: 32767) if the file has 16 bits; else by 255, 65535 or the largest pixel |
| F | scaled by 1, 255, 65535 or the largest pixel |

32-bit integers and floats do not state their range, so the first of these numbers that is not below the
largest pixel is used. Floats may exceed it by a quarter, since resampling overshoots, and are clipped. Pixels
of both signs are scaled from the smallest to the largest.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.data.lazy_tensorflow import by_python, tf

if TYPE_CHECKING:
  from PIL import Image

NOT_FINITE = "some of its pixels are not finite numbers"

# Tags of TIFF and EXIF, and two of the tags' values.
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_OVERSHOOT = 0.25
# Formats whose 16-bit pixels Pillow opens as 32-bit integers.
_SIXTEEN_BITS = ("PPM", "PNG")
# Modes with colours multiplied by the opacity -> the modes without the multiplication.
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def read(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Reads an image file with Pillow: (uint8 [H, W, 3] as stored, EXIF orientation from 1 to 8).

  Raises:
    tf.errors.OpError: the file is not an image; raised when the operation runs.
  """
  image, orientation = by_python(read_file, encoded, (tf.uint8, tf.int32))
  return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(orientation, [])


def read_file(encoded: bytes) -> tuple[np.ndarray, np.int32]:
  """Reads an image file with Pillow: (uint8 [H, W, 3] as stored, EXIF orientation from 1 to 8).

  Raises:
    ValueError: the bytes are not an image that Pillow reads.
  """
  from PIL import Image

  try:
    with Image.open(io.BytesIO(encoded)) as file:
      file.load()
      # Read the orientation after loading, since Pillow turns TIFF files when it loads them.
      return rgb(file), np.int32(orientation_of(file))
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise ValueError(f"not an image: {error}") from error


def eight_bits(values: np.ndarray) -> np.ndarray:
  """Scales an array of booleans or integers to uint8, as the table above says for files of such pixels.

  Args:
    values: uint8 is unchanged. bool becomes 0 and 255. 16 bits are scaled by 65535, or by 32767 if signed.
      Other integers are scaled by 255, 65535 or the largest pixel.
  """
  if values.dtype == np.uint8:
    return values
  if values.dtype == np.bool_:
    return values.astype(np.uint8) * np.uint8(255)
  ranges = {np.dtype(np.uint16): (65535,), np.dtype(np.int16): (32767,)}.get(values.dtype, (255, 65535))
  return _scaled(values, ranges)


def rgb(image: Image.Image) -> np.ndarray:
  """Converts an image of any mode to uint8 [H, W, 3].

  Raises:
    ValueError: a float image holds infinity or NaN.
  """
  if image.mode in ("I", "F") or image.mode.startswith("I;16"):
    grey = _grey(image)
    # Pillow inverts such files only for up to 8 bits.
    grey = 255 - grey if _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO else grey
    return np.repeat(grey[..., None], 3, axis=-1)
  if image.mode == "LAB":
    return np.array(_without_lab(image))
  return np.array(image.convert(_PREMULTIPLIED.get(image.mode, image.mode)).convert("RGB"))


def _grey(image: Image.Image) -> np.ndarray:
  """Converts a one-channel image with more than 8 bits to uint8 [H, W]."""
  values, bits = np.asarray(image), _tag(image, _BITS, 0)
  if image.mode == "F":
    if not np.isfinite(values).all():
      raise ValueError(NOT_FINITE)
    return _scaled(values, (1, 255, 65535), overshoot=_OVERSHOOT)
  if image.mode != "I":
    return _scaled(values, (2 ** (bits or 16) - 1,))
  if image.format in _SIXTEEN_BITS:
    return _scaled(values, (65535,))
  if bits == 16:
    return _scaled(values, (32767,))
  unsigned = _tag(image, _SAMPLE_FORMAT, 0) == _UNSIGNED
  return _scaled(values.view(np.uint32) if unsigned else values, (255, 65535))


def orientation_of(image: Image.Image) -> int:
  """Returns the EXIF orientation of an image that Pillow has opened: 1 to 8, and 1 if none is stored."""
  try:
    number = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # corrupted EXIF data raise many error types, but leave the pixels intact
    return 1
  return number if number in range(1, 9) else 1


def _scaled(values: np.ndarray, ranges: Sequence[int], *, overshoot: float = 0.0) -> np.ndarray:
  """Scales numbers to uint8, from 0 to the first of `ranges` that holds them, else to the largest number.

  Numbers of both signs are scaled from the smallest to the largest.
  """
  smallest, largest = float(values.min()), float(values.max())
  if smallest < -overshoot * max(largest, 0.0):
    low, high = smallest, largest
  else:
    low, high = 0.0, next((top for top in ranges if largest <= (1 + overshoot) * top), largest)
  scaled = (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
  return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _without_lab(image: Image.Image) -> Image.Image:
  from PIL import ImageCms

  converted = ImageCms.applyTransform(image, _lab_to_srgb())
  assert converted is not None  # only a conversion in place returns nothing
  return converted


@functools.cache
def _lab_to_srgb() -> Any:
  from PIL import ImageCms

  lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
  # The optimised transform interpolates in a coarse table, with errors of up to 17 levels for colours near
  # the edge of the gamut.
  return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE)


def _tag(image: Image.Image, tag: int, default: int) -> int:
  """Returns the first value of a tag of a TIFF file; the default for other formats or a missing tag."""
  value: Any = getattr(image, "tag_v2", {}).get(tag, default)
  return int(value[0] if isinstance(value, tuple) else value)
