"""What stops a run from outside, and what that leaves behind: signals, hangs, a second run in the folder."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import jax
from jax.experimental import multihost_utils

from jaxtl.errors import Restart
from jaxtl.host import exit_reason, streams

STACKS_FILE, LOCK_FILE = "stacks.txt", ".lock"
# After SIGTERM a run has 30 s on Google's machines and Kubernetes; what is then not saved is lost anyway.
GRACE = 25.0
# A process that hangs stays for so long: its peers hang with it, and its end would cut short what they are
# about to put on record.
LINGER = 3.0


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
        exit_now(self._folder, f"no progress for {self.limit:g} s", stacks=True)


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
  advice = "the same command resumes from the last checkpoint"
  print(f"jaxtl: {reason}; {advice}", file=streams.Forgiving(sys.__stderr__), flush=True)
  if stacks and jax.process_count() > 1:
    time.sleep(LINGER)
  os._exit(Restart.code)
