"""Data sets for the tests of `jaxtl.data`, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jaxtl.data as data
from tests.data.made_images import encoded, loop_from, smooth_image


@pytest.fixture
def numbered() -> Callable[[int], data.Source]:
  """A source of n images of 8 x 8 pixels whose pixel values tell their index."""

  def make(count: int) -> data.Source:
    index = np.arange(count)
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[..., 0] = (index % 256)[:, None, None]
    images[..., 1] = (index // 256)[:, None, None]
    return data.from_arrays(images=images, labels=index % 7, classes=[str(label) for label in range(7)])

  return make


@pytest.fixture(autouse=True)
def whole_batches(monkeypatch) -> None:
  """Pixels are transformed in the form that large sources have, though those of the tests are small."""
  loop_from(0, monkeypatch)


@pytest.fixture
def jpeg_folder(tmp_path: Path) -> Path:
  """Two classes of six JPEGs each, of different sizes."""
  for number, name in enumerate(("cat", "dog")):
    folder = tmp_path / "pets" / name
    folder.mkdir(parents=True)
    for index in range(6):
      image = smooth_image(40 + index, 60 - index, seed=10 * number + index)
      (folder / f"{name}{index}.jpg").write_bytes(encoded(image))
  return tmp_path / "pets"
