"""Files as torch writes them, without torch: the same pickles, archives and storages, byte by byte.

Objects of torch are stand-ins, of which only the names are written.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

STORAGES = {
  "f8": "DoubleStorage",
  "f4": "FloatStorage",
  "f2": "HalfStorage",
  "i8": "LongStorage",
  "i4": "IntStorage",
  "u1": "ByteStorage",
  "b1": "BoolStorage",
}


def name(dotted: str) -> Any:
  """A class that a pickle asks for by this name."""
  module, _, own = dotted.rpartition(".")
  return type(own, (), {"__module__": module, "__qualname__": own, "stand_in": True})


class Asks:
  """Is pickled as a call of a function of that name."""

  def __init__(self, dotted: str, *arguments: Any) -> None:
    self.function, self.arguments = name(dotted), arguments

  def __reduce__(self) -> Any:
    return self.function, self.arguments


class Tensor:
  """A tensor of torch's.

  Args:
    values: the numbers.
    storage: torch's name of the storage's class; None: that of the numbers.
    view: (offset, shape, strides) of what is seen of them; None: all.
  """

  def __init__(self, values: Any, *, storage: str | None = None, view: Any = None) -> None:
    self.values = np.asarray(values, order="C")
    self.storage = storage or STORAGES[self.values.dtype.str[1:]]
    strides = tuple(step // self.values.itemsize for step in self.values.strides)
    self.view = view or (0, self.values.shape, strides)

  def __reduce__(self) -> Any:
    # Two of the same numbers are of one storage.
    return name("torch._utils._rebuild_tensor_v2"), (Storage(self), *self.view, False, OrderedDict())


class Storage:
  """What a pickle writes as a persistent id."""

  def __init__(self, tensor: Tensor) -> None:
    self.values, self.kind = tensor.values, tensor.storage


class _Pickler(pickle._Pickler):  # the one in Python, whose names need not exist
  def __init__(self, stream: Any, storages: dict[str, np.ndarray], *, archive: bool) -> None:
    super().__init__(stream, protocol=2)
    self.storages, self.archive = storages, archive
    self.keys: dict[int, str] = {}

  def persistent_id(self, thing: Any) -> Any:
    if not isinstance(thing, Storage):
      return None
    key = self.keys.setdefault(id(thing.values), str(len(self.keys)))
    self.storages[key] = thing.values
    tail = () if self.archive else (None,)
    return ("storage", name(f"torch.{thing.kind}"), key, "cuda:0", thing.values.size, *tail)

  def save_global(self, thing: Any, name: str | None = None) -> None:
    if getattr(thing, "stand_in", False):
      self.write(f"c{thing.__module__}\n{thing.__qualname__}\n".encode())
    else:
      super().save_global(thing, name)

  # What Python's pickler looks up by the type of what it writes; a class is of type `type`.
  dispatch: ClassVar[dict[Any, Any]] = {**pickle._Pickler.dispatch, type: save_global}


def save(stored: Any, path: Path, *, legacy: bool = False, big: bool = False) -> Path:
  """As `torch.save`: an archive, or what torch wrote before 1.6."""
  storages: dict[str, np.ndarray] = {}
  stream = io.BytesIO()
  order = ">" if big else "<"
  _Pickler(stream, storages, archive=not legacy).dump(stored)
  if legacy:
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    with path.open("wb") as file:
      for thing in head:
        pickle.dump(thing, file, protocol=2)
      file.write(stream.getvalue())
      pickle.dump(sorted(storages), file, protocol=2)
      for key in sorted(storages):
        file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
    return path
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr("archive/data.pkl", stream.getvalue())
    archive.writestr("archive/byteorder", "big" if big else "little")
    for key, values in storages.items():
      archive.writestr(f"archive/data/{key}", values.astype(values.dtype.newbyteorder(order)).tobytes())
    archive.writestr("archive/version", "3\n")
  return path
