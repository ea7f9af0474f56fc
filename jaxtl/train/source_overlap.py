"""Checks from their specs whether two sources have images in common.

Two names of one folder count as two sources. Two parts of one source count as disjoint only if the specs show
it: they are taken from the same part of it, in the same way, and are adjacent or leave a gap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxtl import config as config_lib

_PART, _SUBSET, _TFDS, _JOINED = ".data.part_of", ".data.subset", ".data.from_tfds", ".data.joined"
_SPLIT = re.compile(r"\s*(\w+)\s*(?:\[\s*(?P<start>[^:\]]*?)\s*:\s*(?P<stop>[^:\]]*?)\s*\])?\s*")
_BOUND = re.compile(r"(-?\d[\d_]*)\s*(\D*)")


def overlap(one: Any, other: Any) -> bool:
  """Returns whether two sources have images in common according to their specs; True if in doubt.

  Args:
    one, other: specs of sources, or the same as plain data.
  """
  (a, parts), (b, others) = (_peeled(config_lib.plain(source)) for source in (one, other))
  if a == b:
    return not _apart(parts, others)
  for joined, beside in ((a, other), (b, one)):
    if _path(joined) == _JOINED:
      return any(overlap(source, beside) for source in joined.get("sources", {}).values())
  return False


def _peeled(source: Any) -> tuple[Any, list[tuple[Any, ...]]]:
  """Returns the underlying source and the parts that are taken of it, the first one first."""
  taken: list[tuple[Any, ...]] = []
  while _path(source) in (_PART, _SUBSET):
    seed = source.get("seed", 0)
    if _path(source) == _PART:
      taken.append((_PART, seed, source.get("start", 0.0), source.get("stop", 1.0)))
    else:
      taken.append((_SUBSET, seed, source.get("num_examples")))
    source = source.get("source")
  if _path(source) == _TFDS:
    taken.append((_TFDS, str(source.get("split"))))
    source = {key: value for key, value in source.items() if key != "split"}
  return source, taken[::-1]


def _path(source: Any) -> str | None:
  """Returns the component that makes a source, as a path inside the library."""
  if not isinstance(source, Mapping):
    return None
  return re.sub(r"^jaxtl(?=\.)", "", str(source.get("make")))


def _apart(parts: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> bool:
  """Returns whether two chains of parts of one source are disjoint where they first differ."""
  for part, other in zip(parts, others, strict=False):
    if part != other:
      return _disjoint(part, other)
  return False


def _disjoint(part: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
  if part[0] == other[0] == _TFDS:
    return all(_splits_apart(a, b) for a in part[1].split("+") for b in other[1].split("+"))
  if part[0] == other[0] == _PART and part[1] == other[1]:  # of one shuffle
    return bool(part[3] <= other[2] or other[3] <= part[2])
  return False


def _splits_apart(one: str, other: str) -> bool:
  """Returns whether two TFDS splits are disjoint, such as `train[:90%]` and `train[90%:]`."""
  a, b = (_SPLIT.fullmatch(text) for text in (one, other))
  if a is None or b is None:
    return False
  if a.group(1) != b.group(1):
    return "all" not in (a.group(1), b.group(1))
  return _ends_before(a["stop"], b["start"]) or _ends_before(b["stop"], a["start"])


def _ends_before(stop: str | None, start: str | None) -> bool:
  """Returns whether a range that ends at `stop` ends at or before the start of one that begins at `start`."""
  if not stop or not start:
    return False  # one goes to the end, or the other begins with the first image
  (last, unit), (first, other) = _bound(stop), _bound(start)
  return unit is not None and unit == other and last <= first


def _bound(text: str) -> tuple[int, str | None]:
  """Returns (number, unit) of a bound; percent count from the front, other units from the side they say."""
  found = _BOUND.fullmatch(text)
  if found is None:
    return 0, None
  number, unit = int(found.group(1).replace("_", "")), found.group(2)
  if unit == "%":
    return (number if number >= 0 else 100 + number), unit
  return number, unit + ("from the end" if text.startswith("-") else "")
