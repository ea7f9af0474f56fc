"""The trials of learning rates, and of one more value."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.report.grid import AT_END, CHOSEN, Grid
from jaxtl.report.results import Results
from jaxtl.report.table import ABSENT

Trials = Mapping[str, Sequence[Mapping[str, Any]]]
"""Arm -> its trials; the seeds of an arm share them."""


def trials_of(results: Results) -> Trials:
  """Returns the trials of each arm, one for each combination of values."""
  found: dict[str, dict[tuple[float, float | None], Mapping[str, Any]]] = {}
  for row in results.rows:
    if row.get("kind") == "tune":
      found.setdefault(row["arm"], {})[row["peak_rate"], row.get("value")] = row
  return {arm: list(by_values.values()) for arm, by_values in found.items()}


def chosen(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
  """Returns the trial with the best accuracy, the first of equal ones."""
  return max(trials, key=lambda row: row["accuracy"])


def ends_of_grids(results: Results) -> dict[str, list[str]]:
  """Returns arm -> which of its chosen values are at an end of those tried, such as "smallest rate"."""
  ends: dict[str, list[str]] = {}
  for arm, trials in trials_of(results).items():
    best = chosen(trials)
    for key, name in (("peak_rate", "rate"), ("value", _name(best))):
      tried = {row[key] for row in trials if row.get(key) is not None}
      if len(tried) > 1 and best[key] in (min(tried), max(tried)):
        ends.setdefault(arm, []).append(f"{'smallest' if best[key] == min(tried) else 'largest'} {name}")
  return ends


def warnings_of_trials(results: Results) -> list[str]:
  """Warns of chosen values at an end of those tried, and of arms with more trials than others."""
  sentences = []
  if ends := ends_of_grids(results):
    names = ", ".join(f"{arm} ({', '.join(which)})" for arm, which in ends.items())
    sentences.append(f"At an end of the values tried: {names}. A better value may lie beyond.")
  by_count: dict[int, list[str]] = collections.defaultdict(list)
  for arm, trials in trials_of(results).items():
    by_count[len(trials)].append(arm)
  if len(by_count) > 1:
    counts = "; ".join(
      f"{count} for {', '.join(by_count[count])}" for count in sorted(by_count, reverse=True)
    )
    sentences.append(f"The arms have different numbers of trials: {counts}. More trials favour an arm.")
  return sentences


def trial_grid(results: Results) -> Grid | None:
  """Returns the accuracy of each trial, with the chosen one marked; None without trials."""
  found = trials_of(results)
  if not found:
    return None
  columns = sorted({row["peak_rate"] for trials in found.values() for row in trials})
  rows, ends = [], ends_of_grids(results)
  for arm, trials in found.items():
    best = chosen(trials)
    for value in sorted({row.get("value") for row in trials}, key=lambda value: (value is not None, value)):
      by_rate = {row["peak_rate"]: row for row in trials if row.get("value") == value}
      cells = [_cell(by_rate[rate], by_rate[rate] is best) if rate in by_rate else ABSENT for rate in columns]
      name = arm if value is None else f"{arm}, {_name(best)} {value:g}"
      end = f" ({AT_END})" if arm in ends else ""
      rows.append([name, *cells, f"{best['peak_rate']:g}{end}" if value == best.get("value") else ""])
  epochs = sorted({row["epochs"] for trials in found.values() for row in trials if "epochs" in row})
  length = f" (epochs of a trial: {' or '.join(f'{value:g}' for value in epochs)})" if epochs else ""
  what = "values" if any(row.get("field") for trials in found.values() for row in trials) else "rate"
  note = (
    f"Top-1 on a held-out part of the training images{length}; {CHOSEN} marks the {what} that all seeds of "
    f"the arm train with. {' '.join(warnings_of_trials(results))}"
  )
  header = ["arm", *(f"{rate:g}" for rate in columns), "chosen"]
  return Grid("Learning rates", header, rows, note.strip())


def _name(row: Mapping[str, Any]) -> str:
  """Returns the name of the further value that was chosen."""
  return str(row.get("field") or "").rpartition(".")[2]


def _cell(row: Mapping[str, Any], is_chosen: bool) -> str:
  text = "diverged" if row.get("diverged") else f"{row['accuracy']:.3f}"
  return f"{text} {CHOSEN}" if is_chosen else text
