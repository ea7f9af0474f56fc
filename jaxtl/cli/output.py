"""Printing to standard output."""

from __future__ import annotations

from jaxtl.errors import printable


def show(what: object, *, end: str = "\n", flush: bool = False) -> None:
  """Prints text that may contain external names, such as class names."""
  print(printable(str(what), lines=True), end=end, flush=flush)
