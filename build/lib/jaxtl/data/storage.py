"""Where images are kept: encoded in memory, in files, or as pixels that are made when first used."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded(Sequence):
  """Encoded images in memory.

  Attributes:
    data: the bytes of each image file.
    names: a name for each, to tell the user which one is unreadable; None where they have none.
  """

  data: Sequence[bytes]
  names: Sequence[str] | None = None

  def __len__(self) -> int:
    return len(self.data)

  def __getitem__(self, index: Any) -> bytes:
    return self.data[index]

  def take(self, indices: np.ndarray) -> Encoded:
    names = None if self.names is None else [self.names[i] for i in indices]
    return Encoded([self.data[i] for i in indices], names)

  def payload(self, indices: np.ndarray) -> np.ndarray:
    return _objects([self.data[i] for i in indices])

  def name(self, index: int) -> str | None:
    return None if self.names is None else str(self.names[index])

  def chunks(self) -> Iterable[bytes]:
    return self.data


@dataclasses.dataclass(frozen=True, eq=False)
class Files(Sequence):
  """Encoded images on disk, read when they are needed.

  Attributes:
    root: the folder that `paths` are relative to.
    paths: one file for each image.
  """

  root: Path
  paths: Sequence[str]

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: Any) -> bytes:
    return (self.root / self.paths[index]).read_bytes()

  def take(self, indices: np.ndarray) -> Files:
    return Files(self.root, [self.paths[i] for i in indices])

  def payload(self, indices: np.ndarray) -> np.ndarray:
    return _objects([str(self.root / self.paths[i]).encode() for i in indices])

  def name(self, index: int) -> str:
    return self.paths[index]

  def chunks(self) -> Iterable[bytes]:
    # Names and sizes stand for the contents: reading a million files to name a data set is too dear.
    for path in self.paths:
      file = self.root / path
      yield f"{path}\0{file.stat().st_size if file.is_file() else -1}\0".encode()


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred(Sequence):
  """Pixels that are decoded or drawn when they are first used, then kept.

  Attributes:
    load: makes the uint8 [N, H, W, 3] array.
    length: N, known before.
  """

  load: Callable[[], np.ndarray]
  length: int

  @functools.cached_property
  def array(self) -> np.ndarray:
    return self.load()

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: Any) -> Any:
    return self.array[index]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(self.array, dtype=dtype, copy=copy)

  def take(self, indices: np.ndarray) -> Deferred:
    return Deferred(lambda: self.array[indices], len(indices))


def _objects(items: Sequence[bytes]) -> np.ndarray:
  # A plain np.array of bytes would cut trailing zero bytes off.
  result = np.empty(len(items), object)
  result[:] = items
  return result
