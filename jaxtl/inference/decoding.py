"""Image files to pixels without TensorFlow, where Pillow gives the same numbers.

Both decode JPEG with libjpeg-turbo and PNG without loss, so most files give equal pixels. TensorFlow, which
takes seconds to import, decodes the rest: PNGs with 16 bits in several channels, of which Pillow keeps 8, and
files that Pillow refuses. Whether a JPEG or a PNG is damaged is therefore TensorFlow's verdict, as in
`jaxtl eval`.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, features

from jaxtl.data.transforms import images, orientation, pixels
from jaxtl.errors import DataError

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
# Offsets in a PNG of the number of bits per channel and of the kind of colour, and the kind of grey pixels.
_BITS_AT, _COLOUR_AT, _GREY = 24, 25, 0


class UnreadableError(DataError):
  """A file that cannot be opened or is not an image; the message is the reason, without the file's name."""


def decode(encoded: bytes, *, upright: bool = True) -> np.ndarray:
  """Decodes an image file to uint8 [H, W, 3], with the pixels that `data.to_rgb` gives.

  Args:
    encoded: the contents of the file.
    upright: rotate and mirror the image according to its EXIF orientation; False leaves it as stored.

  Raises:
    UnreadableError: the bytes are not an image.
  """
  known = encoded.startswith((_JPEG, _PNG))
  try:
    # Every other format has the reader that the pipeline uses for it, too.
    stored, number = (_by_pillow(encoded), orientation.read(encoded)) if known else pixels.read_file(encoded)
  except Exception as error:  # Pillow's plugins raise errors of many types for damaged files
    if not known:
      raise UnreadableError(images.why_unreadable(encoded, error)) from error
    return _by_tensorflow(encoded, upright=upright)
  return orientation.turned_array(stored, int(number)) if upright else stored


def _by_pillow(encoded: bytes) -> np.ndarray:
  """Decodes a JPEG or a PNG as stored.

  Raises:
    Exception: Pillow cannot read the file, or would not give TensorFlow's pixels.
  """
  # The plugins are opened directly, since Image.open limits the number of pixels and TensorFlow does not.
  if encoded.startswith(_JPEG):
    if not features.check_feature("libjpeg_turbo"):
      raise ValueError("another decoder, which may round differently")
    jpeg = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
    return _from_cmyk(jpeg) if jpeg.mode == "CMYK" else _rgb(jpeg)
  if encoded[_BITS_AT] == 16 and encoded[_COLOUR_AT] != _GREY:
    raise ValueError("Pillow keeps 8 of 16 bits")
  _check_chunks(encoded)
  return _rgb(PngImagePlugin.PngImageFile(io.BytesIO(encoded)))


def _check_chunks(encoded: bytes) -> None:
  """Raises an error unless a PNG is whole: Pillow also reads some that end early, and TensorFlow does not."""
  at, kind = 8, b""
  while kind != b"IEND":
    length, kind = struct.unpack_from(">I4s", encoded, at)
    end = at + 8 + length
    if struct.unpack_from(">I", encoded, end)[0] != zlib.crc32(encoded[at + 4 : end]):
      raise ValueError("a chunk has changed since it was written")
    at = end + 4


def _rgb(file: Image.Image) -> np.ndarray:
  file.load()
  return pixels.rgb(file)


def _from_cmyk(file: Image.Image) -> np.ndarray:
  """Converts CMYK as TensorFlow does: ink times black, rounded down.

  Adobe stores inverted inks, which its marker announces. Pillow inverts the inks of every file.
  """
  inks = np.asarray(file).astype(np.int32)
  left = 255 - inks if "adobe" in file.info else inks
  return (left[..., :3] * left[..., 3:] // 255).astype(np.uint8)


def _by_tensorflow(encoded: bytes, *, upright: bool) -> np.ndarray:
  from jaxtl.data.lazy_tensorflow import tf

  try:
    return np.asarray(images.decode(encoded, upright=upright))
  except tf.errors.OpError as error:
    raise UnreadableError(images.why_unreadable(encoded, error)) from error
