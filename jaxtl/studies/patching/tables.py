"""The tables of a patching study: means of each arm over the pairs, every pair, indicators, and merges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.report.grid import Grid
from jaxtl.report.results import Results, Values
from jaxtl.report.table import ABSENT, Column, Table, decimals_for, spearman

# name of the coefficient in a row -> its name in tables
SETTINGS = {
  "zero_shot": "before",
  "fine_tuned": "fine-tuned",
  "grid_0.1": "grid 0.1",
  "grid_0.05": "grid 0.05",
  "mean_accuracy": "mean accuracy",
  "constrained": "constrained",
  "optimised": "optimised",
}
_SHOWN = ("zero_shot", "fine_tuned", "grid_0.1", "grid_0.05", "optimised")
_TITLE, _MERGED = "Patching", "All patching tasks in one model"
Row = Mapping[str, Any]


def make_tables(results: Results) -> list[Table]:
  """Makes the tables of accuracies.

  One has each arm at each coefficient, averaged over the pairs. The other has each merge method.
  """
  found = []
  columns = [column for column in _columns(results) if any(column.values.values())]
  if columns:
    found.append(Table(_TITLE, _arms(results, columns), tuple(columns)))
  merged = [column for column in _merge_columns(results) if any(column.values.values())]
  if merged:
    found.append(Table(_MERGED, _arms(results, merged), tuple(merged)))
  return found


def lead(results: Results) -> list[str]:
  """Summarises how the optimised coefficients change the accuracies, for each arm with pairs."""
  return [text for arm in results.arms if (text := _sentence(arm, pairs(results, arm)))]


def caption(results: Results, table: Table) -> list[tuple[str, str]]:
  """Explains how to read a table of `make_tables`."""
  found = pairs(results)
  said = [
    ("Accuracy", "Top-1 on the test images. Coefficients are chosen on validation images alone."),
    (
      "Frozen",
      "Every task is answered through a head of its own, which no merge moves.",
    ),
  ]
  if table.title == _MERGED:
    said += [
      ("patching, supported", "Means over the tasks of each group."),
      (
        "normalised",
        "Accuracy as a share of the fine-tuned specialist's, mean over the patching tasks; not defined if a "
        "specialist's accuracy is 0.",
      ),
    ]
    joint = "Fine-tuned with the augmentations that all patching tasks have; the notes list what is left out."
    is_there = any(row["method"] == "joint" for arm in results.arms for row in merges(results, arm))
    return [*said, ("joint", joint)] if is_there else said
  names = {row["supported"] for row in found}, {row["patching"] for row in found}
  said.insert(0, ("Means", f"Over {len(names[0])} supported x {len(names[1])} patching tasks, then seeds."))
  rules = {row["normalisation"] for row in found}
  return [
    *said,
    (
      "optimised",
      f"The minimum of the sum of both losses ({' or '.join(sorted(rules))}), from a bracket and "
      "a polynomial, with nothing known in advance; the grids' best points are those of the same sum.",
    ),
    ("gain", "How far the optimised sum is below that of the grid of 0.05, in per cent of the latter."),
    ("wins", "Share of the pairs in which it is not above it."),
  ]


def behind(results: Results) -> list[Grid]:
  """Makes the appendix: every pair, the rules on accuracy, the indicators and every merge.

  It also shows how well one indicator predicts the other.
  """
  grids: list[Grid] = []
  for arm in results.arms:
    found = pairs(results, arm)
    if found:
      grids += [_pair_grid(arm, found), _rule_grid(arm, found), _indicator_grid(arm, found)]
  if correlations := _correlations(results):
    grids.append(correlations)
  return grids + [_merge_grid(arm, found) for arm in results.arms if (found := merges(results, arm))]


def pairs(results: Results, arm: str | None = None) -> list[Row]:
  """Returns the rows of pairs, of one arm or of all."""
  return [row for row in results.rows if row.get("kind") == "patch" and arm in (None, row["arm"])]


def merges(results: Results, arm: str) -> list[Row]:
  return [row for row in results.rows if row.get("kind") == "merge" and row["arm"] == arm]


def _columns(results: Results) -> list[Column]:
  found = [
    Column(
      role, SETTINGS[name], f"{role} accuracy, {SETTINGS[name]}", _means(results, f"{name}/test_{role}_top1")
    )
    for name in _SHOWN
    for role in ("supported", "patching")
  ]
  gain = _means(results, lambda row: 100 * row["gain"])
  return [
    *found,
    Column("α", "Search", "optimised coefficient", _means(results, "optimised/alpha"), better=0),
    Column("evaluations", "Search", "evaluations of the search", _means(results, "num_evaluations"), -1, 1),
    Column("gain %", "Search", "gain over the grid of 0.05", gain, better=1, decimals=decimals_for(gain)),
    Column("wins", "Search", "share of pairs not above the grid", _means(results, _wins), decimals=2),
  ]


def _merge_columns(results: Results) -> list[Column]:
  methods = dict.fromkeys(row["method"] for arm in results.arms for row in merges(results, arm))
  return [
    Column(role, method, f"{role} accuracy, {method}", results.values(measure, kind="merge", method=method))
    for method in methods
    for role, measure in (
      ("patching", "test_patching_top1"),
      ("supported", "test_supported_top1"),
      ("normalised", "normalised_accuracy"),
    )
  ]


def _means(results: Results, measure: str | Callable[[Row], float]) -> Values:
  """Returns arm -> seed -> mean of a measure over the pairs."""
  return results.means(measure, kind="patch")


def _wins(row: Row) -> float:
  return float(row["optimised/objective"] <= row["grid_0.05/objective"])


def _sentence(arm: str, found: Sequence[Row]) -> str:
  if not found:
    return ""

  def mean(name: str) -> float:
    return 100 * float(np.mean([row[name] for row in found]))

  old, new = (
    [mean(f"{name}/test_{role}_top1") for name in ("zero_shot", "fine_tuned", "optimised")]
    for role in ("supported", "patching")
  )
  wins = sum(map(_wins, found))
  return (
    f"{arm}, mean over {len(found)} pairs (and seeds): patching accuracy {new[0]:.1f} % before, "
    f"{new[1]:.1f} % fine-tuned, {new[2]:.1f} % at the optimised coefficient; supported accuracy "
    f"{old[0]:.1f} %, {old[1]:.1f} %, {old[2]:.1f} %. The search is not above the grid of 21 points in "
    f"{wins:g} of {len(found)}, with {np.mean([row['num_evaluations'] for row in found]):.1f} evaluations."
  )


def _pair_grid(arm: str, found: Sequence[Row]) -> Grid:
  header = ["supported x patching", "seed", "α", "grid 0.1", "grid 0.05", "evaluations"]
  header += [f"{role}: before → tuned → α" for role in ("supported", "patching")]
  header += ["sum at α", "gain %", "warm-started gain %", "notes"]
  rows = []
  for row in found:
    best = row["grid_0.05/objective"]
    warm = 100 * (best - row["warm_started/objective"]) / abs(best) if best else 0.0
    rows.append(
      [
        _pair(row),
        str(row["seed"]),
        *(f"{row[f'{name}/alpha']:.3f}" for name in ("optimised", "grid_0.1", "grid_0.05")),
        str(row["num_evaluations"]),
        *(_arrow(row, role) for role in ("supported", "patching")),
        f"{row['optimised/objective']:.4f}",
        f"{100 * row['gain']:.3f}",
        f"{warm:.3f}",
        _notes(row),
      ]
    )
  note = (
    "Test accuracies in per cent. The sum is that of normalised validation losses; gains are over the grid "
    "of 0.05. Warm-started: the same search, given the grid's values first, so that it cannot be above them."
  )
  return Grid(f"Pairs of {arm}", header, rows, note, frozenset({0, 6, 7, 11}))


def _rule_grid(arm: str, found: Sequence[Row]) -> Grid:
  """Makes a table of the choices of rules on accuracy, in addition to that of the loss."""
  rules = ("mean_accuracy", "constrained", "optimised")
  header = ["supported x patching", "seed"]
  header += [f"{SETTINGS[rule]}: {what}" for rule in rules for what in ("α", "supported", "patching")]
  rows = [
    [
      _pair(row),
      str(row["seed"]),
      *(
        text
        for rule in rules
        for text in (
          f"{row[f'{rule}/alpha']:.3f}",
          *(f"{100 * row[f'{rule}/test_{role}_top1']:.1f}" for role in ("supported", "patching")),
        )
      ),
    ]
    for row in found
  ]
  note = (
    "On the grid of 0.1: the best mean of both validation accuracies; and the best patching accuracy that "
    "costs the supported task at most one point. Test accuracies in per cent."
  )
  return Grid(f"Rules of {arm}", header, rows, note, frozenset({0}))


def _indicator_grid(arm: str, found: Sequence[Row]) -> Grid:
  header = ["supported x patching", "seed", "gradient similarity", "backward transfer", "at α", "distance"]
  rows = [
    [
      _pair(row),
      str(row["seed"]),
      _if_defined(row, "gradient_similarity"),
      _if_defined(row, "backward_transfer"),
      f"{row['backward_transfer_alpha']:.3f}" if row["backward_transfer_defined"] else ABSENT,
      f"{row['distance']:.3g}",
    ]
    for row in found
  ]
  note = (
    "Gradient similarity: minus the cosine of the supported loss's gradient and the way to the fine-tuned "
    "weights; above 0, the first step helps the old task. Backward transfer: the largest fall of the "
    "supported loss for each unit of the way, the limit at α = 0 included."
  )
  return Grid(f"Indicators of {arm}", header, rows, note, frozenset({0}))


def _correlations(results: Results) -> Grid | None:
  """Correlates gradient similarity and backward transfer, for each supported task and for all."""
  rows = []
  for arm in results.arms:
    found = [row for row in pairs(results, arm) if row["gradient_similarity_defined"]]
    names = list(dict.fromkeys(row["supported"] for row in found))
    for name in [*names, *([""] if len(names) > 1 else [])]:
      chosen = [row for row in found if name in ("", row["supported"])]
      x, y = ([row[key] for row in chosen] for key in ("gradient_similarity", "backward_transfer"))
      rank = spearman(x, y)
      if rank is not None:
        linear = float(np.corrcoef(x, y)[0, 1])
        rows.append([arm, name or "all", str(len(x)), f"{linear:.2f}", f"{rank:.2f}"])
  if not rows:
    return None
  header = ["arm", "supported task", "pairs", "Pearson", "Spearman"]
  note = (
    "Of gradient similarity and backward transfer. The latter has the unit of a loss by a distance: "
    "tasks whose losses differ in size are better not pooled."
  )
  return Grid("Does one gradient predict backward transfer?", header, rows, note, frozenset({0, 1}))


def _merge_grid(arm: str, found: Sequence[Row]) -> Grid:
  names = list(dict.fromkeys(name for row in found for name in row["test_top1"]))
  header = ["method", "seed", "coefficients", "evaluations", "sum", "losses", *names, "notes"]
  rows = [
    [
      row["method"],
      str(row["seed"]),
      ", ".join(f"{c:.3g}" for c in row["coefficients"]) or ABSENT,
      str(row["num_evaluations"]),
      f"{row['objective']:.4f}",
      row.get("normalisation", ABSENT),  # rows of older versions lack it
      *(f"{100 * row['test_top1'][name]:.1f}" if name in row["test_top1"] else ABSENT for name in names),
      _left_out(row),
    ]
    for row in found
  ]
  note = (
    "Test accuracies in per cent. The sum is that of validation losses, means within each group; losses "
    "says how they are normalised: endpoints falls back to initial where a supported loss does not rise or "
    "a patching loss does not fall."
  )
  return Grid(f"Merges of {arm}", header, rows, note, frozenset({0, 2, 5, len(header) - 1}))


def _arms(results: Results, columns: Sequence[Column]) -> tuple[str, ...]:
  return tuple(arm for arm in results.arms if any(column.values.get(arm) for column in columns))


def _pair(row: Row) -> str:
  return f"{row['supported']} x {row['patching']}"


def _arrow(row: Row, role: str) -> str:
  names = ("zero_shot", "fine_tuned", "optimised")
  return " → ".join(f"{100 * row[f'{name}/test_{role}_top1']:.1f}" for name in names)


def _notes(row: Row) -> str:
  """Lists the ways in which the row violates the assumptions of the method."""
  said = {
    "not unimodal": not row["unimodal"],
    "fit suspect": row["fit_suspect"],
    f"at the end {row['boundary']}": row["boundary"] is not None,
  }
  return ", ".join(text for text, holds in said.items() if holds)


def _left_out(row: Row) -> str:
  """Lists the augmentations of single tasks that joint fine-tuning omitted."""
  found = row.get("left_out", {})  # rows of older versions lack it
  return "; ".join(f"without the {', '.join(calls)} of {name}" for name, calls in found.items())


def _if_defined(row: Row, name: str) -> str:
  return f"{row[name]:.3g}" if row[f"{name}_defined"] else ABSENT
