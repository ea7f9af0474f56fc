"""What a study says in its report, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxtl.report.canvas import Figure
from jaxtl.report.grid import Grid
from jaxtl.report.results import Values
from jaxtl.report.table import Table

Caption = Sequence[tuple[str, str]]
"""How to read a table: topics, and a text on each."""


@dataclasses.dataclass(frozen=True)
class Headline:
  """The number by which the arms of a study are compared.

  Attributes:
    best: names the best of several arms, as in "Best accuracy on digits".
    measure: names the number of a single arm.
    values: the numbers.
    digits: after the decimal point.
    larger: whether more is better.
  """

  best: str
  measure: str
  values: Values
  digits: int = 3
  larger: bool = True


@dataclasses.dataclass(frozen=True)
class Section:
  """The part of a report that a study knows how to write; all of it may be empty.

  Attributes:
    headline: what the first sentence compares; None if the arms are not compared by one number.
    lead: further sentences for the head of the page.
    warnings: what to know before believing the headline, beside seeds and missing cells.
    tables: each with its caption.
    grids: results whose rows are not arms.
    figures: drawn already.
    trials: what was tried before a setting was chosen, as learning rates are.
    appendix: further grids, behind the results.
    facts: for the head of the page, such as the number of targets.
    drawn: path of a data set in the config -> how many of its images were measured on, if fewer than all.
    sizes: path of a data set in the config -> its images and classes as rows recorded them, for data that
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
