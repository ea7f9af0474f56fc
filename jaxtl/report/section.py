"""A study's contribution to its report, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxtl.report.canvas import Figure
from jaxtl.report.grid import Grid
from jaxtl.report.results import Values
from jaxtl.report.table import Table

Caption = Sequence[tuple[str, str]]
"""Explains how to read a table: topics, each with a text."""


@dataclasses.dataclass(frozen=True)
class Headline:
  """The number by which the arms of a study are compared.

  Attributes:
    best: names the best of several arms, as in "Best accuracy on digits".
    measure: names the number if there is a single arm.
    values: the numbers.
    digits: digits after the decimal point.
    larger: whether larger is better.
  """

  best: str
  measure: str
  values: Values
  digits: int = 3
  larger: bool = True


@dataclasses.dataclass(frozen=True)
class Section:
  """The part of a report that a study contributes; every field may be empty.

  Attributes:
    headline: the comparison in the first sentence; None if no single number compares the arms.
    lead: further sentences for the head of the page.
    warnings: qualifications of the headline, in addition to seeds and missing cells.
    tables: each with its caption.
    grids: results whose rows are not arms.
    figures: finished figures.
    trials: the values that were tried before a setting was chosen, such as learning rates.
    appendix: further grids, after the results.
    facts: facts for the head of the page, such as the number of targets.
    drawn: path of a data set in the config -> the number of its images that were used, if fewer than all.
    sizes: path of a data set in the config -> its images and classes as recorded in rows, for data that
      cannot be opened where the report is made.
  """

  headline: Headline | None = None
  lead: Sequence[str] = ()
  warnings: Sequence[str] = ()
  tables: Sequence[tuple[Table, Caption]] = ()
  grids: Sequence[Grid] = ()
  figures: Sequence[Figure] = ()
  trials: Grid | None = None
  appendix: Sequence[Grid] = ()
  facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  drawn: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
  sizes: Mapping[str, tuple[int | None, int | None]] = dataclasses.field(default_factory=dict)
