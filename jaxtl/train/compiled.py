"""Caches of compiled programs for the arms of a study, kept while consecutive arms use them.

Each program costs memory, and on a CPU hundreds of memory maps, of which Linux allows a process 65,530. The
seeds of an arm share its programs, and so does the next arm if it uses the same ones. Programs that an arm
does not use are dropped, so a study of many arms needs no more memory than one of two.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax

T = TypeVar("T")

# With more maps than this, an eighth of Linux's limit, everything compiled is dropped between two arms,
# including JAX's own caches.
MOST_MAPS = 8192
_MAPS = Path("/proc/self/maps")

_arm = 0
_all: list[ArmCache[Any]] = []


class ArmCache(Generic[T]):
  """Results by name; a result is dropped after an arm that has not used it."""

  def __init__(self) -> None:
    self._found: dict[Hashable, tuple[int, T]] = {}
    _all.append(self)

  def get(self, name: Hashable, make: Callable[[], T]) -> T:
    """Returns the result of that name; calls `make` if there is none."""
    value = self._found[name][1] if name in self._found else make()
    self._found[name] = (_arm, value)
    return value

  def drop(self) -> int:
    """Drops the results that the ending arm has not used, and returns their number."""
    before = len(self._found)
    self._found = {name: found for name, found in self._found.items() if found[0] == _arm}
    return before - len(self._found)


def kept(make: Callable[..., T]) -> Callable[..., T]:
  """Caches results like `functools.cache`; a result is dropped after an arm that has not used it."""
  results: ArmCache[T] = ArmCache()

  @functools.wraps(make)
  def get(*arguments: Hashable) -> T:
    return results.get(arguments, lambda: make(*arguments))

  return get


def next_arm() -> None:
  """Drops what the arm that has ended has not used; the next arm shares the rest."""
  global _arm
  dropped = sum(results.drop() for results in _all)
  _arm += 1
  if dropped or num_maps() > MOST_MAPS:
    gc.collect()  # functions and their traces refer to each other
  if num_maps() > MOST_MAPS:
    jax.clear_caches()


def num_maps() -> int:
  """Counts the memory maps of this process; 0 if the system does not list them."""
  if not _MAPS.exists():
    return 0
  with _MAPS.open("rb") as file:
    return sum(1 for _ in file)
