"""Images made on the spot, and streams of them."""

from __future__ import annotations

import io
import itertools
from functools import partial

import numpy as np
from PIL import Image

import jaxtl.data as data

CROP = [partial(data.random_resized_crop, size=16), data.flip_left_right, data.normalize]


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


def take(count, source, transforms, **options):
  """The first batches of a training stream."""
  return list(itertools.islice(data.train_batches(source, transforms, **options), count))


def assert_same(left, right):
  """Two lists of batches are equal bit for bit."""
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def loop_from(fewest, monkeypatch):
  """Lets streams of pixels transform whole batches in a loop from so many examples on, and rows below."""
  for name in ("_FEWEST_FOR_LOOP", "_FEWEST_FOR_LOOP_IN_TRAINING"):
    monkeypatch.setattr(data.stream, name, fewest)
