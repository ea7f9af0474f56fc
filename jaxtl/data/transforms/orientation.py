"""The EXIF orientation of JPEG and PNG files: reading it, and turning images upright.

A camera stores the rows as its sensor delivers them, and records in the EXIF data how to turn them.
Orientations are the numbers 1 (as stored) to 8 of the EXIF standard, CIPA DC-008. Each consists of a
transposition (5 to 8 only), followed by a reflection left to right, top to bottom, both, or neither.
"""

from __future__ import annotations

import struct

import numpy as np

from jaxtl.data.lazy_tensorflow import by_python, tf

_TAG = 0x0112  # Orientation
_EXIF = b"Exif\0\0"
_FLIPPED_LEFT_RIGHT, _FLIPPED_TOP_BOTTOM, _FIRST_TRANSPOSED = (2, 3, 6, 7), (3, 4, 7, 8), 5
# A JFIF header of the usual length, followed by the first table, starts a JPEG without EXIF data, which would
# have to precede the tables.
_JFIF, _TABLE, _TABLE_AT = b"\xff\xd8\xff\xe0\x00\x10", b"\xff\xdb", 20


def of_jpeg(encoded: tf.Tensor) -> tf.Tensor:
  """Returns the orientation of an encoded JPEG: int32 scalar from 1 to 8."""
  start = tf.strings.substr(encoded, 0, _TABLE_AT + len(_TABLE))
  plain = (tf.strings.substr(start, 0, len(_JFIF)) == _JFIF) & (tf.strings.substr(start, -2, 2) == _TABLE)
  # Calling Python takes 0.1 ms and runs serially, so only files that may hold EXIF data do it.
  return tf.cond(plain, lambda: tf.constant(1), lambda: of_file(encoded))


def of_file(encoded: tf.Tensor) -> tf.Tensor:
  """Returns the orientation of an encoded JPEG or PNG: int32 scalar from 1 to 8."""
  return tf.ensure_shape(by_python(lambda data: np.int32(read(data)), encoded, tf.int32), [])


def read(encoded: bytes) -> int:
  """Returns the orientation in the bytes of a JPEG or PNG file, or 1 if they specify none."""
  try:
    exif = _exif_of_png(encoded) if encoded.startswith(b"\x89PNG") else _exif_of_jpeg(encoded)
    return 1 if exif is None else _orientation(exif)
  except (struct.error, IndexError):  # truncated or corrupted
    return 1


def turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
  """Turns an image upright.

  Args:
    image: [H, W, 3] as stored.
    orientation: from 1 to 8.

  Returns:
    [H, W, 3], or [W, H, 3] for orientations from 5 on.
  """

  def turn(number: int) -> tf.Tensor:
    result = tf.transpose(image, [1, 0, 2]) if number >= _FIRST_TRANSPOSED else image
    axes = _reversed_axes(number)
    return tf.reverse(result, axes) if axes else result

  def some() -> tf.Tensor:
    return tf.switch_case(orientation - 1, [lambda number=number: turn(number) for number in range(1, 9)])

  # Most images are stored upright and need only this comparison.
  return tf.cond(orientation == 1, lambda: image, some)


def turned_array(image: np.ndarray, orientation: int) -> np.ndarray:
  """Turns an image upright like `turned`, as an array: a view of [H, W, 3]."""
  result = image.transpose(1, 0, 2) if orientation >= _FIRST_TRANSPOSED else image
  return np.flip(result, tuple(_reversed_axes(orientation)))


def turned_shape(shape: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
  """Returns the (height, width) of `turned`, given that of the stored image."""
  return tf.where(orientation >= _FIRST_TRANSPOSED, shape[::-1], shape)


def stored_box(box: tf.Tensor, shape: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
  """Maps a box in the turned image to the corresponding box in the stored image.

  Args:
    box: int (y, x, height, width) in the turned image.
    shape: (height, width) of the turned image.
    orientation: from 1 to 8.

  Returns:
    int (y, x, height, width) in the stored image.
  """
  y, x, height, width = tf.unstack(box)
  x = tf.where(_one_of(orientation, _FLIPPED_LEFT_RIGHT), shape[1] - x - width, x)
  y = tf.where(_one_of(orientation, _FLIPPED_TOP_BOTTOM), shape[0] - y - height, y)
  transposed = tf.stack([x, y, width, height])
  return tf.where(orientation >= _FIRST_TRANSPOSED, transposed, tf.stack([y, x, height, width]))


def _reversed_axes(orientation: int) -> list[int]:
  return [1] * (orientation in _FLIPPED_LEFT_RIGHT) + [0] * (orientation in _FLIPPED_TOP_BOTTOM)


def _one_of(orientation: tf.Tensor, numbers: tuple[int, ...]) -> tf.Tensor:
  return tf.reduce_any(orientation == tf.constant(numbers))


def _exif_of_jpeg(encoded: bytes) -> bytes | None:
  """Returns the first EXIF segment before the image data, or None if there is none."""
  at = 2
  while encoded[at : at + 1] == b"\xff":
    marker = encoded[at + 1]
    if marker == 0xFF:  # a fill byte
      at += 1
    elif marker in (0xDA, 0xD9):  # the start or the end of the image data
      return None
    else:
      (length,) = struct.unpack_from(">H", encoded, at + 2)
      if marker == 0xE1 and encoded.startswith(_EXIF, at + 4):
        return encoded[at + 4 + len(_EXIF) : at + 2 + length]
      at += 2 + length
  return None


def _exif_of_png(encoded: bytes) -> bytes | None:
  at = 8
  while at + 8 <= len(encoded):
    length, kind = struct.unpack_from(">I4s", encoded, at)
    if kind == b"eXIf":
      return encoded[at + 8 : at + 8 + length]
    at += 12 + length
  return None


def _orientation(exif: bytes) -> int:
  """Returns the orientation in EXIF data, which are laid out like a TIFF file; 1 if it is out of range."""
  order = {b"II": "<", b"MM": ">"}.get(exif[:2])
  if order is None:
    return 1
  (at,) = struct.unpack_from(order + "I", exif, 4)
  (count,) = struct.unpack_from(order + "H", exif, at)
  for entry in range(at + 2, at + 2 + 12 * count, 12):
    tag, kind = struct.unpack_from(order + "HH", exif, entry)
    if tag == _TAG:
      (value,) = struct.unpack_from(order + {3: "H", 4: "I"}.get(kind, "H"), exif, entry + 8)
      return value if 1 <= value <= 8 else 1
  return 1
