"""Ends a run from outside and records why: SIGTERM and hangs."""

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
# Google's machines and Kubernetes allow 30 s after SIGTERM. Anything not saved by then is lost anyway.
GRACE = 25.0
# A process that hangs waits this long before it exits. Its peers hang with it, and an earlier exit would cut
# short what they are about to record.
LINGER = 3.0


class Interruption:
  """Turns SIGTERM into a request to stop at the next step, on which all processes agree.

  A second SIGTERM has no effect. A run that is not between two steps may fail to end within `grace` seconds
  of the first. It then exits at once with the code that asks for a restart, and its finished work stands.

  Args:
    folder: where `exit_reason.json` is written if the grace period expires.
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
    """Listens to SIGTERM while the context is active.

    With several processes, JAX already listens and notifies them all. A handler here would disable that.
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
    """Returns whether to save and stop after this step; the answer is the same on every process."""
    if jax.process_count() > 1:
      # The step restarts with every cell, so it cannot be used here. The point that the processes agree on
      # may lie beyond the last step of one cell, and must then be reached in the next.
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
  """Ends a run that has stopped moving.

  It records all stacks and exits with the code that asks for a restart.

  Args:
    limit: seconds without a `beat` while it is watching. Every consumer of batches beats once per batch. A
      compilation cannot beat, so the limit must exceed the longest compilation of one program.
    folder: where the stacks and the reason are written.
  """

  def __init__(self, *, limit: float, folder: Path | None = None):
    self.limit = limit
    self._folder = folder
    self._last = time.monotonic()
    self._stop = threading.Event()

  def beat(self) -> None:
    """Records that the run has made progress."""
    self._last = time.monotonic()

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Watches while the context is active."""
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
  """Ends the process from any thread, whatever the other threads wait for, and asks for a restart.

  Args:
    folder: where the reason is recorded.
    reason: what happened.
    stacks: also writes what every thread was doing, to that folder and to standard error.
  """
  if stacks:
    with contextlib.suppress(*streams.ANY, AttributeError, RuntimeError):  # standard error may be missing
      faulthandler.dump_traceback()
    with contextlib.suppress(OSError):
      if folder is not None:
        path = folder / exit_reason.of_process(STACKS_FILE, jax.process_index())
        with path.open("w", encoding="utf-8") as file:
          faulthandler.dump_traceback(file=file)
  with contextlib.suppress(OSError):  # the disk may be hanging or full
    exit_reason.write(folder, code=Restart.code, reason=reason, process=jax.process_index())
  advice = "the same command resumes from the last checkpoint"
  print(f"jaxtl: {reason}; {advice}", file=streams.Forgiving(sys.__stderr__), flush=True)
  if stacks and jax.process_count() > 1:
    time.sleep(LINGER)
  os._exit(Restart.code)
