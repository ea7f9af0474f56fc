"""The images that a user gives: paths, folders, Pillow's images and arrays, as one list."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxtl.data.names import shown
from jaxtl.data.sources.folder import image_files
from jaxtl.data.transforms import pixels as pixels_lib
from jaxtl.errors import DataError, InputError, essence
from jaxtl.inference.decoding import UnreadableError
from jaxtl.inference.preprocess import Preprocess, Raw


@dataclasses.dataclass(frozen=True, eq=False)
class Input:
  """One image.

  Attributes:
    name: its path, or its place in the list.
    image: its file; or its pixels, uint8 or float32 [H, W, 3].
    orientation: the EXIF orientation of the pixels; a file states its own.
  """

  name: str
  image: Path | np.ndarray
  orientation: int = 1

  def raw(self, preprocess: Preprocess) -> Raw:
    """Returns the contents of the file, or the pixels, turned if the checkpoint turns its images.

    Raises:
      UnreadableError: the file cannot be opened.
    """
    if isinstance(self.image, np.ndarray):
      return preprocess.turned(self.image, self.orientation)
    try:
      return self.image.read_bytes()
    except OSError as error:
      raise UnreadableError("the file cannot be opened") from error


def inputs_of(images: Any) -> list[Input]:
  """Lists images of every kind that `Loaded.predict` accepts.

  Args:
    images: a path to an image or to a folder of images, a Pillow image, an array, or a sequence of these.
      Arrays are [H, W], [H, W, C] or [B, H, W, C] with 1 to 4 channels, of which an opacity is dropped.

  Raises:
    DataError: a path does not exist, or a folder holds no image.
    InputError: an array has another shape or other values, or an image is of another type.
  """
  single = isinstance(images, (str, Path, Image.Image)) or hasattr(images, "__array__")
  if not single and not isinstance(images, Iterable):
    raise InputError(_expected(images))
  found: list[Input] = []
  for image in [images] if single else images:
    found += _inputs_of_one(image, len(found))
  return found


def files_of(paths: Sequence[str | Path]) -> list[Input]:
  """Lists image files, and those in folders at any depth, each folder sorted by name.

  Raises:
    DataError: a path does not exist, or a folder cannot be read or holds no image.
  """
  return [found for path in paths for found in _files_of_one(Path(path))]


def pixels_of(array: np.ndarray, *, name: str) -> np.ndarray:
  """Converts an array to pixels [B, H, W, 3]: uint8, or float32 if the array holds floats.

  Grey is repeated, and opacity is dropped. Floats are pixels from 0 to 255. Booleans and integers of other
  sizes are scaled as in files of such pixels (`jaxtl.data.transforms.pixels`): 16 bits by 65535.

  Args:
    array: [H, W], [H, W, C] or [B, H, W, C].
    name: what messages call it.

  Raises:
    InputError: the array has another shape or type, or its floats are not from 0 to 255.
  """
  batch = array[None, ..., None] if array.ndim == 2 else array[None] if array.ndim == 3 else array
  if batch.ndim != 4 or batch.shape[-1] not in (1, 2, 3, 4) or 0 in batch.shape[1:]:
    raise InputError(
      f"{name} is an array of shape {array.shape}; expected an image [H, W, 3] or [H, W], or a batch "
      "[B, H, W, 3] (a batch of grey images is [B, H, W, 1])"
    )
  if batch.dtype.kind == "f":
    values = _checked_floats(batch, name)
  elif batch.dtype.kind in "iub":
    values = pixels_lib.eight_bits(batch)
  else:
    raise InputError(f"{name} holds {array.dtype}; expected uint8 pixels, or floats from 0 to 255")
  return values[..., :3] if batch.shape[-1] > 2 else np.repeat(values[..., :1], 3, axis=-1)


def _checked_floats(batch: np.ndarray, name: str) -> np.ndarray:
  low, high = (float(np.min(batch)), float(np.max(batch))) if batch.size else (0.0, 0.0)
  if not (low >= 0 and high <= 255):  # also true for NaN
    raise InputError(f"{name} has floats from {low:g} to {high:g}; expected pixels from 0 to 255")
  if 0 < high <= 1:
    raise InputError(
      f"{name} has floats from {low:g} to {high:g}; expected pixels from 0 to 255: multiply them by 255"
    )
  return batch.astype(np.float32, copy=False)


def _inputs_of_one(image: Any, number: int) -> list[Input]:
  name = f"image {number}"
  if isinstance(image, (str, Path)):
    return _files_of_one(Path(image))
  if isinstance(image, Image.Image):
    name = shown(getattr(image, "filename", "") or name)
    try:
      return [Input(name, pixels_lib.rgb(image), pixels_lib.orientation_of(image))]
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reads a file when its pixels are first used
      raise DataError(f"{name} cannot be read: {essence(error)}") from error
  if not hasattr(image, "__array__"):
    raise InputError(_expected(image))
  pixels = pixels_of(np.asarray(image), name=name)
  return [Input(f"image {number + row}", each) for row, each in enumerate(pixels)]


def _files_of_one(path: Path) -> list[Input]:
  if path.is_dir():
    names = image_files(path)
    if not names:
      raise DataError(f"no image in the folder {shown(path)}; give image files, or a folder that holds some")
    return [Input(shown(path / name), path / name) for name in names]
  if not path.exists():
    raise DataError(f"no image at {shown(path)}: there is no such file or folder")
  return [Input(shown(path), path)]


def _expected(image: Any) -> str:
  return (
    f"expected paths, Pillow images or arrays, got {type(image).__name__} (for example predict(['a.jpg']))"
  )
