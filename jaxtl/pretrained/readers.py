"""Readers of tensors from safetensors, npz, and, only through a restricted unpickler, torch's pickles."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from jaxtl.errors import CheckpointError, InputError, essence
from jaxtl.pretrained.prefixes import in_line

# Files that a folder may hold; the first existing one is read.
FILES = (
  "model.safetensors",
  "model.safetensors.index.json",
  "open_clip_model.safetensors",
  "pytorch_model.bin",
  "open_clip_pytorch_model.bin",
  "model.npz",
)
PICKLES = (".pth", ".pt", ".bin", ".pth.tar", ".pt.tar", ".ckpt")
# Supported types by their names in safetensors.
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
TORCH_READER = Path(__file__).with_name("torch_reader.py")


@dataclasses.dataclass(frozen=True)
class WeightFile:
  """The contents of a file of weights.

  Attributes:
    path: the file.
    tensors: key -> array, as stored (bfloat16 as float32).
    sha256: digest of the file's bytes; for an index, of the index followed by its shards in the order of
      their names.
    below: the dotted keys under which a torch file stored the tensors, such as "state_dict"; else "".
  """

  path: Path
  tensors: dict[str, np.ndarray]
  sha256: str
  below: str = ""


def read_source(path: Path) -> WeightFile:
  """Reads the tensors of a file, or of the first known file in a folder.

  Raises:
    InputError: there is no file, or its kind is unknown.
    CheckpointError: the file is damaged, names a file outside its folder, holds numbers of an unsupported
      type, or is a pickle that requests more than tensors and plain data.
  """
  file = _file(path)
  below = ""
  shards: list[Path] = []
  if file.suffix == ".safetensors":
    tensors = _safetensors(file)
  elif file.name.endswith(".index.json"):
    shards = _shards(file)
    tensors = {key: value for shard in shards for key, value in _safetensors(shard).items()}
  elif file.suffix == ".npz":
    tensors = _npz(file)
  elif file.name.lower().endswith(PICKLES):
    tensors, below = _pickle(file)
  else:
    kinds = ", ".join((".safetensors", ".npz", *PICKLES))
    raise InputError(f"{file} is not one of {kinds}; convert it to safetensors")
  if not tensors:
    raise CheckpointError(f"{file} holds no tensors")
  digest = hashlib.sha256()
  for part in (file, *shards):
    with part.open("rb") as stream:
      hashlib.file_digest(stream, lambda: digest)
  return WeightFile(file, tensors, digest.hexdigest(), below)


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
      names = list(stored.keys())
      for name in names:
        kind = stored.get_slice(name).get_dtype()
        if kind not in DTYPES:
          raise CheckpointError(
            f"{file} stores {in_line(name)} as {kind}, which jaxtl does not read; convert it to float32 "
            f"(supported: {', '.join(DTYPES)})"
          )
      return {name: stored.get_tensor(name) for name in names}
  except CheckpointError:  # a ValueError, which the next clause would catch
    raise
  except (SafetensorError, AttributeError, TypeError, ValueError, KeyError, OSError) as error:
    raise CheckpointError(f"{file} cannot be read as safetensors: {in_line(essence(error))}") from error


def _shards(index: Path) -> list[Path]:
  """Returns the files that an index names, all of which must be in its folder."""
  try:
    names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
  except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
    raise CheckpointError(f"{index} is not an index of safetensors files") from error
  for name in names:
    # Reject both separators, since the file may come from another system.
    is_plain = name.endswith(".safetensors") and not re.search(r"[/\\\0]", name)
    if not is_plain or not (index.parent / name).is_file():
      raise CheckpointError(f"{index} names {in_line(name)}, which is not a .safetensors file in its folder")
  return [index.parent / name for name in names]


def _npz(file: Path) -> dict[str, np.ndarray]:
  try:
    with np.load(file, allow_pickle=False) as stored:
      return {key: _bfloat16(stored[key]) for key in stored.files}
  except (AttributeError, TypeError) as error:  # a single array, or a zip of something else
    raise CheckpointError(f"{file} is not an archive of arrays") from error
  except Exception as error:  # zip, zlib and numpy raise many types; with any, the file is unusable
    raise CheckpointError(f"{file} cannot be read as npz: {essence(error)}") from error


def _bfloat16(array: np.ndarray) -> np.ndarray:
  """Converts bfloat16, which numpy stores as two opaque bytes, to float32, whose upper half it is."""
  if array.dtype.kind != "V" or array.dtype.itemsize != 2:
    return array
  return np.asarray(array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _pickle(file: Path) -> tuple[dict[str, np.ndarray], str]:
  """Reads (tensors, keys above them) in a separate process, which contains the effects of a hostile file."""
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "tensors.safetensors"
    # -P keeps the script from importing modules of its own folder in place of numpy's.
    command = [sys.executable, "-P", str(TORCH_READER), str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
      reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
      raise CheckpointError(f"{file} cannot be read: {reason}")
    return _safetensors(out), _below(out)


def _below(file: Path) -> str:
  from safetensors import safe_open

  with safe_open(file, framework="np") as stored:
    return str((stored.metadata() or {}).get("below", ""))
