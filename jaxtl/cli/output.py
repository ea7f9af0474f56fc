"""Text for standard output."""

from __future__ import annotations

from jaxtl.errors import printable


def show(what: object, *, end: str = "\n", flush: bool = False) -> None:
  """Prints text that may contain names from outside, such as those of classes."""
  print(printable(str(what), lines=True), end=end, flush=flush)
