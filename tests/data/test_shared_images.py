"""Equal images in two sources, by content and whatever their names."""

import dataclasses
import shutil

import numpy as np
import pytest

from jaxtl import data
from jaxtl.data.sources.storage import Encoded
from tests.small_training import squares


def test_pixels():
  source = squares(num_examples=12)
  parts = source.take(np.array([3, 7, 1])), source.take(np.array([5, 7, 3]))
  assert data.shared_images(*parts) == [(1, 1), (0, 2)]
  assert data.shared_images(source, squares(num_examples=12, seed=1)) == []
  # Equal bytes of another shape are another image.
  flat = dataclasses.replace(source, images=source.images.reshape(12, 4, 16, 3))
  assert data.shared_images(source, flat) == []


def test_encoded_images_and_files(tmp_path):
  pillow = pytest.importorskip("PIL.Image")
  rng = np.random.default_rng(0)
  for split, numbers in (("train", range(6)), ("test", range(4, 10))):
    for number in numbers:
      folder = tmp_path / split / "ab"[number % 2]
      folder.mkdir(parents=True, exist_ok=True)
      pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3)).astype(np.uint8)
      pillow.fromarray(pixels).save(folder / f"{split}{number}.png")
  train, test = (data.from_folder(folder=str(tmp_path / split)) for split in ("train", "test"))
  shared = data.shared_images(train, test)
  assert [(train.file_name(a)[-5:], test.file_name(b)[-5:]) for a, b in shared] == [
    (f"{number}.png", f"{number}.png") for number in (4, 5)
  ]
  # In memory, and on disk: small files are compared whole.
  small = [b"%d" % number for number in rng.integers(0, 10**9, 4)]
  memory = dataclasses.replace(train.take(np.arange(4)), images=Encoded(small))
  assert data.shared_images(memory, memory) == [(i, i) for i in range(4)]
  # Unreadable files equal no others.
  shutil.rmtree(tmp_path / "train")
  assert data.shared_images(train, train.take(np.arange(6))) == []
