"""Tensors out of files: safetensors, npz, and torch's pickles through torch's restricted loader alone."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from jaxtl.errors import CheckpointError, InputError

# What a folder may hold, in this order: the first that is there is read.
FILES = (
  "model.safetensors",
  "model.safetensors.index.json",
  "open_clip_model.safetensors",
  "pytorch_model.bin",
  "open_clip_pytorch_model.bin",
  "model.npz",
)
PICKLES = (".pth", ".pt", ".bin")
TORCH_READER = Path(__file__).with_name("torch_reader.py")


@dataclasses.dataclass(frozen=True)
class Source:
  """A file of weights, read.

  Attributes:
    path: the file.
    tensors: key -> array, as they were stored (bfloat16 as float32).
    sha256: of the file's bytes; of an index, then of the shards' in the order of their names.
  """

  path: Path
  tensors: dict[str, np.ndarray]
  sha256: str


def read_source(path: Path) -> Source:
  """The tensors of a file, or of the file that a folder holds.

  Raises:
    InputError: there is none, or its kind is not known, or it needs torch and there is none.
    CheckpointError: it is damaged, or a pickle that asks for more than tensors.
  """
  file = _file(path)
  shards: list[Path] = []
  if file.suffix == ".safetensors":
    tensors = _safetensors(file)
  elif file.name.endswith(".index.json"):
    shards = _shards(file)
    tensors = {key: value for shard in shards for key, value in _safetensors(shard).items()}
  elif file.suffix == ".npz":
    tensors = _npz(file)
  elif file.suffix in PICKLES:
    tensors = _pickle(file)
  else:
    kinds = ", ".join((".safetensors", ".npz", *PICKLES))
    raise InputError(f"{file} is none of {kinds}; convert it to safetensors")
  if not tensors:
    raise CheckpointError(f"{file} holds no tensors")
  digest = hashlib.sha256()
  for part in (file, *shards):
    with part.open("rb") as stream:
      hashlib.file_digest(stream, lambda: digest)
  return Source(file, tensors, digest.hexdigest())


def _file(path: Path) -> Path:
  if path.is_dir():
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
      raise InputError(f"{path} holds no weights; expected one of {', '.join(FILES)}")
    return found[0]
  if not path.is_file():
    raise InputError(f"no file at {path}")
  return path


def _safetensors(file: Path) -> dict[str, np.ndarray]:
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(file, framework="np") as stored:
      return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a mapping)
  except (SafetensorError, TypeError, ValueError) as error:
    raise CheckpointError(f"{file} cannot be read as safetensors: {_first_line(error)}") from error


def _shards(index: Path) -> list[Path]:
  """The files that an index names."""
  try:
    names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
  except (RecursionError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise CheckpointError(f"{index} is no index of safetensors files") from error
  missing = [name for name in names if not (index.parent / name).is_file()]
  if missing:
    raise CheckpointError(f"{index} names {missing[0]}, which is not beside it")
  return [index.parent / name for name in names]


def _npz(file: Path) -> dict[str, np.ndarray]:
  try:
    with np.load(file, allow_pickle=False) as stored:
      return {key: _bfloat16(stored[key]) for key in stored.files}
  except (AttributeError, TypeError) as error:  # one array, or a zip of something else
    raise CheckpointError(f"{file} is no archive of arrays") from error
  except Exception as error:  # zip, zlib and numpy raise their own; whatever it is, the file cannot be used
    raise CheckpointError(f"{file} cannot be read as npz: {_first_line(error)}") from error


def _bfloat16(array: np.ndarray) -> np.ndarray:
  """numpy has no bfloat16 and stores it as two bytes of anything: the upper half of a float32."""
  if array.dtype.kind != "V" or array.dtype.itemsize != 2:
    return array
  return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _pickle(file: Path) -> dict[str, np.ndarray]:
  """In a process of its own: what a hostile file might do to torch, it does not do to this process."""
  if importlib.util.find_spec("torch") is None:
    raise InputError(f"reading {file.name} needs torch: pip install torch, or save it as safetensors")
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "tensors.safetensors"
    # -P: torch must not import the modules beside the script in place of its own.
    command = [sys.executable, "-P", str(TORCH_READER), str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
      raise CheckpointError(f"{file} cannot be read: {reason}")
    return _safetensors(out)


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
