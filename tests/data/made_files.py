"""TIFF, PNG and JPEG files written byte by byte: what no library writes, with values that are known."""

from __future__ import annotations

import struct
import zlib

import numpy as np

EXIF = b"Exif\0\0"


def tiff(
  values: np.ndarray, *, bits: int, photometric: int = 1, sample_format: int = 1, **tags: int
) -> bytes:
  """An uncompressed TIFF file of the bytes of `values` ([H, W] or [H, W, C]); `tags` as t274=6."""
  height, width = values.shape[:2]
  channels = values.shape[2] if values.ndim == 3 else 1
  data = values.tobytes()
  entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: channels}
  entries |= {278: height, 279: len(data), 339: sample_format}
  entries |= {int(name[1:]): value for name, value in tags.items()}
  # A tag of more than four bytes holds the place of its values.
  extra = struct.pack("<H", bits) * channels if channels > 2 else b""
  body = data + extra + b"\0" * (len(data + extra) % 2)
  directory = struct.pack("<H", len(entries))
  for tag, value in sorted(entries.items()):
    number = channels if tag == 258 else 1
    wide = tag in (273, 279) or (tag == 258 and channels > 2)
    value = 8 + len(data) if tag == 258 and extra else value
    packed = struct.pack("<I", value) if wide else struct.pack("<HH", value, value if number == 2 else 0)
    kind = 4 if tag in (273, 279) else 3
    directory += struct.pack("<HHI", tag, kind, number) + packed
  return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0" * 4


def png(values: np.ndarray, *, color: int, chunks: bytes = b"", late: bytes = b"") -> bytes:
  """A PNG file of [H, W] or [H, W, C] in 8 or 16 bits, `chunks` before the pixels and `late` behind them."""
  height, width = values.shape[:2]
  big = values.astype(values.dtype.newbyteorder(">"))
  header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, color, 0, 0, 0)
  rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))
  parts = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", rows) + late + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + parts


def chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(orientation: int, *, order: str = "<", before: int = 0) -> bytes:
  """EXIF data with an orientation after `before` other entries, in either byte order."""
  other = b"".join(struct.pack(order + "HHII", 0x0100 + i, 4, 1, 7) for i in range(before))
  entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
  start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
  return start + struct.pack(order + "H", before + 1) + other + entry + b"\0" * 4


def with_segments(jpeg: bytes, *segments: tuple[int, bytes], behind_jfif: bool = False) -> bytes:
  """A JPEG with more segments (marker, contents) at its start, or behind its JFIF header."""
  at = 20 if behind_jfif else 2
  more = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
  return jpeg[:at] + more + jpeg[at:]
