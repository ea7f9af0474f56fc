"""Images made on the spot."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def smooth_image(height: int, width: int, *, seed: int = 0) -> np.ndarray:
  """uint8 [height, width, 3] without sharp edges, which JPEG keeps nearly as it is."""
  coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
  """An image as a file in memory."""
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}), **options)
  return buffer.getvalue()
