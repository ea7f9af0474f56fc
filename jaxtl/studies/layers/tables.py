"""The tables of a layers study: every method next to the base network, for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtl.report.findings import mean_of
from jaxtl.report.grid import Grid
from jaxtl.report.results import Results, Values, is_number
from jaxtl.report.table import ABSENT, Column, Table, decimals_for, mean_and_spread
from jaxtl.studies.layers.settings import BASE
from jaxtl.types import Row

# key of a row -> title, group, description, and 1 or -1 if more or less is better, else 0
_MEASURES = {
  "test_loss": ("loss", "Test", "test loss", -1),
  "test_error": ("error", "Test", "share of wrong test predictions", -1),
  "test_ece": ("ECE", "Test", "expected calibration error", -1),
  "scaled_loss": ("loss", "With its own temperature", "test loss with a fitted temperature", -1),
  "scaled_ece": ("ECE", "With its own temperature", "ECE with a fitted temperature", -1),
  "temperature": ("T", "With its own temperature", "temperature fitted on validation images", 0),
  "last_loss": ("loss", "After the last epoch", "test loss after the last epoch", -1),
  "last_error": ("error", "After the last epoch", "share of wrong test predictions after the last epoch", -1),
  "last_scaled_loss": ("loss, own T", "After the last epoch", "the same with a fitted temperature", -1),
  "seconds_per_epoch": ("s / epoch", "Cost", "seconds of an epoch", 0),
  "step_bytes": ("MiB", "Cost", "memory of a step as compiled", 0),
}


def make_tables(results: Results) -> list[Table]:
  """Makes one table for each arm, with methods as rows, and mean and spread over seeds in the cells."""
  found = []
  for arm in results.arms:
    rows = _rows(results, arm)
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    columns = [_column(arm, rows, key) for key in _MEASURES]
    columns = [column for column in columns if any(column.values.values())]
    if columns:
      found.append(Table(f"{arm}: the base and what follows", methods, tuple(columns), row="method"))
  return found


def caption(results: Results, table: Table) -> list[tuple[str, str]]:
  """Explains how to read a table of `make_tables`."""
  rows = [row for arm in results.arms for row in _rows(results, arm)]
  base = results.config.get("base", {})
  kept = "the epoch of lowest validation loss or the base" if base.get("best", True) else "the last step"
  return [
    ("Seeds", f"{_seeds(results)}; mean ± standard deviation, each with a base network of its own."),
    (
      "Methods",
      f"{base.get('epochs', 10):g} epochs each from the same base; {kept} is kept.",
    ),
    (
      "Temperature",
      "Fitted on the validation images, for the base and each method. A gain in the loss that vanishes "
      "against the base with its temperature is calibration: it changes no prediction.",
    ),
    (
      "After the last epoch",
      "The weights at the end of each method, kept or not; the last loss is with a temperature of their "
      "own. Where the base is kept, only these columns show what the method did.",
    ),
    ("ECE", "Expected calibration error in 15 bins."),
    (
      "Cost",
      "MiB: state, batch and scratch of a step, as compiled for this machine; the batch is of hidden "
      "states where the appendix lists them as kept, else of images.",
    ),
    ("Test", f"{_all(rows, 'num_test')} images; {_all(rows, 'num_validation')} validation images choose."),
    *_ended(rows),
    *_not_run(results),
  ]


def lead(results: Results) -> list[str]:
  """Summarises for each arm what each method gains over its own base.

  It also states how much of that gain the temperature alone achieves.
  """
  return [text for arm in results.arms for text in _sentences(arm, _rows(results, arm))]


def behind(results: Results) -> list[Grid]:
  """Makes a table of the layers on which each method worked, and of the outcome of its steps."""
  grids = []
  for arm in results.arms:
    rows = [row for row in _rows(results, arm) if row["method"] != BASE]
    if rows:
      header = ["method", "seed", "perturbed", "updated", "hidden states", "steps", "kept step", "rejected"]
      header.append("validation loss")
      lines = [
        [
          row["method"],
          str(row["seed"]),
          _over_parts(row, "perturb"),
          _over_parts(row, "update"),
          row.get("cache", ABSENT),
          str(row["steps"]),
          str(row["kept_step"]),
          f"{row['reject_rate']:.1%}" if is_number(row.get("reject_rate")) else ABSENT,
          f"{row['validation_loss']:.4f}",
        ]
        for row in rows
      ]
      note = (
        "Kept step 0 is the base network: nothing that came later had a lower validation loss. Hidden "
        "states: where the input of the lowest perturbed or updated layer was kept, if it was."
      )
      if any("parts" in row for row in rows):
        note += " →: parts of a method, each on the layers that a diagnosis of its own has chosen."
      grids.append(Grid(f"Methods of {arm}", header, lines, note, frozenset({0, 2, 3, 4})))
  return grids


def _rows(results: Results, arm: str) -> list[Row]:
  return [dict(row) for row in results.rows if row.get("kind") == "post_training" and row["arm"] == arm]


def _not_run(results: Results) -> list[tuple[str, str]]:
  """Lists what is missing from the tables, and why."""
  found = [row for row in results.rows if row.get("kind") == "not_run"]
  told = [f"{row['method']} of {row['arm']}, seed {row['seed']}: {row['reason']}." for row in found]
  return [("Not run", " ".join(told))] if told else []


def _ended(rows: Sequence[Row]) -> list[tuple[str, str]]:
  """Lists methods with fewer epochs than the others, and why."""
  told = [
    f"{row['method']} of {row['arm']}, seed {row['seed']}, after {row['epochs']:.4g} epochs: {row['ended']}."
    for row in rows
    if "ended" in row
  ]
  return [("Ended early", " ".join(told))] if told else []


def _column(arm: str, rows: Sequence[Row], key: str) -> Column:
  title, group, measure, better = _MEASURES[key]
  factor = 2.0**-20 if key == "step_bytes" else 1.0
  values: dict[str, dict[int, float]] = {}
  for row in rows:
    if is_number(row.get(key)):
      values.setdefault(row["method"], {})[row["seed"]] = factor * row[key]
  return Column(title, group, f"{measure}, {arm}", values, better, _decimals(key, values))


def _decimals(key: str, values: Values) -> int:
  return 3 if key.startswith(("test", "scaled", "last")) else decimals_for(values)


def _sentences(arm: str, rows: Sequence[Row]) -> list[str]:
  plain, scaled = _by_seed(rows, "test_loss"), _by_seed(rows, "scaled_loss")
  others = [name for name in scaled if name != BASE]
  if not others or BASE not in scaled:
    return []
  gains = {
    name: [scaled[name][seed] - scaled[BASE][seed] for seed in sorted(scaled[name])] for name in others
  }
  lowest = min(others, key=lambda name: mean_of(scaled[name]))
  seeds = len(scaled[BASE])
  over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, spread unknown"
  still = [name for name in others if all(row["kept_step"] == 0 for row in rows if row["method"] == name)]
  each = "; ".join(
    [
      *(f"{name} {_change(values)}" for name, values in gains.items() if name not in still),
      *([f"{' and '.join(still)} by nothing, since the base is kept"] if still else []),
    ]
  )
  if min(map(mean_of, scaled.values())) == mean_of(scaled[BASE]):
    best = f"none of {len(others)} methods is below the base on the test images."
  else:
    best = (
      f"the lowest of {len(others)} methods on the test images, chosen on them (which flatters), is {lowest} "
      f"with {mean_of(scaled[lowest]):.4f}, against {mean_of(scaled[BASE]):.4f} of the base."
    )
  return [
    f"{arm}: the test loss of the base is {mean_of(plain[BASE]):.3f}, and {mean_of(scaled[BASE]):.3f} with a "
    f"temperature alone. Each with its own temperature, the methods change the latter by ({over}; below 0 is "
    f"better): {each}.",
    f"{arm}: {best}",
  ]


def _by_seed(rows: Sequence[Row], key: str) -> dict[str, dict[int, float]]:
  """Returns method -> seed -> number."""
  found: dict[str, dict[int, float]] = {}
  for row in rows:
    found.setdefault(row["method"], {})[row["seed"]] = row[key]
  return found


def _change(values: Sequence[float]) -> str:
  mean, spread = mean_and_spread(values)
  better = f" (better in {sum(value < 0 for value in values)} of {len(values)})"
  return f"{mean:+.4f}" if len(values) < 2 else f"{mean:+.4f} ± {spread:.4f}{better}"


def _over_parts(row: Row, key: str) -> str:
  """Formats the layers of a method, for each of its parts in turn."""
  return " → ".join(_names(part.get(key)) for part in row.get("parts") or [row])


def _names(value: Any) -> str:
  """Formats layers for a cell."""
  if value is None:
    return ABSENT
  return value if isinstance(value, str) else ", ".join(value)


def _all(rows: Sequence[Row], key: str) -> str:
  return " or ".join(f"{value:,}" for value in sorted({row[key] for row in rows if key in row}))


def _seeds(results: Results) -> int:
  """Counts the seeds that have a finished cell."""
  return len({seed for _, seed in results.finished})
