"""SIGTERM and SIGINT, where the work that they should end is done by a child."""

from __future__ import annotations

import signal
import subprocess
from types import FrameType
from typing import Any


class PassedOn:
  """From now on both signals are for the child that is waited for; without one, for the next.

  So none is lost, however early it comes. It takes the main thread, as handlers of signals do.
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
    """The child's return code, when it has ended."""
    self._child = child
    while self._early:
      child.send_signal(self._early.pop(0))
    code = child.wait()
    self._child = None
    return code

  def restore(self) -> None:
    """Gives the signals back to whom they were for."""
    for number, handler in self._before.items():
      signal.signal(number, handler)
