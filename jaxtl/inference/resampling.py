"""Antialiased resizing without TensorFlow, with the arithmetic of its `ScaleAndTranslate` operation.

An output pixel is a weighted sum of input pixels. The weights are samples of a kernel, which is as wide as
an output pixel when an image shrinks, and are divided by their sum. Rows are resized first, then columns. All
numbers are float32 and are added in TensorFlow's order, so that the results are equal wherever TensorFlow
does not fuse multiplications with additions. Where it does, they differ by rounding, far below one level of
255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from jaxtl.errors import ConfigError

_Kernel = tuple[float, Callable[[np.ndarray], np.ndarray]]
# Columns that are converted to float32 at a time: a whole photo would need four times its memory.
_BLOCK = 8192


def resampled(image: np.ndarray, height: int, width: int, *, interpolation: str = "bilinear") -> np.ndarray:
  """Resizes [H, W, 3] to float32 [height, width, 3] with antialiasing, like `data.resize`.

  Args:
    image: uint8 or float32 pixels from 0 to 255.
    height, width: size of the result in pixels.
    interpolation: "bilinear" or "bicubic".

  Raises:
    ConfigError: the interpolation is unknown.
  """
  if interpolation not in _KERNELS:
    raise ConfigError(f"no interpolation {interpolation!r}; write one of {sorted(_KERNELS)}")
  kernel = _KERNELS[interpolation]
  columns = image.shape[1]
  rows = _resample_rows(np.ascontiguousarray(image).reshape(len(image), -1), height, kernel)
  turned = rows.reshape(height, columns, 3).transpose(1, 0, 2)
  rows = _resample_rows(np.ascontiguousarray(turned).reshape(columns, -1), width, kernel)
  result = rows.reshape(width, height, 3).transpose(1, 0, 2)
  # The cubic kernel has negative lobes, so the result may overshoot.
  return np.clip(result, np.float32(0), np.float32(255)) if interpolation == "bicubic" else result


def _resample_rows(rows: np.ndarray, count: int, kernel: _Kernel) -> np.ndarray:
  """Resizes [N, C] to float32 [count, C]."""
  weights = _weights(len(rows), count, kernel)
  result = np.empty((count, rows.shape[1]), np.float32)
  for start in range(0, rows.shape[1], _BLOCK):
    block = slice(start, start + _BLOCK)
    result[:, block] = weights @ rows[:, block].astype(np.float32)
  return result


def _weights(length: int, count: int, kernel: _Kernel) -> Any:
  """Returns the sparse float32 [count, length] matrix that resizes rows."""
  radius, function = kernel
  step = np.float32(1) / (np.float32(count) / np.float32(length))  # input pixels per output pixel
  width = np.maximum(step, np.float32(1))
  half = np.float32(0.5)
  centres = (np.arange(count, dtype=np.float32) + half) * step
  reach = np.float32(radius) * width
  first = np.clip(np.ceil(centres - reach - half).astype(np.int64), 0, length - 1)
  last = np.clip(np.floor(centres + reach - half).astype(np.int64), 0, length - 1)
  taps = last - first + 1
  offsets = np.arange(taps.max())
  sources = first[:, None] + offsets
  distances = (sources.astype(np.float32) + half - centres[:, None]) * (np.float32(1) / width)
  inside = offsets < taps[:, None]
  values = np.where(inside, function(distances), np.float32(0))
  total = np.zeros(count, np.float32)
  for column in values.T:  # from left to right, since the order changes the rounding
    total += column
  values *= (np.float32(1) / total)[:, None]
  starts = np.concatenate([[0], np.cumsum(taps)])
  return sparse.csr_matrix((values[inside], sources[inside], starts), shape=(count, length))


def _triangle(x: np.ndarray) -> np.ndarray:
  return np.maximum(np.float32(1) - np.abs(x), np.float32(0))


def _keys_cubic(x: np.ndarray) -> np.ndarray:
  """Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2."""
  x = np.abs(x)
  near = ((np.float32(1.5) * x - np.float32(2.5)) * x) * x + np.float32(1)
  far = ((np.float32(-0.5) * x + np.float32(2.5)) * x - np.float32(4)) * x + np.float32(2)
  return np.where(x >= 2, np.float32(0), np.where(x >= 1, far, near))


_KERNELS: dict[str, _Kernel] = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _keys_cubic)}
