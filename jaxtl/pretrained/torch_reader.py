"""A script that converts a torch file to safetensors, by a restricted unpickler that does not need torch.

python -P torch_reader.py FILE OUT

It imports nothing from jaxtl, and no name that a pickle requests. A requested name is replaced by a function
or a class of this file. Tensors become records of the location of their bytes. The plain data that training
scripts store with them becomes `Inert`, which holds nothing and does nothing. Every other name is refused.
On failure, the last line of stderr states the reason.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, Literal

import numpy as np

# Training scripts store the weights under one of these keys; the moving average takes precedence.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "module")

# The first objects of a file from before torch 1.6, which is not an archive.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# Limits on the depth and the number of dictionaries, against a file made to exhaust the reader.
DEPTH, MOST = 32, 1_000_000
# Tensors that are views of one another may exceed the size of the file by this factor, plus SMALL bytes.
REPEATED, SMALL = 8, 1 << 27
# Limits of the process: bytes of memory and seconds of CPU time, plus more per byte of the file.
MEMORY, SECONDS, MEMORY_PER_BYTE, BYTES_PER_SECOND = 2 << 30, 120, 64, 10_000_000

# torch's type name -> numpy's. bfloat16 is the upper half of a float32.
DTYPES = {
  "float64": "f8",
  "float32": "f4",
  "float16": "f2",
  "bfloat16": "u2",
  "int64": "i8",
  "int32": "i4",
  "int16": "i2",
  "int8": "i1",
  "uint8": "u1",
  "bool": "?",
  "uint16": "u2",
  "uint32": "u4",
  "uint64": "u8",
}
_STORAGES = {
  "Double": "float64",
  "Float": "float32",
  "Half": "float16",
  "BFloat16": "bfloat16",
  "Long": "int64",
  "Int": "int32",
  "Short": "int16",
  "Char": "int8",
  "Byte": "uint8",
  "Bool": "bool",
  "Untyped": "uint8",
}


Order = Literal["<", ">"]


class Refused(Exception):
  """The error for a file whose contents are not supported."""


class Inert:
  """Plain data that is not read: it accepts any arguments and stores nothing."""

  def __init__(self, *_: Any, **__: Any) -> None:
    pass

  def __setstate__(self, _: Any) -> None:
    pass

  def __setitem__(self, _: Any, __: Any) -> None:
    pass

  def append(self, _: Any) -> None:
    pass

  def extend(self, _: Any) -> None:
    pass

  def add(self, _: Any) -> None:
    pass


class Named(dict):
  """The replacement of every kind of dictionary; its attributes are not read."""

  def __setstate__(self, _: Any) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class DType:
  """A torch type, identified by its name."""

  name: str

  @property
  def numpy(self) -> np.dtype:
    if self.name not in DTYPES:
      raise Refused(f"it holds {self.name}, and jaxtl reads {', '.join(DTYPES)}; convert it to float32")
    return np.dtype(DTYPES[self.name])


@dataclasses.dataclass(frozen=True)
class Storage:
  """The location of the numbers of some tensors: `length` of them, stored under `key`."""

  key: str
  dtype: DType
  length: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  dtype: DType

  @property
  def nbytes(self) -> int:
    """The size of its values in bytes, which may exceed that of the storage.

    Raises:
      Refused: the tensor is not a dense array.
    """
    sizes = (*self.shape, *self.strides, self.offset)
    if len(self.shape) != len(self.strides) or not all(isinstance(n, int) and n >= 0 for n in sizes):
      raise Refused("it holds a tensor that is not a strided array of numbers")
    return math.prod(self.shape) * self.dtype.numpy.itemsize

  def array(self, data: bytes, order: Order) -> np.ndarray:
    """Returns the values, read from the bytes of the storage."""
    flat = np.frombuffer(data, self.dtype.numpy.newbyteorder(order))
    last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides))
    if math.prod(self.shape) and last >= len(flat):
      raise Refused("it is damaged: a tensor reaches beyond its storage")
    if not math.prod(self.shape):
      values = np.zeros(self.shape, flat.dtype)
    else:
      steps = [step * flat.itemsize for step in self.strides]
      values = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)
    values = np.array(values, self.dtype.numpy, order="C")
    if self.dtype.name == "bfloat16":
      return np.asarray(values.astype(np.uint32) << 16).view(np.float32)  # a shifted 0-d array is a scalar
    return values


def _named(items: Any = (), *_: Any) -> Named:
  return Named(items or ())


def _default(*_: Any) -> Named:
  return Named()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
  return _typed_tensor(storage, offset, shape, strides, *rest[:2], None, *rest[2:])


def _typed_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
  if not isinstance(storage, Storage):
    raise Refused("it holds a tensor without numbers")
  marks = rest[3] if len(rest) > 3 and isinstance(rest[3], dict) else {}
  if any(marks.values()):  # the stored values are not yet negated or conjugated
    raise Refused("it holds a tensor that torch negates when it is read; save what .resolve_neg() gives")
  dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], DType) else storage.dtype
  return Tensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _parameter(tensor: Any, *_: Any) -> Any:
  return tensor


def _subclass(rebuild: Any, _: Any, given: Any, *__: Any) -> Any:
  """Rebuilds a tensor with attributes, which are ignored."""
  if rebuild not in (_tensor, _typed_tensor, _parameter):
    raise Refused("it holds a tensor that is not a strided array of numbers")
  return rebuild(*given)


def _plain(*_: Any) -> Inert:
  return Inert()


def _size(values: Any = ()) -> tuple[Any, ...]:
  return tuple(values)


# Name requested by a pickle -> its replacement: tensors, and dictionaries that may hold some.
ANSWERS: dict[str, Callable[..., Any]] = {
  "collections.OrderedDict": _named,
  "collections.defaultdict": _default,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_tensor_v3": _typed_tensor,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
  "torch._tensor._rebuild_from_type_v2": _subclass,
  "torch.Size": _size,
  "copyreg._reconstructor": _plain,
  "copy_reg._reconstructor": _plain,
}
# These names, and all names that match the pattern below, become `Inert`. None is imported.
INERT = frozenset(
  (
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.object",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "collections.Counter",
    "collections.deque",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "types.SimpleNamespace",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "_codecs.encode",
  )
)
INERT_PATTERN = re.compile(
  r"numpy\.(_?core)\.multiarray\.(scalar|_reconstruct)|numpy\._?core\.numeric\._frombuffer"
  r"|numpy\.dtypes\.\w+DType|(pytorch_lightning|lightning|lightning_fabric|omegaconf)\..*"
)


class Restricted(pickle.Unpickler):
  """An unpickler that imports nothing."""

  def find_class(self, module: str, name: str) -> Any:
    asked = f"{module}.{name}".replace("__builtin__.", "builtins.")
    if asked in ANSWERS:
      return ANSWERS[asked]
    if asked in INERT or INERT_PATTERN.fullmatch(asked):
      return Inert
    storage = re.fullmatch(r"torch\.(?:storage\.|cuda\.)?(\w+?)Storage", asked)
    if storage and storage.group(1) in _STORAGES:
      return DType(_STORAGES[storage.group(1)])
    if storage or re.fullmatch(r"torch\.(b?float|complex|u?int|bool|qu?int|bits)\w*", asked):
      return DType(name.removesuffix("Storage"))
    shown = asked if asked.isprintable() else ascii(asked)[1:-1]
    raise Refused(f"it is a pickle that imports {shown[:100]}, and only tensors are read")

  def persistent_load(self, given: Any) -> Storage:
    kind, dtype, key, _, length, *view = given
    if kind != "storage" or not isinstance(dtype, DType) or any(view):
      raise Refused("it is a pickle that holds more than tensors, and only tensors are read")
    return Storage(str(key), dtype, int(length))


def main(file: str, out: str) -> None:
  """Reads `file` and writes `out`, whose metadata record the keys above the tensors."""
  from safetensors.numpy import save_file

  try:
    with open(file, "rb") as stream:
      read = _archive if zipfile.is_zipfile(stream) else _stream
      stream.seek(0)
      tensors, below = read(stream)
      save_file(tensors, out, {"below": below})
  except Exception as error:  # any failure is reported in one line
    raise SystemExit(_reason(error)) from None


def _bounded(file: str) -> None:
  """Limits the memory and the CPU time of this process, if the system supports it.

  A pickle of a few bytes may request a table of 32 GiB, or the hash of a key that takes days. Both happen
  inside the unpickler, where only the system can stop them.
  """
  try:
    import resource

    with open("/proc/self/statm") as status:
      used = int(status.read().split()[0]) * resource.getpagesize()
    size = os.path.getsize(file)
  except (ImportError, OSError):
    return
  memory = used + MEMORY + MEMORY_PER_BYTE * size
  for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, SECONDS + size // BYTES_PER_SECOND)):
    bound = resource.getrlimit(kind)[1]
    most = most if bound == resource.RLIM_INFINITY else min(most, bound)
    resource.setrlimit(kind, (most, bound))


def _reason(error: Exception) -> str:
  if isinstance(error, Refused):
    return str(error)
  if isinstance(error, MemoryError):
    return "it takes far more memory than a file of its size should"
  if isinstance(error, zipfile.BadZipFile):
    return f"it is damaged: {' '.join(str(error).split())[:200]}"
  return "it is damaged, or not a torch file"


def _archive(stream: BinaryIO) -> tuple[dict[str, np.ndarray], str]:
  """Reads a file of torch 1.6 or later."""
  with zipfile.ZipFile(stream) as archive:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
      raise Refused("it is an archive, but not one of torch's")
    if "constants.pkl" in members:
      raise Refused(
        "it is a TorchScript archive, which is a program; load it where you trust it and save its state_dict"
      )
    if "data.pkl" not in members:
      raise Refused("it is an archive without data.pkl, so not one of torch's")
    order = archive.read(members["byteorder"]) if "byteorder" in members else b"little"
    with archive.open(members["data.pkl"]) as inside:
      stored = Restricted(inside, encoding="utf-8").load()

    def data(storage: Storage) -> bytes:
      return archive.read(members[f"data/{storage.key}"])

    return _arrays(stored, data, ">" if order == b"big" else "<", os.fstat(stream.fileno()).st_size)


def _stream(stream: BinaryIO) -> tuple[dict[str, np.ndarray], str]:
  """Reads a file of torch before 1.6: pickles, then every storage preceded by its length."""
  if Restricted(stream).load() != MAGIC or Restricted(stream).load() != PROTOCOL:
    raise Refused("it is not a torch file")
  machine = Restricted(stream).load()
  order: Order = "<" if machine.get("little_endian", True) else ">"
  noted = _Noting(stream, encoding="utf-8")
  stored = noted.load()
  places: dict[str, tuple[int, int]] = {}
  end = os.fstat(stream.fileno()).st_size
  for key in Restricted(stream).load():
    (length,) = struct.unpack(f"{order}q", stream.read(8))
    size = length * noted.storages[key].dtype.numpy.itemsize
    places[key] = (stream.tell(), size)
    if length < 0 or stream.tell() + size > end:
      raise Refused("it is damaged: it ends before its tensors do")
    stream.seek(size, os.SEEK_CUR)

  def data(storage: Storage) -> bytes:
    at, size = places[storage.key]
    stream.seek(at)
    return stream.read(size)

  return _arrays(stored, data, order, end)


class _Noting(Restricted):
  """An unpickler that records the storages a stream names, since the data after it has lengths only."""

  def __init__(self, *rest: Any, **more: Any) -> None:
    super().__init__(*rest, **more)
    self.storages: dict[str, Storage] = {}

  def persistent_load(self, given: Any) -> Storage:
    storage = super().persistent_load(given)
    return self.storages.setdefault(storage.key, storage)


def _arrays(
  stored: Any, data: Callable[[Storage], bytes], order: Order, size: int
) -> tuple[dict[str, np.ndarray], str]:
  """Returns (tensors by name, keys above them) of a file of `size` bytes.

  Raises:
    Refused: the file does not hold tensors by name, or they have many times more numbers than the file.
  """
  inside, below = _unwrapped(stored)
  tensors = _flat(inside)
  # A view may repeat numbers without limit, so a small file could fill the memory. The storage lengths that
  # the file states are not a bound.
  if sum(tensor.nbytes for tensor in tensors.values()) > REPEATED * size + SMALL:
    raise Refused("its tensors repeat the same numbers many times over")
  arrays: dict[str, np.ndarray] = {}
  views: dict[str, list[str]] = {}
  for name, tensor in tensors.items():
    views.setdefault(tensor.storage.key, []).append(name)
  for names in views.values():
    read = data(tensors[names[0]].storage)  # read once for all tensors that are views of it
    arrays |= {name: tensors[name].array(read, order) for name in names}
  return {name: arrays[name] for name in tensors}, below


def _unwrapped(stored: Any) -> tuple[dict[Any, Any], str]:
  below: list[str] = []
  while isinstance(stored, dict) and len(below) < DEPTH:
    key = next((key for key in WRAPPERS if isinstance(stored.get(key), dict)), None)
    if key is None:
      return stored, ".".join(below)
    stored = stored[key]
    below.append(key)
  raise Refused(f"it holds {_kind(stored)}, not tensors by name")


def _kind(stored: Any) -> str:
  return "an object" if isinstance(stored, Inert) else f"a {type(stored).__name__}"


def _flat(stored: dict[Any, Any]) -> dict[str, Tensor]:
  """Returns the tensors by their dotted names; refuses dictionaries that contain one another without end."""
  found: dict[str, Tensor] = {}
  waiting = [("", stored, 0)]
  for _ in range(MOST):
    if not waiting:
      return found
    before, inside, depth = waiting.pop()
    for key, value in inside.items():
      if isinstance(value, Tensor):
        if f"{before}{key}" in found:
          raise Refused(f"it holds two tensors that are both named {ascii(f'{before}{key}')[:100]}")
        found[f"{before}{key}"] = value
      elif isinstance(value, dict) and depth < DEPTH:
        waiting.append((f"{before}{key}.", value, depth + 1))
  raise Refused("its dictionaries contain one another endlessly")


if __name__ == "__main__":
  _bounded(sys.argv[1])
  main(*sys.argv[1:])
