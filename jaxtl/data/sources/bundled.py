"""Real images shipped with installed packages: scikit-learn's digits and scikit-image's photographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxtl.data.sources.source import Source, from_arrays
from jaxtl.data.sources.storage import Deferred
from jaxtl.errors import DataError

# Photographs with uniform content, so that every patch shows its class: name -> file.
_PHOTOGRAPHS = {
  "brick": "brick.png",
  "cells": "ihc.png",
  "coins": "coins.png",
  "galaxies": "hubble_deep_field.jpg",
  "grass": "grass.png",
  "gravel": "gravel.png",
  "moon": "moon.png",
  "print": "page.png",
  "retina": "retina.jpg",
}
# Photographs of scenes: the patches of one share light, colours and sharpness, but not their content.
_SCENES = {
  "astronaut": "astronaut.png",
  "camera": "camera.png",
  "cat": "chelsea.png",
  "coffee": "coffee.png",
  "motorcycle": "motorcycle_left.png",
  "rocket": "rocket.jpg",
  "text": "text.png",
}
# A patch whose standard deviation, out of 255, is below this shows nothing.
_FLAT = 3.0
_SPLITS = ("train", "test")


def digits(*, split: str, seed: int = 0) -> Source:
  """Returns the 1,797 handwritten digits of scikit-learn (8 x 8 pixels, 17 greys), enlarged to 32 x 32.

  Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

  Args:
    split: "train" (five ninths of each class, about 1,000) or "test" (the rest, about 800).
    seed: seed of the split.

  Raises:
    DataError: the split is unknown.
  """
  from PIL import Image
  from sklearn.datasets import load_digits

  _check_split("digits", split)
  data = load_digits()
  order = np.random.default_rng(seed).permutation(len(data.target))
  # Each class is split on its own, so that both parts contain every class.
  train = np.zeros(len(order), bool)
  for label in range(10):
    members = order[data.target[order] == label]
    train[members[: round(len(members) * 5 / 9)]] = True
  chosen = np.flatnonzero(train if split == "train" else ~train)
  small = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
  large = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in small]
  return from_arrays(
    images=np.stack(large),
    labels=data.target[chosen],
    classes=[str(label) for label in range(10)],
    name=f"digits/{split}",
  )


def photo_patches(*, split: str, num_per_class: int = 250, size: int = 32, seed: int = 0) -> Source:
  """Returns patches of nine photographs shipped with scikit-image; the class is the photograph.

  Training patches come from the left half of each photograph and test patches from the right half, so no
  pixel is in both. Photographs at least 800 pixels high are first shrunk by an integer factor, so that a
  patch shows some structure.

  Args:
    split: "train" or "test".
    num_per_class: number of patches per photograph; they overlap.
    size: side of a patch in pixels, at most 128.
    seed: seed of the patch positions.

  Raises:
    DataError: the split is unknown, or half a photograph cannot hold patches of this size and number.
  """
  return _patches_of("photo_patches", _PHOTOGRAPHS, split, num_per_class, size, seed)


def scene_patches(*, split: str, num_per_class: int = 250, size: int = 32, seed: int = 0) -> Source:
  """Returns patches of seven other scikit-image photographs, which show scenes; else as `photo_patches`."""
  return _patches_of("scene_patches", _SCENES, split, num_per_class, size, seed)


def _patches_of(
  source: str, files: Mapping[str, str], split: str, num_per_class: int, size: int, seed: int
) -> Source:
  _check_split(source, split)
  if not 1 <= size <= 128:
    raise DataError(f"{source} size is {size}; expected 1 to 128")
  if num_per_class < 1:
    raise DataError(f"{source} num_per_class is {num_per_class}; expected at least 1")
  names = tuple(files)

  def cut() -> np.ndarray:
    parts = []
    for label, file in enumerate(files.values()):
      rng = np.random.default_rng([seed, _SPLITS.index(split), label])
      parts.append(_patches(source, _half(source, file, split), num_per_class, size, rng))
    return np.concatenate(parts)

  count = num_per_class * len(names)
  labels = np.repeat(np.arange(len(names)), num_per_class)
  return Source(name=f"{source}/{split}", classes=names, labels=labels, images=Deferred(cut, count))


def _half(source: str, name: str, split: str) -> np.ndarray:
  import skimage
  from PIL import Image

  file = Path(skimage.__file__).parent / "data" / name
  if not file.is_file():
    raise DataError(f"{source} needs {name} of scikit-image, which this installation does not carry")
  image = Image.open(file).convert("RGB")
  middle = image.width // 2
  # Halve before shrinking, which would otherwise mix pixels across the border.
  image = image.crop(
    (0, 0, middle, image.height) if split == "train" else (middle, 0, image.width, image.height)
  )
  return np.asarray(image.reduce(1 + image.height // 800))


def _patches(
  source: str, photograph: np.ndarray, count: int, size: int, rng: np.random.Generator
) -> np.ndarray:
  rows, columns = (length - size + 1 for length in photograph.shape[:2])
  patches = []
  for place in rng.permutation(rows * columns):
    y, x = divmod(int(place), columns)
    patch = photograph[y : y + size, x : x + size]
    if patch.std(axis=(0, 1)).max() >= _FLAT:
      patches.append(patch)
    if len(patches) == count:
      return np.stack(patches)
  raise DataError(
    f"{source} finds only {len(patches)} places for {count} patches of {size} pixels; ask for fewer"
  )


def _check_split(name: str, split: str) -> None:
  if split not in _SPLITS:
    raise DataError(f"{name} has no split {split!r}; write 'train' or 'test'")
