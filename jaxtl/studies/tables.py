"""The study's tables: arms in rows, measures in columns, mean and spread over seeds in the cells."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxtl.studies.results import Results, Values, is_number, mean_over

ABSENT = "-"


@dataclasses.dataclass(frozen=True)
class Column:
  """One measure.

  Attributes:
    title: heads the column.
    group: heads the columns beside each other that share it.
    measure: the measure in full, for tooltips and the appendix.
    values: arm -> seed -> number.
    better: 1 where larger is better, -1 where smaller is, 0 where neither is marked.
    decimals: digits after the point.
    beside: other values to show beside the mean, in small type.
  """

  title: str
  group: str
  measure: str
  values: Values
  better: int = 1
  decimals: int = 3
  beside: Values = dataclasses.field(default_factory=dict)

  def cell(self, arm: str) -> Cell:
    return Cell(dict(sorted(self.values.get(arm, {}).items())), self.decimals, self._beside(arm))

  def is_best(self, arm: str) -> bool:
    """Whether no other arm's mean, as printed, is better; False for an arm without company."""
    printed = {name: float(self.cell(name).mean) for name, found in self.values.items() if found}
    if not self.better or len(printed) < 2 or arm not in printed:
      return False
    return printed[arm] == (max if self.better > 0 else min)(printed.values())

  def _beside(self, arm: str) -> str:
    found = self.beside.get(arm)
    return f"{np.mean(list(found.values())):.{self.decimals}f}" if found else ""


@dataclasses.dataclass(frozen=True)
class Cell:
  """One arm's numbers in one column, by seed; `mean`, `spread` and `beside` are as printed."""

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
    """The standard deviation over seeds; empty where there is one seed or none."""
    if len(self.values) < 2:
      return ""
    return f"{mean_and_spread(list(self.values.values()))[1]:.{self.decimals}f}"


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    protocol: "fine_tune" or "linear_probe"; empty for a study that transfers nothing.
    arms: the rows: arms with a number in some column, or what `row` says; keys of the columns' values.
    columns: those that have data.
    title: heads the table; empty: named by its protocol.
    row: what a row is.
  """

  protocol: str
  arms: tuple[str, ...]
  columns: tuple[Column, ...]
  title: str = ""
  row: str = "arm"


def make_tables(results: Results) -> list[Table]:
  """One table for each protocol that was measured, or one without transfer; none for a flatness study."""
  if not any(row.get("kind") in ("pretrain", "transfer") for row in results.rows):
    return []
  return [table for table in (_table(results, name) for name in results.protocols or ("",)) if table.columns]


def measures_of(results: Results) -> list[str]:
  """The keys that have finite numbers in some row, in the order in which they come."""
  keys = dict.fromkeys(key for row in results.rows for key, value in row.items() if is_number(value))
  return [key for key in keys if key not in ("seed", "session")]


def plain_table(results: Results) -> Table | None:
  """Every numeric key of the rows, for a study that this report knows no table of; None without any number.

  Nothing is marked as best: whether more is better is not known.
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
  return Table("", arms, tuple(columns), title="Measures") if columns else None


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
  """The mean, and the standard deviation with n - 1 (NaN for one value)."""
  mean = math.fsum(values) / len(values)
  if len(values) < 2:
    return mean, math.nan
  return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def ranks(values: Sequence[float]) -> list[float]:
  """Rank 1 for the largest; ties share the mean of their ranks."""
  return [
    1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
    for value in values
  ]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
  """Spearman's rank correlation, ties averaged; None below 3 points or where one side is constant."""
  if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
    return None
  return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def mean_ranks(columns: Sequence[Values]) -> dict[str, dict[int, float]]:
  """arm -> seed -> mean over the columns of its rank among the arms.

  Only seeds that every arm has count: a rank among fewer arms is another measure.
  """
  arms = [arm for arm in (columns[0] if columns else ()) if all(arm in column for column in columns)]
  complete = mean_over(columns)
  shared = sorted(set.intersection(*(set(complete.get(arm, {})) for arm in arms))) if arms else []
  ranked = []
  for column in columns:
    by_seed = {seed: ranks([column[arm][seed] for arm in arms]) for seed in shared}
    ranked.append({arm: {seed: by_seed[seed][i] for seed in shared} for i, arm in enumerate(arms)})
  return mean_over(ranked)


def curvatures(results: Results) -> dict[str, dict[int, float]]:
  """arm -> seed -> lambda_max of the cross-entropy, from pre-training and flatness rows."""
  return curvature_values(results, "lambda_max")


def curvature_values(results: Results, measure: str) -> dict[str, dict[int, float]]:
  """arm -> seed -> a number that belongs to `curvatures`."""
  trained = results.values(measure, kind="pretrain")
  return trained or results.values(measure, kind="flatness", loss="cross_entropy")


def decimals_for(values: Values) -> int:
  """Digits after the point that show about three significant ones of the middle value."""
  sizes = [abs(value) for by_seed in values.values() for value in by_seed.values() if value]
  return min(max(2 - math.floor(math.log10(float(np.median(sizes)))), 0), 6) if sizes else 2


def _table(results: Results, protocol: str) -> Table:
  columns = [*_pretraining(results), *_transfer(results, protocol), *_speed(results)]
  columns = [column for column in columns if any(column.values.values())]
  arms = tuple(arm for arm in results.arms if any(column.values.get(arm) for column in columns))
  return Table(protocol, arms, tuple(columns))


def _pretraining(results: Results) -> list[Column]:
  names = results.evaluations
  columns = [
    Column(
      "accuracy" if len(names) == 1 else name,
      "Pre-training",
      f"pre-training accuracy, top-1 on {name}",
      results.values(f"{name}/top1", kind="pretrain"),
    )
    for name in names
  ]
  found = curvatures(results)
  return [
    *columns,
    Column(
      "λ_max",
      "Pre-training",
      "λ_max of the cross-entropy's Hessian",
      found,
      better=-1,
      decimals=decimals_for(found),
    ),
  ]


def _transfer(results: Results, protocol: str) -> list[Column]:
  if not protocol:
    return []
  how = protocol_title(protocol).lower()
  where = {"kind": "transfer", "protocol": protocol}
  columns = [
    Column(
      name,
      "Transfer accuracy",
      f"accuracy on {name}, {how}",
      results.values("accuracy", target=name, **where),
      beside=results.values("best_accuracy", target=name, **where),
    )
    for name in results.targets
  ]
  # Where the test set was seen once, the best is the last.
  if all(column.beside == column.values for column in columns):
    columns = [dataclasses.replace(column, beside={}) for column in columns]
  accuracies = [column.values for column in columns if column.values]
  columns.append(
    Column("mean", "Over targets", f"mean accuracy over targets, {how}", results.transfer_means(protocol))
  )
  if len({arm for values in accuracies for arm in values}) > 1:
    found = mean_ranks(accuracies)
    columns.append(
      Column("mean rank", "Over targets", f"mean rank over targets, {how}", found, better=-1, decimals=2)
    )
  return columns


def _speed(results: Results) -> list[Column]:
  """Images per second relative to the first arm that has them."""
  found = results.values("images_per_second", kind="pretrain")
  first = next((arm for arm in results.arms if found.get(arm)), None)
  if first is None:
    return []
  reference = mean_and_spread(list(found[first].values()))[0]
  if not reference:
    return []
  relative = {arm: {seed: x / reference for seed, x in by_seed.items()} for arm, by_seed in found.items()}
  title = f"images/s of pre-training relative to {first} ({reference:.0f} images/s)"
  return [Column("speed", "Cost", title, relative, better=0, decimals=2)]


def protocol_title(protocol: str) -> str:
  """A protocol's name in words."""
  return {"fine_tune": "Fine-tuning", "linear_probe": "Linear probe"}.get(protocol, protocol)
