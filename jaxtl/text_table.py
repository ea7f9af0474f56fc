"""Tables of plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned_lines(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
  """Aligns columns two spaces apart, without spaces at the ends of lines.

  >>> aligned_lines([("arm", "loss"), ("sam", "1.5")], right=(1,))
  ['arm  loss', 'sam   1.5']

  Args:
    rows: at least one; all have the same number of cells.
    right: the columns that are flush right, from 0; the others are flush left.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      cell.rjust(width) if column in right else cell.ljust(width)
      for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
