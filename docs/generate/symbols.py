"""The public symbols of the library, found by import: no list of them is kept by hand."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

import jaxtl


@dataclasses.dataclass(frozen=True)
class Symbol:
  """A public name of a module.

  Attributes:
    module: the module that users import it from.
    name: the name in that module.
    value: the object.
  """

  module: str
  name: str
  value: Any = dataclasses.field(compare=False, repr=False)

  @property
  def path(self) -> str:
    """The dotted name."""
    return f"{self.module}.{self.name}"

  @property
  def kind(self) -> str:
    """The directive that documents it: function, class, exception or data."""
    if inspect.isclass(self.value) and self.value.__module__.partition(".")[0] == "jaxtl":
      return "exception" if issubclass(self.value, BaseException) else "class"
    # `inspect` does not see a jitted function as a function.
    made_here = getattr(self.value, "__module__", "").partition(".")[0] == "jaxtl"
    return "function" if callable(self.value) and made_here else "data"

  @property
  def summary(self) -> str:
    """The first line of the docstring, or the comment of a constant."""
    text = comment(self) if self.kind == "data" else inspect.getdoc(self.value) or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def modules() -> list[str]:
  """Returns the modules with public names: the packages, and the modules that `jaxtl` itself lists."""
  found = {f"jaxtl.{name}" for name in jaxtl.__all__ if isinstance(getattr(jaxtl, name), types.ModuleType)}
  walked = pkgutil.walk_packages(jaxtl.__path__, "jaxtl.", onerror=_fail)
  found |= {module.name for module in walked if module.ispkg and hasattr(_imported(module.name), "__all__")}
  return ["jaxtl", *sorted(found)]


def symbols(module: str) -> list[Symbol]:
  """Returns the public symbols of a module in the order of its `__all__`, which ruff sorts.

  A package without `__all__` has none. A module without it has what it defines under a name that does not
  start with an underscore.
  """
  found = _imported(module)
  names = getattr(found, "__all__", None)
  if names is None:
    names = [] if hasattr(found, "__path__") else list(_defined(found))
  values = [Symbol(module, name, getattr(found, name)) for name in names]
  return [symbol for symbol in values if not isinstance(symbol.value, (types.ModuleType, typing.TypeVar))]


def public() -> list[Symbol]:
  """Returns every public symbol."""
  return [symbol for module in modules() for symbol in symbols(module)]


def defining_module(symbol: Symbol) -> types.ModuleType:
  """Returns the module whose source assigns a constant."""
  module = _imported(symbol.module)
  while symbol.name not in _defined(module):
    tree = ast.parse(inspect.getsource(module))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    origin = next((n.module for n in imports if symbol.name in [a.name for a in n.names]), None)
    if origin is None:
      return module
    module = _imported(origin)
  return module


def comment(symbol: Symbol) -> str:
  """Returns the comment above the assignment of a constant, or at its end; empty if there is none."""
  module = defining_module(symbol)
  if symbol.name not in _defined(module):
    return ""
  lines = inspect.getsource(module).splitlines()
  number = _defined(module)[symbol.name] - 1
  if "  # " in lines[number]:
    return lines[number].partition("  # ")[2]
  above: list[str] = []
  while number and lines[number - 1].startswith("#"):
    number -= 1
    above.insert(0, lines[number].lstrip("# "))
  return "\n".join(above)


def _imported(name: str) -> types.ModuleType:
  return importlib.import_module(name)


def _fail(name: str) -> None:
  raise ImportError(f"cannot import {name}")


def _defined(module: types.ModuleType) -> dict[str, int]:
  """Returns public names that a module defines, with the line of each."""
  return dict(_names(ast.parse(inspect.getsource(module))))


def _names(tree: ast.Module) -> Iterator[tuple[str, int]]:
  for node in tree.body:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      names = [node.name]
    elif isinstance(node, ast.Assign):
      names = [target.id for target in node.targets if isinstance(target, ast.Name)]
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      names = [node.target.id]
    else:
      continue
    yield from ((name, node.lineno) for name in names if not name.startswith("_"))
