"""A table of text whose rows need not be arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

CHOSEN = "✓"
AT_END = "end of the grid"


@dataclasses.dataclass(frozen=True)
class Grid:
  """A table of text; the first column names the row."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ""
  # Columns of words, which are aligned to the left.
  words: frozenset[int] = frozenset()
