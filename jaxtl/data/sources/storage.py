"""Storage of images: encoded in memory, in files, or as pixels that are made on first use."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.names import shown

# Number of blocks sampled from an image file to represent it, and bytes per block.
SAMPLED_BLOCKS, SAMPLED_BYTES = 8, 2048
# Files read concurrently, which hides the latency of network disks, and files per task.
_READERS, _FILES_A_TASK = 8, 256


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded(Sequence):
  """Encoded images in memory.

  Attributes:
    data: the bytes of each image file.
    names: one name per image, used to report an unreadable one; None if the images have no names.
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
    return None if self.names is None else shown(self.names[index])

  def chunks(self) -> Iterable[bytes]:
    return self.data


@dataclasses.dataclass(frozen=True, eq=False)
class Files(Sequence):
  """Encoded images on disk, read when needed.

  Attributes:
    root: the folder that `paths` are relative to.
    paths: one file per image.
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
    root = os.fsencode(self.root)
    return _objects([os.path.join(root, os.fsencode(self.paths[i])) for i in indices])

  def name(self, index: int) -> str:
    return shown(self.paths[index])

  def chunks(self) -> Iterable[bytes]:
    """Yields the identity of each image: its name, its size, and its content or samples of it.

    The identity excludes times and owners, so that a copy of the data is the same data. It uses samples,
    because reading a million whole files to fingerprint a data set is too slow.
    """
    tasks = [self.paths[i : i + _FILES_A_TASK] for i in range(0, len(self.paths), _FILES_A_TASK)]
    with ThreadPoolExecutor(_READERS) as pool:
      for identities in pool.map(functools.partial(_identities, os.fsencode(self.root)), tasks):
        yield from identities


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred(Sequence):
  """Pixels that are decoded or drawn on first use, then cached.

  Attributes:
    load: makes the uint8 [N, H, W, 3] array.
    length: N, known before loading.
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


def _identities(root: bytes, paths: Sequence[str]) -> list[bytes]:
  identities = []
  for path in paths:
    place = os.fsencode(path)
    # File systems return a name in different normal forms.
    name = place if path.isascii() else os.fsencode(unicodedata.normalize("NFC", path))
    identities.append(name + b"\0" + sampled(os.path.join(root, place)))
  return identities


def sampled(file: bytes, *, blocks: int = SAMPLED_BLOCKS) -> bytes:
  """Returns the size of a file and a digest of sampled bytes, or b"unreadable" if it cannot be read.

  A file of at most `blocks` * `SAMPLED_BYTES` bytes is read whole. A larger one is represented by `blocks`
  blocks of `SAMPLED_BYTES` bytes, spread evenly from its first bytes to its last.
  """
  try:
    descriptor = os.open(file, os.O_RDONLY)
    try:
      size = os.fstat(descriptor).st_size
      if size <= blocks * SAMPLED_BYTES:
        content = os.pread(descriptor, size, 0)
      else:
        last = size - SAMPLED_BYTES
        starts = (last * block // (blocks - 1) for block in range(blocks))
        content = b"".join(os.pread(descriptor, SAMPLED_BYTES, start) for start in starts)
    finally:
      os.close(descriptor)
  except OSError:
    # An unreadable image may be within the budget for bad records.
    return b"unreadable"
  return b"%d\0" % size + hashlib.sha256(content).digest()


def _objects(items: Sequence[bytes]) -> np.ndarray:
  # A plain np.array of bytes would drop trailing zero bytes.
  result = np.empty(len(items), object)
  result[:] = items
  return result
