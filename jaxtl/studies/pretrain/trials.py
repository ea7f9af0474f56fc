"""The trials of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtl.report.grid import AT_END, CHOSEN, Grid
from jaxtl.report.results import Results
from jaxtl.report.table import ABSENT


def ends_of_rates(results: Results) -> dict[str, str]:
  """Returns arm -> "smallest" or "largest", for arms whose best of several rates is at that end of them."""
  trials: dict[str, dict[float, float]] = {}
  for row in results.rows:
    if row.get("kind") == "tune":
      trials.setdefault(row["arm"], {})[row["peak_rate"]] = row["accuracy"]
  ends = {}
  for arm, accuracies in trials.items():
    chosen = max(accuracies, key=lambda rate: accuracies[rate])
    if len(accuracies) > 1 and chosen in (min(accuracies), max(accuracies)):
      ends[arm] = "smallest" if chosen == min(accuracies) else "largest"
  return ends


def end_of_grid(ends: Mapping[str, str]) -> str:
  """Returns a warning of arms whose best rate is the "smallest" or the "largest" tried, or "" without any."""
  if not ends:
    return ""
  names = ", ".join(f"{arm} ({end})" for arm, end in ends.items())
  return f"At an end of the rates tried: {names}. A better rate may lie beyond."


def rates(results: Results) -> Grid | None:
  """Returns the accuracy of each learning-rate trial, with the chosen one marked; None without trials."""
  trials: dict[str, dict[float, Mapping[str, Any]]] = {}
  for row in results.rows:
    if row.get("kind") == "tune":  # the seeds of an arm share their trials
      trials.setdefault(row["arm"], {})[row["peak_rate"]] = row
  if not trials:
    return None
  columns = sorted({rate for by_rate in trials.values() for rate in by_rate})
  rows, ends = [], ends_of_rates(results)
  for arm, by_rate in trials.items():
    chosen = max(by_rate.values(), key=lambda row: row["accuracy"])["peak_rate"]
    cells = [_trial(by_rate[rate], rate == chosen) if rate in by_rate else ABSENT for rate in columns]
    rows.append([arm, *cells, f"{chosen:g}{f' ({AT_END})' if arm in ends else ''}"])
  epochs = sorted(
    {row["epochs"] for by_rate in trials.values() for row in by_rate.values() if "epochs" in row}
  )
  length = f" (epochs of a trial: {' or '.join(f'{value:g}' for value in epochs)})" if epochs else ""
  note = (
    f"Top-1 on a held-out part of the training images{length}; {CHOSEN} marks the rate that all seeds of the "
    f"arm train with. {end_of_grid(ends)}"
  )
  header = ["arm", *(f"{rate:g}" for rate in columns), "chosen"]
  return Grid("Learning rates", header, rows, note.strip())


def _trial(row: Mapping[str, Any], chosen: bool) -> str:
  text = "diverged" if row.get("diverged") else f"{row['accuracy']:.3f}"
  return f"{text} {CHOSEN}" if chosen else text
