"""Functions that Sphinx calls: they prepare docstrings, and refuse a site without an entry for a symbol."""

from __future__ import annotations

from typing import Any

from docs.generate.docstrings import prepared
from docs.generate.symbols import public


def setup(app: Any) -> dict[str, bool]:
  """Connects the functions of this module."""
  # Before Napoleon, which has the default priority of 500.
  app.connect("autodoc-process-docstring", _prepare, priority=400)
  app.connect("doctree-read", _separate)
  app.connect("env-check-consistency", _none_is_missing)
  return {"parallel_read_safe": True, "parallel_write_safe": True}


def _prepare(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
  lines[:] = prepared(lines)


def _separate(app: Any, document: Any) -> None:
  """Writes a dash between an argument and its description, where Sphinx leaves it to its smart quotes."""
  from docutils.nodes import Text

  for node in list(document.findall(Text)):
    if node.astext() == " -- ":
      node.parent.replace(node, Text(" \N{EN DASH} "))


def _none_is_missing(app: Any, env: Any) -> None:
  """Ends the build if a public symbol has no entry in the index.

  Raises:
    ExtensionError: names them.
  """
  from sphinx.errors import ExtensionError

  described = env.get_domain("py").objects
  if missing := sorted(symbol.path for symbol in public() if symbol.path not in described):
    raise ExtensionError(f"no page describes {', '.join(missing)}")
