"""Class names: which names denote the same class, and how two lists of names differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxtl.data.names import shown
from jaxtl.errors import DataError, few

_WORDNET_ID = re.compile(r"n\d{8}(?=\s|\Z)")


def class_key(name: str) -> str:
  """Returns the key that identifies a class: the WordNet id at the start of its name, else the whole name.

  `n01629819` and `n01629819 European fire salamander, Salamandra salamandra` are the same class. Names are
  compared in NFC, the form in which sources hold them.
  """
  found = _WORDNET_ID.match(name)
  return found.group() if found else shown(name)


def display_name(name: str) -> str:
  """Returns a short name of a class.

  `n01629819 European fire salamander, Salamandra salamandra` becomes `European fire salamander`.
  """
  key = class_key(name)
  words = name[len(key) :].split(",")[0].strip()
  return words if key != name and words else name


def class_difference(expected: Sequence[str], found: Sequence[str]) -> str:
  """Describes how the data's classes `found` differ from a model's `expected`; returns "" if they agree.

  Classes are compared by `class_key`.
  """
  ours, theirs = [class_key(name) for name in expected], [class_key(name) for name in found]
  if ours == theirs:
    return ""
  sides = (
    ("the data", [name for name, key in zip(found, theirs) if key not in set(ours)]),
    ("the model", [name for name, key in zip(expected, ours) if key not in set(theirs)]),
  )
  if len(ours) == len(theirs) and not sides[0][1] and not sides[1][1]:
    number = next(i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
    return f"class {number} is {found[number]!r}, and the model's is {expected[number]!r}"
  only = [f"only {side} has {few(names)}" for side, names in sides if names]
  return "; ".join([f"it has {len(theirs)} classes, the model {len(ours)}", *only])


def same_classes(expected: Sequence[str], found: Sequence[str], *, at: str) -> None:
  """Raises DataError if `class_difference` reports a difference between the lists."""
  difference = class_difference(expected, found)
  if difference:
    raise DataError(f"{at} has other classes than the model: {difference}")
