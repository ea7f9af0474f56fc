"""A claim: one property of one function, which fails in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from jaxtl import tree
from jaxtl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Claim:
  """One property that a check asserts.

  Attributes:
    subject: the name of the function under test.
    name: the property, as messages name it.
    unless: the keyword that switches the property off; empty for what every function must keep.
  """

  subject: str
  name: str
  unless: str = ""

  def fail(self, message: str) -> NoReturn:
    """Raises AssertionError with one line that names the subject and the property."""
    switch = f"; {self.unless} switches this off" if self.unless else ""
    raise AssertionError(f"{self.subject}: {self.name}: {' '.join(message.split())}{switch}") from None

  def holds(self, condition: Any, message: str) -> None:
    """Fails with `message` unless the condition is true."""
    if not condition:
      self.fail(message)

  def equal(self, found: Any, expected: Any, where: str) -> None:
    """Fails unless two Python values are equal."""
    self.holds(found == expected, f"{where} is {found}; expected {expected}")

  def finite(self, values: Any, where: str) -> None:
    """Fails at the first entry of a tree that is NaN or infinite."""
    for path, leaf in _named_leaves(values):
      leaf = _float64(leaf)
      wrong = np.argwhere(~np.isfinite(leaf))
      if wrong.size:
        index = tuple(wrong[0])
        self.fail(f"{where}{path} is {leaf[index]}{_at(index)}; expected a finite number")

  def same_form(self, found: Any, expected: Any, where: str) -> None:
    """Fails unless two trees have the same structure, shapes and dtypes."""
    self._same_structure(found, expected, where)
    for (path, leaf), other in zip(_named_leaves(found), jax.tree.leaves(expected), strict=True):
      self.equal(describe(leaf), describe(other), f"{where}{path}")

  def close(self, found: Any, expected: Any, where: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Fails unless two trees of arrays agree: |found - expected| <= atol + rtol |expected|.

    Args:
      found, expected: trees of arrays; NaN agrees with nothing.
      where: the input, and what was computed of it.
      rtol, atol: the allowed difference; both 0 ask for equal values.
    """
    self._same_structure(found, expected, where)
    for (path, leaf), other in zip(_named_leaves(found), jax.tree.leaves(expected), strict=True):
      self._close(_float64(leaf), _float64(other), f"{where}{path}", rtol, atol)

  def _same_structure(self, found: Any, expected: Any, where: str) -> None:
    one, other = (str(jax.tree.structure(x)) for x in (found, expected))
    self.holds(one == other, f"{where} is the tree {one}; expected {other}")

  def _close(self, found: np.ndarray, expected: np.ndarray, where: str, rtol: float, atol: float) -> None:
    self.equal(found.shape, expected.shape, f"{where}, its shape,")
    with np.errstate(invalid="ignore"):
      error, allowed = np.abs(found - expected), atol + rtol * np.abs(expected)
      wrong = ~((error <= allowed) | (found == expected))
    if np.any(wrong):
      worst = np.where(wrong, np.nan_to_num(error, nan=np.inf), -1.0)
      index = np.unravel_index(np.argmax(worst), worst.shape)
      self.fail(
        f"{where} is {found[index]:.9g}{_at(index)}; expected {expected[index]:.9g} +- {allowed[index]:.2g}"
      )


def describe(x: Any) -> str:
  """Describes an array in a message: `float32 [6, 5]`."""
  return f"{x.dtype} {list(x.shape)}"


def name_of(function: Any) -> str:
  """Names a function in a message: its `__name__`, that of the one inside a partial, or its type."""
  while isinstance(function, functools.partial):
    function = function.func
  return getattr(function, "__name__", type(function).__name__)


@contextlib.contextmanager
def from_extra() -> Iterator[None]:
  """Around the import of a package of the extra `testing`.

  Raises:
    InputError: the package is not installed.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise InputError(f"this check needs the package {error.name}; pip install 'jaxtl[testing]'") from error


def _named_leaves(values: Any) -> list[tuple[str, Any]]:
  """The leaves of a tree with what a message adds for each; nothing for a tree that is one leaf."""
  return [
    (f" {path}" if path else "", leaf) for path, leaf in zip(tree.paths(values), jax.tree.leaves(values))
  ]


def _float64(x: Any) -> np.ndarray:
  return np.asarray(jax.device_get(x)).astype(np.float64)


def _at(index: tuple[Any, ...]) -> str:
  return f" at {[int(i) for i in index]}" if index else ""
