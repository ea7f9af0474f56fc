"""The API pages: one for each module, and one for each public symbol."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping, Sequence

from docs.generate.docstrings import escaped
from docs.generate.symbols import Symbol, comment, modules, symbols

HEADINGS = {"function": "Functions", "class": "Classes", "exception": "Errors", "data": "Constants and types"}
_LONGEST_VALUE = 300  # characters; a longer value says less than its description


def pages() -> dict[str, str]:
  """Returns path -> text of all API pages.

  Raises:
    ValueError: a public function or class has no docstring.
  """
  found = {module: symbols(module) for module in modules()}
  found = {module: each for module, each in found.items() if each}
  names = page_names([symbol for each in found.values() for symbol in each])
  without = [s.path for each in found.values() for s in each if s.kind != "data" and not s.summary]
  if without:
    raise ValueError(f"public symbols without a docstring: {', '.join(without)}")
  written = {"api/index.rst": _index(found)}
  for module, each in found.items():
    written[f"api/{module}.rst"] = _module(module, each, names)
    written |= {f"api/{names[symbol]}.rst": _symbol(symbol) for symbol in each}
  return written


def page_names(every: Sequence[Symbol]) -> dict[Symbol, str]:
  """Returns symbol -> name of its page.

  Names that differ only in case (`Diagonal`, `diagonal`) are one file on some systems, so a class gets a
  suffix if its name in lower case is taken.
  """
  lower = {symbol.path for symbol in every if symbol.path == symbol.path.lower()}
  taken = lower | {symbol.module for symbol in every}
  return {
    symbol: f"{symbol.path}-{symbol.kind}"
    if symbol.path in {symbol.module for symbol in every}
    or (symbol.path not in lower and symbol.path.lower() in taken)
    else symbol.path
    for symbol in every
  }


def _title(text: str) -> str:
  return f"{text}\n{'=' * len(text)}\n"


def _hidden_contents(pages: Sequence[str]) -> str:
  listed = "\n".join(f"   {page}" for page in pages)
  return f".. toctree::\n   :hidden:\n\n{listed}\n"


def _index(found: Mapping[str, Sequence[Symbol]]) -> str:
  rows = [
    f"* :doc:`{module} <{module}>` ({len(each)}): {escaped(_first_line(module))}"
    for module, each in found.items()
  ]
  parts = [
    _title("API"),
    "Every public name has a page. A config names a component by the same path without ``jaxtl``: "
    '``dict(make=".models.resnet50")``.\n',
    *rows,
    "",
    _hidden_contents(list(found)),
  ]
  return "\n".join(parts)


def _first_line(module: str) -> str:
  return (inspect.getdoc(importlib.import_module(module)) or "").partition("\n")[0]


def _module(module: str, each: Sequence[Symbol], names: Mapping[Symbol, str]) -> str:
  parts = [_title(module), f".. automodule:: {module}\n   :no-members:\n"]
  for kind, heading in HEADINGS.items():
    of_kind = [symbol for symbol in each if symbol.kind == kind]
    if of_kind:
      parts += [f"{heading}\n{'-' * len(heading)}\n"]
      parts += [f"* :doc:`{symbol.name} <{names[symbol]}>`{_after(symbol)}" for symbol in of_kind]
      parts += [""]
  return "\n".join(parts)


def _after(symbol: Symbol) -> str:
  """Returns what follows the name in a list: the summary, or the value of a constant that has none."""
  if symbol.summary:
    return f": {escaped(symbol.summary)}"
  return f" = ``{shown[0]}``" if (shown := _values(symbol)) else ""


def _values(symbol: Symbol) -> list[str]:
  """Returns the value of a constant as Python writes it; nothing if that would say less than its name."""
  value = repr(symbol.value)
  # An object without a `__repr__` of its own shows an address, which changes with every build.
  return [value] if len(value) <= _LONGEST_VALUE and " at 0x" not in value else []


def _symbol(symbol: Symbol) -> str:
  # In the contents of no page: a tree of hundreds of names on every page would take most of the build's time.
  title = f":orphan:\n\n{_title(symbol.path)}\n:doc:`{symbol.module} <{symbol.module}>`\n"
  if symbol.kind == "data":
    return f"{title}\n{_data(symbol)}"
  options = {"function": [], "exception": [":show-inheritance:"], "class": _class_options(symbol)}[
    symbol.kind
  ]
  lines = "".join(f"   {option}\n" for option in options)
  return f"{title}\n.. auto{symbol.kind}:: {symbol.path}\n{lines}"


def _class_options(symbol: Symbol) -> list[str]:
  """Returns the options of a class: fields are described under Attributes, and not again as members."""
  fields = list(getattr(symbol.value, "_fields", ()))
  if dataclasses.is_dataclass(symbol.value):
    fields += [field.name for field in dataclasses.fields(symbol.value)]
  hidden = [f":exclude-members: {', '.join(fields)}"] if fields else []
  return [":members:", ":show-inheritance:", *hidden]


def _data(symbol: Symbol) -> str:
  shown = [f"   :value: {value}" for value in _values(symbol)]
  text = "\n".join(f"   {escaped(line)}" for line in comment(symbol).splitlines())
  return "\n".join([f".. py:data:: {symbol.path}", *shown, "", text, ""])
