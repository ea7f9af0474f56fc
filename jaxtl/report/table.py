"""Tables with arms as rows, measures as columns, and mean and spread over seeds in the cells."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxtl import metrics
from jaxtl.report.results import Results, Values, is_number

ABSENT = "-"


@dataclasses.dataclass(frozen=True)
class Column:
  """One measure.

  Attributes:
    title: heading of the column.
    group: heading shared by neighbouring columns.
    measure: full name of the measure, for tooltips and the appendix.
    values: arm -> seed -> number.
    better: 1 if larger is better, -1 if smaller is, 0 to mark neither.
    decimals: digits after the point.
    beside: other values to show next to the mean, in small type.
  """

  title: str
  group: str
  measure: str
  values: Values
  better: int = 1
  decimals: int = 3
  beside: Values = dataclasses.field(default_factory=dict)

  def cell(self, arm: str) -> TableCell:
    return TableCell(dict(sorted(self.values.get(arm, {}).items())), self.decimals, self._beside(arm))

  def is_best(self, arm: str) -> bool:
    """Returns whether no other arm's printed mean is better; False for a single arm."""
    printed = {name: float(self.cell(name).mean) for name, found in self.values.items() if found}
    if not self.better or len(printed) < 2 or arm not in printed:
      return False
    return printed[arm] == (max if self.better > 0 else min)(printed.values())

  def _beside(self, arm: str) -> str:
    found = self.beside.get(arm)
    return f"{np.mean(list(found.values())):.{self.decimals}f}" if found else ""


@dataclasses.dataclass(frozen=True)
class TableCell:
  """The numbers of one arm in one column, by seed; `mean`, `spread` and `beside` are as printed."""

  values: Mapping[int, float]
  decimals: int
  beside: str = ""

  @property
  def mean(self) -> str:
    if not self.values:
      return ABSENT
    return f"{mean_and_spread(list(self.values.values()))[0]:.{self.decimals}f}"

  @property
  def spread(self) -> str:
    """The standard deviation over seeds; empty with fewer than two seeds."""
    if len(self.values) < 2:
      return ""
    return f"{mean_and_spread(list(self.values.values()))[1]:.{self.decimals}f}"


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of results.

  Attributes:
    title: heading of the table.
    arms: the rows, which are keys of the columns' values: arms with a number in some column, or what `row`
      names.
    columns: the columns that have data.
    row: what a row represents.
  """

  title: str
  arms: tuple[str, ...]
  columns: tuple[Column, ...]
  row: str = "arm"


def filled_table(results: Results, title: str, columns: Sequence[Column]) -> Table:
  """Returns a table of the columns that have numbers, and of the arms that have numbers in them."""
  filled = tuple(column for column in columns if any(column.values.values()))
  arms = tuple(arm for arm in results.arms if any(column.values.get(arm) for column in filled))
  return Table(title, arms, filled)


def measures_of(results: Results) -> list[str]:
  """Returns the keys that have finite numbers in some row, in order of appearance."""
  keys = dict.fromkeys(key for row in results.rows for key, value in row.items() if is_number(value))
  return [key for key in keys if key not in ("seed", "session")]


def plain_table(results: Results) -> Table | None:
  """Tabulates every numeric key of the rows for a study without its own table; None if there are no numbers.

  No value is marked as best, because it is unknown whether larger is better.
  """
  columns = []
  for key in measures_of(results):
    found: dict[str, dict[int, list[float]]] = {}
    for row in results.rows:
      if is_number(row.get(key)):
        found.setdefault(row["arm"], {}).setdefault(row["seed"], []).append(float(row[key]))
    values = {
      arm: {seed: math.fsum(numbers) / len(numbers) for seed, numbers in by_seed.items()}
      for arm, by_seed in found.items()
    }
    columns.append(Column(key, "Numbers of the rows", key, values, better=0, decimals=decimals_for(values)))
  arms = tuple(arm for arm in results.arms if any(column.values.get(arm) for column in columns))
  return Table("Measures", arms, tuple(columns)) if columns else None


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
  """Returns the mean, and the standard deviation with n - 1 (NaN for one value)."""
  mean = math.fsum(values) / len(values)
  if len(values) < 2:
    return mean, math.nan
  return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def ranks(values: Sequence[float]) -> list[float]:
  """Ranks the values; 1 is the largest, and ties share the mean of their ranks."""
  ascending: list[float] = metrics.average_ranks(-np.asarray(values, np.float64)).tolist()
  return ascending


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
  """Computes Spearman's rank correlation, with ties averaged.

  Returns None below 3 points, if one side is constant, or if a number is not finite.
  """
  if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2 or not np.all(np.isfinite([*x, *y])):
    return None
  return float(metrics.spearman(np.asarray(x), np.asarray(y)))


def mean_ranks(columns: Sequence[Values]) -> dict[str, dict[int, float]]:
  """Returns arm -> seed -> mean over the columns of its rank among the arms.

  Only seeds that every arm has count, because a rank among fewer arms is a different measure.
  """
  arms = [arm for arm in (columns[0] if columns else ()) if all(arm in column for column in columns)]
  complete = mean_over(columns)
  shared = sorted(set.intersection(*(set(complete.get(arm, {})) for arm in arms))) if arms else []
  ranked = []
  for column in columns:
    by_seed = {seed: ranks([column[arm][seed] for arm in arms]) for seed in shared}
    ranked.append({arm: {seed: by_seed[seed][i] for seed in shared} for i, arm in enumerate(arms)})
  return mean_over(ranked)


def decimals_for(values: Values) -> int:
  """Returns the digits after the point that show about three significant ones of the median value."""
  sizes = [abs(value) for by_seed in values.values() for value in by_seed.values() if value]
  return min(max(2 - math.floor(math.log10(float(np.median(sizes)))), 0), 6) if sizes else 2


def mean_over(columns: Sequence[Values]) -> dict[str, dict[int, float]]:
  """Returns arm -> seed -> mean over the columns, for the arms and seeds that all columns have."""
  if not columns:
    return {}
  found: dict[str, dict[int, float]] = {}
  for arm, by_seed in columns[0].items():
    for seed in by_seed:
      values = [column[arm][seed] for column in columns if seed in column.get(arm, {})]
      if len(values) == len(columns):
        found.setdefault(arm, {})[seed] = sum(values) / len(values)
  return found
