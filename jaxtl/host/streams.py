"""Standard output and standard error that tolerate a missing reader or terminal.

A run must not end because a status line cannot be written.
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
  """A text stream that drops what cannot be written, and otherwise acts like the stream that it wraps.

  Args:
    stream: where to write; None drops everything. Python sets None for a descriptor that was closed.
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
  """Makes standard error never fail, and standard output not fail because its reader has left.

  Args:
    output: makes standard output never fail, too. A command whose product is its output must fail on a full
      disk.
  """
  before = sys.stdout, sys.stderr
  sys.stdout = Forgiving(before[0], forgives=ANY if output else (BrokenPipeError,))
  sys.stderr = Forgiving(before[1])
  try:
    yield
  finally:
    sys.stdout, sys.stderr = before
    flush_or_discard()


def flush_or_discard() -> None:
  """Flushes both streams, so that Python keeps its exit code.

  A flush that fails when Python exits would change the exit code to 120.
  """
  for name in ("stdout", "stderr"):
    try:
      getattr(sys, name).flush()
    except AttributeError:
      continue  # the descriptor was closed from the start
    except ANY:
      setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
