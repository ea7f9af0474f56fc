"""Runs the Python of a tutorial and inserts what it prints and draws.

A tutorial is a Markdown page. Its ```python blocks share one namespace and run in order. What a block prints
and its open figures of matplotlib are inserted below it. A comment `<!-- check ... -->` holds Python that
verifies what the text says about the numbers; it runs in the same namespace and is not shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$|^<!-- check\n(?P<check>.*?)^-->\n", re.M | re.S)


class TutorialError(Exception):
  """A block of a tutorial that failed; the message names the page and the line."""


@dataclasses.dataclass(frozen=True)
class Executed:
  """A tutorial after its execution.

  Attributes:
    text: the page with all outputs.
    figures: name -> PNG of the figures that the page shows.
  """

  text: str
  figures: dict[str, bytes]


def run(page: Path) -> Executed:
  """Runs all blocks of a page.

  Raises:
    TutorialError: a block raises, or the page has none.
  """
  text = page.read_text(encoding="utf-8")
  namespace: dict[str, Any] = {"__name__": "__main__"}
  figures: dict[str, bytes] = {}
  parts, end = [], 0
  for found in _BLOCK.finditer(text):
    line = text.count("\n", 0, found.start()) + 1
    printed = _output(found["code"] or found["check"], namespace, page, line)
    parts.append(text[end : found.start()])
    if found["code"]:
      drawn = {f"{page.stem}_{len(figures) + n}.png": image for n, image in enumerate(_drawn())}
      parts.append("\n\n".join([found.group(), *_shown(printed, drawn)]))
      figures |= drawn
    end = found.end()
  if not end:
    raise TutorialError(f"{page} has no block of Python")
  return Executed("".join([*parts, text[end:]]), figures)


def _output(code: str, namespace: dict[str, Any], page: Path, line: int) -> str:
  """Runs the block whose fence is at `line` and returns what it prints; a traceback has the page's lines."""
  printed = io.StringIO()
  try:
    with contextlib.redirect_stdout(printed):
      exec(compile("\n" * line + code, str(page), "exec"), namespace)
  except Exception as error:
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename != str(page):
      place = place.tb_next
    number = place.tb_lineno if place is not None else line
    # A bare `assert` has no message; the statement says what was expected.
    what = str(error) or page.read_text(encoding="utf-8").splitlines()[number - 1].strip()
    raise TutorialError(f"{page}:{number}: {type(error).__name__}: {what}") from error
  return printed.getvalue()


def _shown(printed: str, drawn: dict[str, bytes]) -> list[str]:
  output = [f"```{{code-block}} text\n:class: output\n\n{printed.rstrip()}\n```"] if printed.strip() else []
  return output + [f"![Figure of the block above]({name})" for name in drawn]


def _drawn() -> list[bytes]:
  """Returns the open figures as PNG, and closes them."""
  import matplotlib.pyplot as plt

  images = []
  for number in plt.get_fignums():
    file = io.BytesIO()
    plt.figure(number).savefig(file, format="png", dpi=130, bbox_inches="tight")
    images.append(file.getvalue())
  plt.close("all")
  return images
