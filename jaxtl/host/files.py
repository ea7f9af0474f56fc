"""Atomic writes of files and folders, and the names of damaged files that are put aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxtl.errors import InputError, StorageError, cannot_write

# Suffix of damaged files and step folders.
DAMAGED = ".damaged"


def write_atomically(path: Path, text: str) -> None:
  """Writes the whole text or nothing.

  A file that exists was written completely, whatever killed the writer.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with temporary.open("w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def put_aside(path: Path) -> Path:
  """Renames a damaged file or folder and returns its new path; it is never deleted.

  Raises:
    StorageError: it cannot be renamed.
  """
  aside = next(name for name in _aside(path) if not name.exists())
  try:
    return path.rename(aside)
  except OSError as error:
    what = f"{path} is damaged, and cannot be renamed to {aside.name}"
    raise StorageError(f"{what}: {error.strerror}") from error


def _aside(path: Path) -> Iterator[Path]:
  yield path.with_name(f"{path.name}{DAMAGED}")
  for number in range(2, 1000):
    yield path.with_name(f"{path.name}{DAMAGED}.{number}")


def existing(path: Path) -> Path:
  """Returns the path itself or its nearest ancestor that exists."""
  return next(place for place in (path, *path.absolute().parents) if place.exists())


def check_new_folder(folder: Path) -> None:
  """Refuses, before any work is done, a folder that `write_folder` could not make.

  Raises:
    InputError: the folder is not empty, or cannot be made.
  """
  if folder.is_dir() and any(folder.iterdir()):
    raise InputError(f"{folder} is not empty; give a folder that does not exist yet")
  _check_place(folder)


def check_new_file(file: Path) -> None:
  """Refuses, before any work is done, a file that exists or could not be made.

  Raises:
    InputError: the file exists, or its folder cannot be made or written to.
  """
  if file.exists():
    raise InputError(f"{file} exists already; give a file that does not")
  _check_place(file)


def _check_place(path: Path) -> None:
  place = existing(path)
  if not place.is_dir() or not os.access(place, os.W_OK):
    reason = "not writable" if place.is_dir() else "a file"
    raise InputError(f"cannot write to {path}: {place} is {reason}")


def write_folder(folder: Path, files: Mapping[str, str | bytes]) -> None:
  """Writes all files into a new folder, or nothing.

  The files are written into a temporary folder next to it, which is then renamed.

  Args:
    folder: must be empty or not exist.
    files: name -> content.

  Raises:
    InputError: the folder is not empty, or cannot be made.
    StorageError: the disk is full or fails.
  """
  check_new_folder(folder)
  temporary = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
  try:
    temporary.mkdir(parents=True)
    for name, content in files.items():
      (temporary / name).write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(folder)
  except OSError as error:
    raise cannot_write(folder, error) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def size_text(num_bytes: float) -> str:
  """Formats a number of bytes for people."""
  for unit in ("bytes", "kB", "MB", "GB"):
    if num_bytes < 1000:
      return f"{num_bytes:.3g} {unit}"
    num_bytes /= 1000
  return f"{num_bytes:.3g} TB"
