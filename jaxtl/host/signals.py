"""Forwards SIGTERM and SIGINT to a child process that does the work."""

from __future__ import annotations

import signal
import subprocess
from types import FrameType
from typing import Any


class PassedOn:
  """Forwards both signals to the child that is waited for; a signal without a child goes to the next one.

  No signal is lost, however early it arrives. Use it in the main thread, which signal handlers require.
  """

  def __init__(self) -> None:
    self._child: subprocess.Popen[Any] | None = None
    self._early: list[int] = []
    self._before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}

  def _take(self, number: int, frame: FrameType | None) -> None:
    if self._child is None:
      self._early.append(number)
    else:
      self._child.send_signal(number)

  def wait(self, child: subprocess.Popen[Any]) -> int:
    """Waits for the child to end, and returns its return code."""
    self._child = child
    while self._early:
      child.send_signal(self._early.pop(0))
    code = child.wait()
    self._child = None
    return code

  def restore(self) -> None:
    """Restores the previous signal handlers."""
    for number, handler in self._before.items():
      signal.signal(number, handler)
