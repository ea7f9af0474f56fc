"""The manifest of a checkpoint: marks a step as complete, and detects corruption by digest.

Orbax restores a file with a flipped bit without an error (measured with 0.12.8). Therefore a step has a
`manifest.json`, written last. It has the SHA-256 of every file, which identifies a damaged file. It also has
the SHA-256 of every array, which proves that a restored array is the saved one. The manifest carries a digest
of itself. Its content is untrusted: no path in it is followed, and only files inside the folder are read.

A saved file that is missing or has changed is damaged. A disk that does not answer is different: the state of
the file is then unknown, and the answer may come later.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxtl import tree
from jaxtl.errors import CheckpointError, DamagedError, StorageError

T = TypeVar("T")

NAME = "manifest.json"
# In every later format, too, "digest" is the SHA-256 of the rest, so a flipped bit cannot look like another
# format.
FORMAT = 1
# Seconds before a retry when a disk does not answer.
ASK_AGAIN = (0.2, 1.0)
# These errors concern the name and not the disk: the file does not exist, or is not a file.
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Larger than any real manifest (0.3 MB for a ViT-L with its optimiser); a larger file is not parsed.
LARGEST = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of a checkpoint.

  Attributes:
    shape, dtype: as saved.
    sha256: digest of its bytes in C order; None if no process held the whole array.
  """

  shape: tuple[int, ...]
  dtype: str
  sha256: str | None

  def __str__(self) -> str:
    return f"{self.dtype}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The manifest of one complete step.

  Attributes:
    step: the number of updates so far.
    leaves: path -> array, `model/params/...` first.
    files: path below the step's folder -> (bytes, SHA-256).
  """

  step: int
  leaves: Mapping[str, Leaf]
  files: Mapping[str, tuple[int, str]]

  @property
  def digest(self) -> str:
    """SHA-256 of all other contents of the manifest."""
    return _digest(self._plain())

  @property
  def num_bytes(self) -> int:
    """Size of all files in bytes."""
    return sum(size for size, _ in self.files.values())

  def _plain(self) -> dict[str, Any]:
    return {
      "format": FORMAT,
      "step": self.step,
      "leaves": {path: [list(leaf.shape), leaf.dtype, leaf.sha256] for path, leaf in self.leaves.items()},
      "files": {path: list(entry) for path, entry in self.files.items()},
    }

  def text(self) -> str:
    """Returns the manifest as JSON, including its digest."""
    return json.dumps({**self._plain(), "digest": self.digest}, indent=1) + "\n"


def leaves_of(items: Any) -> dict[str, Leaf]:
  """Describes the arrays of a tree of numpy or JAX arrays.

  An array has a digest if this process holds all of it.
  """
  return {path: _leaf(x) for path, x in zip(tree.paths(items), jax.tree.leaves(items), strict=True)}


def shapes_of(items: Any) -> dict[str, Leaf]:
  """Describes arrays or `jax.ShapeDtypeStruct`s without digests."""
  return {
    path: Leaf(tuple(x.shape), str(x.dtype), None)
    for path, x in zip(tree.paths(items), jax.tree.leaves(items), strict=True)
  }


def is_whole(x: Any) -> bool:
  """Returns whether this process holds all of an array."""
  return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def write(folder: Path, step: int, leaves: Mapping[str, Leaf]) -> Manifest:
  """Computes the manifest of all files in a folder, and writes it there atomically."""
  files = {path: _file(folder / path) for path in _walk(folder)}
  manifest = Manifest(step, leaves, files)
  temporary = folder / f".{NAME}"
  with temporary.open("w", encoding="utf-8") as file:
    file.write(manifest.text())
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(folder / NAME)
  return manifest


def read(folder: Path) -> Manifest:
  """Reads the manifest of a step's folder.

  Raises:
    DamagedError: it is missing, damaged, not a manifest, or of a step other than the folder's name.
    CheckpointError: it is undamaged, but has another format.
    StorageError: it cannot be read.
  """
  path = folder / NAME
  try:
    value = json.loads(patiently(lambda: _text(path), path))
    if value["format"] != FORMAT:
      _check_format(path, value)
    leaves = {
      str(name): Leaf(tuple(map(int, shape)), str(dtype), None if digest is None else str(digest))
      for name, (shape, dtype, digest) in value["leaves"].items()
    }
    files = {str(name): (int(size), str(digest)) for name, (size, digest) in value["files"].items()}
    manifest = Manifest(int(value["step"]), leaves, files)
    if manifest.digest != value["digest"]:
      raise ValueError("its contents do not match its digest")
  except CheckpointError:
    raise
  except FileNotFoundError:
    raise DamagedError(
      f"{path} is missing: this step is incomplete, or jaxtl did not write it; use another step"
    ) from None
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    why = str(error) or type(error).__name__
    raise DamagedError(f"{path} is damaged: {why}; use another step") from error
  if folder.name.isdecimal() and folder.name != str(manifest.step):
    # The digest is right: this is a copy under another name, which a run would take for another step.
    raise DamagedError(
      f"the manifest of {folder} says step {manifest.step}; rename it to {manifest.step}, or use another step"
    )
  return manifest


def verify_files(folder: Path, *, but_arrays: bool = False) -> Manifest:
  """Compares every file of a step with its manifest, and returns the manifest.

  Args:
    folder: the folder of the step.
    but_arrays: checks only the size of files that hold nothing but arrays. It is for callers that compare
      every array with its digest after reading, and call again if one differs. It has no effect if any array
      lacks a digest.

  Raises:
    DamagedError: names the first file that is missing, truncated, changed or not part of the checkpoint.
    CheckpointError, StorageError: as for `read`.
  """
  manifest = read(folder)
  found = set(patiently(lambda: list(_walk(folder)), folder)) - {NAME}
  for path in sorted(found - set(manifest.files)):
    raise DamagedError(f"{folder / path} does not belong to this checkpoint; remove it, or use another step")
  but_arrays = but_arrays and all(leaf.sha256 for leaf in manifest.leaves.values())
  for path, (size, digest) in sorted(manifest.files.items()):
    if path not in found:
      raise DamagedError(f"{folder} has no {path}, which was saved; use another step")
    look = _size if but_arrays and _holds_arrays(path) else _file
    now = patiently(functools.partial(look, folder / path), folder / path)
    if now[0] != size:
      raise DamagedError(f"{folder / path} has {now[0]} bytes; {size} were saved; use another step")
    if now[1] not in (digest, None):
      raise DamagedError(f"{folder / path} has changed since it was saved (SHA-256); use another step")
  return manifest


def verify_leaves(manifest: Manifest, items: Any, *, at: str) -> None:
  """Compares restored arrays with what was saved; skips arrays that this process does not hold completely.

  Raises:
    DamagedError: names the first array that differs.
  """
  for path, x in zip(tree.paths(items), jax.tree.leaves(items), strict=True):
    saved = manifest.leaves.get(path)
    if saved is None or saved.sha256 is None or not is_whole(x):
      continue
    if _leaf(x) != saved:
      raise DamagedError(f"{path} of {at} is not what was saved (SHA-256); use another step")


def patiently(ask: Callable[[], T], path: Path) -> T:
  """Returns what `ask` reads; retries a little later if the disk does not answer.

  Args:
    ask: reads from the disk.
    path: what is read, for the message.

  Raises:
    StorageError: there is still no answer; names the file and the reason.
    OSError: the path does not exist, or is not a file.
  """
  for pause in (*ASK_AGAIN, None):
    try:
      return ask()
    except _ABSENT:
      raise
    except OSError as error:
      if pause is None:
        raise StorageError(
          f"{error.filename or path} cannot be read: {error.strerror or error}; nothing has been changed: "
          "fix that, and run the same command again"
        ) from error
      time.sleep(pause)
  raise AssertionError("the last attempt returns or raises")


def misfits(saved: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> list[str]:
  """Lists how the arrays of a checkpoint differ from those that a run needs."""
  lines = [f"missing {path} {leaf}" for path, leaf in wanted.items() if path not in saved]
  lines += [f"left over {path} {leaf}" for path, leaf in saved.items() if path not in wanted]
  return lines + [
    f"{path} is {saved[path]}, not {leaf}"
    for path, leaf in wanted.items()
    if path in saved and (saved[path].shape, saved[path].dtype) != (leaf.shape, leaf.dtype)
  ]


def _text(path: Path) -> str:
  if path.is_symlink() or path.stat().st_size > LARGEST:
    raise ValueError("it is a link, or too large")
  return path.read_text(encoding="utf-8")


def _digest(plain: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _check_format(path: Path, value: Mapping[str, Any]) -> None:
  found = value["format"]
  rest = {name: entry for name, entry in value.items() if name != "digest"}
  if isinstance(found, int) and _digest(rest) == value["digest"]:
    raise CheckpointError(
      f"{path} has format {found}, and this version of jaxtl reads format {FORMAT}; use the version that "
      "wrote it"
    )
  raise ValueError(f"its format is {found!r}, not {FORMAT}, and its contents do not match its digest")


def _leaf(x: Any) -> Leaf:
  if not is_whole(x):
    return Leaf(tuple(x.shape), str(x.dtype), None)
  values = np.ascontiguousarray(np.asarray(x))
  digest = hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()
  return Leaf(np.shape(x), str(values.dtype), digest)


def _file(path: Path) -> tuple[int, str]:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return file.tell(), digest


def _size(path: Path) -> tuple[int, None]:
  return path.stat().st_size, None


def _holds_arrays(path: str) -> bool:
  """Returns whether orbax stores only arrays in a file.

  This holds below `d`, where its key-value store keeps the values.
  """
  return "/d/" in path


def _walk(folder: Path) -> Iterator[str]:
  """Yields the paths of all files below a folder; refuses links."""
  for here, folders, names in os.walk(folder, onerror=_refuse):
    for name in (*names, *folders):
      path = Path(here, name)
      if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
        raise DamagedError(f"{path} is a link or a device, which no checkpoint contains; use another step")
    for name in names:
      if not name.startswith(f".{NAME}"):
        yield Path(here, name).relative_to(folder).as_posix()


def _refuse(error: OSError) -> None:
  """Raises the error, because a folder that cannot be listed is not an empty one."""
  raise error
