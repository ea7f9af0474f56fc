"""Allows one run at a time in a folder, and records why the last one ended."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import jax

from jaxtl.errors import InputError, cannot_write, exit_code
from jaxtl.host import exit_reason
from jaxtl.host.interruption import LOCK_FILE
from jaxtl.host.processes import is_first_process
from jaxtl.host.progress import tell

# Errors of `flock` on a file system without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def only_run_in(folder: Path, *, note: Callable[[str], None] = tell) -> Iterator[None]:
  """Locks a folder for this run; the system releases it when the process ends, however it ends.

  Args:
    folder: created if it is missing.
    note: receives a line if the file system has no locks. The run then continues, and a second run is not
      kept out.

  Raises:
    InputError: another run holds the folder, or it cannot be created or written.
    StorageError: the disk is full or fails.
  """
  if not is_first_process():
    yield
    return
  try:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK_FILE).touch()
  except OSError as error:
    raise cannot_write(folder, error, instead="give another --workdir") from error
  with (folder / LOCK_FILE).open("a+", encoding="utf-8", errors="replace") as file:
    _lock(file, folder, note)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield


def _lock(file: TextIO, folder: Path, note: Callable[[str], None]) -> None:
  """Takes the lock; refuses if another run holds it, and adds a note if the file system has no locks."""
  import fcntl

  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    who = file.read().strip() or "another run"
    raise InputError(f"{folder} is in use by {who}; wait for that, or give another --workdir") from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise InputError(f"cannot lock {folder}: {error.strerror}; give another --workdir") from error
    note(
      f"the file system of {folder} has no locks ({error.strerror}): nothing prevents a second run in this "
      "folder, so do not start one"
    )


@contextlib.contextmanager
def on_record(folder: Path) -> Iterator[None]:
  """Records in a run's folder how the run ended."""

  def record(code: int, reason: str) -> None:
    with contextlib.suppress(OSError):  # the disk may be what ended the run
      exit_reason.write(folder, code=code, reason=reason, process=jax.process_index())

  try:
    yield
  except BaseException as error:
    record(exit_code(error), str(error) or type(error).__name__)
    raise
  record(0, "done")
