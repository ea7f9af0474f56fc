"""Columns of a plain text table."""

import pytest

from jaxtl.text_table import aligned_lines

ROWS = [("name", "count", "note"), ("a", "1", ""), ("longer", "10", "last")]


def test_columns_are_as_wide_as_their_longest_cell_and_lines_end_without_spaces():
  assert aligned_lines(ROWS) == ["name    count  note", "a       1", "longer  10     last"]


def test_the_named_columns_are_flush_right():
  assert aligned_lines(ROWS, right=(1,)) == ["name    count  note", "a           1", "longer     10  last"]


def test_rows_of_different_lengths_are_refused():
  with pytest.raises(ValueError, match="zip"):
    aligned_lines([("a", "b"), ("c",)])
