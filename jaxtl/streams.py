"""Standard output and standard error, which may be gone: a reader that has left, a terminal that was closed.

What is said of a run is worth less than the run: it must not end because a status line cannot be written.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

# A closed stream raises ValueError; a full disk, a lost terminal and a reader that has left raise OSError.
ANY: tuple[type[Exception], ...] = (OSError, ValueError)


class Forgiving:
  """A text stream that drops what cannot be written, and is otherwise the stream that it is given.

  Args:
    stream: where to write; None, which is what Python has for a descriptor that was closed, drops everything.
    forgives: the errors that are ignored.
  """

  def __init__(self, stream: Any, *, forgives: tuple[type[Exception], ...] = ANY):
    self._stream = io.StringIO() if stream is None else stream
    self._drops = stream is None
    self._forgives = forgives

  def write(self, text: str) -> int:
    with contextlib.suppress(*self._forgives):
      if not self._drops:
        self._stream.write(text)
    return len(text)

  def writelines(self, lines: Any) -> None:
    for line in lines:
      self.write(line)

  def flush(self) -> None:
    with contextlib.suppress(*self._forgives):
      self._stream.flush()

  def isatty(self) -> bool:
    with contextlib.suppress(*self._forgives):
      return bool(self._stream.isatty())
    return False

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


@contextlib.contextmanager
def forgiving(*, output: bool) -> Iterator[None]:
  """Standard error that never fails, and standard output that never fails for a reader that has left.

  Args:
    output: whether standard output never fails at all. It does for a command whose product it is, on a full
      disk.
  """
  before = sys.stdout, sys.stderr
  sys.stdout = Forgiving(before[0], forgives=ANY if output else (BrokenPipeError,))
  sys.stderr = Forgiving(before[1])
  try:
    yield
  finally:
    sys.stdout, sys.stderr = before
    let_go()


def let_go() -> None:
  """Lets Python end with its exit code: it writes what is left, and has 120 where that fails."""
  for name in ("stdout", "stderr"):
    try:
      getattr(sys, name).flush()
    except AttributeError:
      continue  # the descriptor was closed from the start
    except ANY:
      setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
