"""Imports large libraries without the visits of Python's garbage collector to what they define."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_freezes = False


def freeze_in_this_process() -> None:
  """Makes `without_collection` exclude from later collections everything that exists after an import.

  Only for a process that runs one command and ends: an object that is frozen and later becomes part of an
  unreachable cycle is never freed, so a program of the user's must not be frozen.
  """
  global _freezes
  _freezes = True


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
  """Turns the garbage collector off for the imports inside, and on again if it was on.

  Modules, classes and functions stay until the process ends, so visits to them free next to nothing.
  """
  if not gc.isenabled():
    yield
    return
  gc.disable()
  try:
    yield
  finally:
    if _freezes:
      gc.freeze()
    gc.enable()


__all__ = ["freeze_in_this_process", "without_collection"]
