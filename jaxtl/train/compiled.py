"""What is compiled for the arms of a study, kept for as long as arms ask for it.

Each program costs memory, and on a CPU hundreds of memory maps, of which Linux lets a process have 65,530.
The seeds of an arm share its programs, and so does the arm after it where it asks for the same. What that one
has not asked for is dropped: a study of many arms needs no more than one of two.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax

T = TypeVar("T")

# Maps beyond which everything that is compiled is dropped between two arms, also what JAX keeps by itself for
# single operations, and functions outside of arms for what they were given. An eighth of Linux's limit.
MOST_MAPS = 8192
_MAPS = Path("/proc/self/maps")

_arm = 0
_all: list[ArmCache[Any]] = []


class ArmCache(Generic[T]):
  """Results by name, each until an arm has not asked for it."""

  def __init__(self) -> None:
    self._found: dict[Hashable, tuple[int, T]] = {}
    _all.append(self)

  def get(self, name: Hashable, make: Callable[[], T]) -> T:
    """The result of that name; `make` makes it where there is none."""
    value = self._found[name][1] if name in self._found else make()
    self._found[name] = (_arm, value)
    return value

  def drop(self) -> None:
    """Drops what the arm that ends has not asked for."""
    self._found = {name: found for name, found in self._found.items() if found[0] == _arm}


def kept(make: Callable[..., T]) -> Callable[..., T]:
  """The function with its results kept, as by `functools.cache`, each until an arm has not asked for it."""
  results: ArmCache[T] = ArmCache()

  @functools.wraps(make)
  def get(*arguments: Hashable) -> T:
    return results.get(arguments, lambda: make(*arguments))

  return get


def next_arm() -> None:
  """Drops what the arm that has ended has not asked for; the next one shares the rest."""
  global _arm
  for results in _all:
    results.drop()
  _arm += 1
  gc.collect()  # functions and their traces refer to each other
  if num_maps() > MOST_MAPS:
    jax.clear_caches()


def num_maps() -> int:
  """How many memory maps this process has; 0 where the system does not tell."""
  if not _MAPS.exists():
    return 0
  with _MAPS.open("rb") as file:
    return sum(1 for _ in file)
