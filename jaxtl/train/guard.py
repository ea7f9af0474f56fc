"""What stops a run from outside, and what that leaves behind: signals, hangs, a second run in the folder."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import jax
from jax.experimental import multihost_utils

from jaxtl import exit_reason, streams
from jaxtl.errors import InputError, Restart, cannot_write, exit_code
from jaxtl.train.writer import is_first_process, tell

STACKS_FILE, LOCK_FILE = "stacks.txt", ".lock"
# After SIGTERM a run has 30 s on Google's machines and Kubernetes; what is then not saved is lost anyway.
GRACE = 25.0
# A process that hangs stays for so long: its peers hang with it, and its end would cut short what they are
# about to put on record.
LINGER = 3.0
# Errors of `flock` on a file system without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Interruption:
  """Turns SIGTERM into a request to stop at the next step, which all processes agree on.

  A second SIGTERM changes nothing. A run that has not ended `grace` seconds after the first, because it is
  not between two steps, ends at once with the code that asks for a restart: what it has finished stands.

  Args:
    folder: where `exit_reason.json` is written if the grace runs out.
    grace: in seconds.
  """

  def __init__(self, folder: Path | None = None, *, grace: float = GRACE):
    self._folder = folder
    self._grace = grace
    self._asked = threading.Event()
    self._timer: threading.Timer | None = None
    self._calls = 0

  @contextlib.contextmanager
  def installed(self) -> Iterator[Interruption]:
    """Listens to SIGTERM for as long as the context lasts.

    With several processes JAX listens already, and tells them all: a handler here would silence it.
    """
    if jax.process_count() > 1:
      yield self
      return
    before = signal.signal(signal.SIGTERM, self._ask)
    try:
      yield self
    finally:
      signal.signal(signal.SIGTERM, before)
      if self._timer is not None:
        self._timer.cancel()

  def due(self, step: int) -> bool:
    """Whether to save and stop after this step; the same on every process."""
    if jax.process_count() > 1:
      # Not the step, which begins again with every cell: the point that the processes agree on may be beyond
      # the last step of one, and must be met in the next.
      self._calls += 1
      return multihost_utils.reached_preemption_sync_point(self._calls)
    return self._asked.is_set()

  def _ask(self, number: int, frame: FrameType | None) -> None:
    if self._asked.is_set():
      return
    self._asked.set()
    self._timer = threading.Timer(
      self._grace, exit_now, (self._folder, f"SIGTERM, and no step ended within {self._grace:g} s")
    )
    self._timer.daemon = True
    self._timer.start()


class Watchdog:
  """Ends a run that has stopped moving: all stacks on record, and the code that asks for a restart.

  Args:
    limit: seconds without a `beat` while it is watching. Whatever takes batches beats with each one; what
      compiles one program cannot, so that the limit must be longer than that takes.
    folder: for the stacks and the reason.
  """

  def __init__(self, *, limit: float, folder: Path | None = None):
    self.limit = limit
    self._folder = folder
    self._last = time.monotonic()
    self._stop = threading.Event()

  def beat(self) -> None:
    """Something moved."""
    self._last = time.monotonic()

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Watches for as long as the context lasts."""
    self._stop.clear()
    self.beat()
    thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    thread.start()
    try:
      yield
    finally:
      self._stop.set()
      thread.join()

  def _watch(self) -> None:
    while not self._stop.wait(min(self.limit / 4, 1.0)):
      if time.monotonic() - self._last > self.limit:
        exit_now(self._folder, f"nothing has moved for {self.limit:g} s", stacks=True)


def exit_now(folder: Path | None, reason: str, *, stacks: bool = False) -> None:
  """Ends the process from any thread, whatever the others wait for, asking for a restart.

  Args:
    folder: where the reason is put on record.
    reason: what happened.
    stacks: also what every thread was doing, there and on standard error.
  """
  if stacks:
    with contextlib.suppress(*streams.ANY, AttributeError, RuntimeError):  # there may be no standard error
      faulthandler.dump_traceback()
    with contextlib.suppress(OSError):
      if folder is not None:
        path = folder / exit_reason.of_process(STACKS_FILE, jax.process_index())
        with path.open("w", encoding="utf-8") as file:
          faulthandler.dump_traceback(file=file)
  with contextlib.suppress(OSError):  # the disk may be what hangs, or what is full
    exit_reason.write(folder, code=Restart.code, reason=reason, process=jax.process_index())
  advice = "the same command goes on from the last checkpoint"
  print(f"jaxtl: {reason}; {advice}", file=streams.Forgiving(sys.__stderr__), flush=True)
  if stacks and jax.process_count() > 1:
    time.sleep(LINGER)
  os._exit(Restart.code)


@contextlib.contextmanager
def only_run_in(folder: Path, *, note: Callable[[str], None] = tell) -> Iterator[None]:
  """Holds a folder for this run; the system gives it free when the process ends, however it ends.

  Args:
    folder: is made where it is not there.
    note: takes a line if the file system has no locks: the run continues, and a second one is not kept out.

  Raises:
    InputError: another run has it, or it cannot be made or written.
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
  """Takes the lock; refuses if another run has it, and notes if the file system has none."""
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
      f"the file system of {folder} has no locks ({error.strerror}): nothing keeps a second run out of this "
      "folder, so start none"
    )


@contextlib.contextmanager
def on_record(folder: Path) -> Iterator[None]:
  """Puts in a run's folder how it ended."""

  def record(code: int, reason: str) -> None:
    with contextlib.suppress(OSError):  # what ended the run may be the disk
      exit_reason.write(folder, code=code, reason=reason, process=jax.process_index())

  try:
    yield
  except BaseException as error:
    record(exit_code(error), str(error) or type(error).__name__)
    raise
  record(0, "done")
