"""Removal of the prefixes that training programs add to the names of a model's tensors.

torch.compile, DistributedDataParallel, FSDP and Lightning wrap a model, and its keys contain the wrapper's
name.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jaxtl.errors import CheckpointError, InputError, printable

# These may occur anywhere in a key, since a part of the model may have been wrapped.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# These occur before the whole model. Any other prefix above at least half of the model's tensors is
# recognised as well; these names decide if several fit.
_BEFORE = re.compile(r"(?:(?:module|model|net|network|backbone|encoder|state_dict)\.)+")


@dataclasses.dataclass(frozen=True)
class Renamed:
  """Tensors under the names of their layout.

  Attributes:
    tensors: name -> array.
    notes: lines for the user about the prefixes that were removed or added.
    dropped: number of tensors outside a requested prefix.
  """

  tensors: dict[str, np.ndarray]
  notes: tuple[str, ...] = ()
  dropped: int = 0


def without_prefixes(
  tensors: Mapping[str, np.ndarray],
  expected: Iterable[str],
  *,
  canonical: Callable[[str], str],
  prefix: str | None = None,
) -> Renamed:
  """Renames tensors to the names that a layout expects by removing, or adding, prefixes.

  Args:
    tensors: the tensors of a file.
    expected: the names of the model's tensors.
    canonical: name in the file -> its newest form.
    prefix: a prefix to remove, together with all tensors that do not have it; None finds the one that fits
      best.

  Raises:
    InputError: no name begins with `prefix`.
    CheckpointError: the model is found below several prefixes, or two names become equal.
  """
  if prefix:
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not inside:
      raise InputError(f"no tensor's name begins with {prefix!r}; the file has {some(tensors)}")
    return Renamed(inside, (f"stripped from the names: {prefix}",), len(tensors) - len(inside))
  names = {key: _WRAPPERS.sub("", key) for key in tensors}
  notes = sorted({part for key in tensors for part in _WRAPPERS.findall(key)})
  before, added = _before(map(canonical, names.values()), frozenset(expected))
  if before:
    names = {key: name.removeprefix(before) for key, name in names.items()}
    notes.append(in_line(before))
  if added:
    names = {key: added + name for key, name in names.items()}
  if len(set(names.values())) != len(names):
    twice = next(name for name, count in collections.Counter(names.values()).items() if count > 1)
    raise CheckpointError(
      f"the file holds {in_line(twice)} twice, with a prefix and without one; write --prefix"
    )
  said = [f"stripped from the names: {' '.join(notes)}"] if notes else []
  said += [f"prepended to the names: {added}"] if added else []
  return Renamed({names[key]: value for key, value in tensors.items()}, tuple(said))


def _before(keys: Iterable[str], expected: frozenset[str]) -> tuple[str, str]:
  """Returns (prefix to remove, prefix to add) that turn the largest number of names into expected ones."""
  keys = set(keys)
  plain = len(keys & expected)
  longer: collections.Counter[str] = collections.Counter()
  for key in keys:
    for dot in re.finditer(r"\.", key):
      if key[dot.end() :] in expected:
        longer[key[: dot.end()]] += 1
  shorter: collections.Counter[str] = collections.Counter()
  for name in expected:
    for dot in re.finditer(r"\.", name):
      if name[dot.end() :] in keys:
        shorter[name[: dot.end()]] += 1
  most = max((*longer.values(), *shorter.values()), default=0)
  # A few accidental matches are not a prefix, and would rename the tensors of another network.
  if most <= plain or 2 * most < len(expected):
    return "", ""
  best = [prefix for prefix, count in longer.items() if count == most]
  known = [prefix for prefix in best if _BEFORE.fullmatch(prefix)]
  if len(best) > 1 and len(known) != 1:
    places = " and ".join(map(repr, sorted(best)[:5]))
    raise CheckpointError(f"the file holds the model below {places}; write --prefix with one of them")
  if best:
    return (known or best)[0], ""
  return "", max(shorter, key=lambda name: shorter[name])


def some(names: Iterable[str]) -> str:
  """Lists five names and the number of further ones."""
  names = sorted(names)
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(map(in_line, names[:5])) + more


def in_line(name: str) -> str:
  """Shortens a name from a file to at most 100 characters of a one-line message, escaped by `printable`."""
  return printable(name)[:100]
