"""Builds grids of plain text: learning-rate trials, data, cells, arms, every number, environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtl import config as config_lib
from jaxtl.report.grid import Grid
from jaxtl.report.preview import DataSet
from jaxtl.report.results import Results, is_number
from jaxtl.report.section import Section
from jaxtl.report.table import ABSENT, Column, Table


def data_sets(section: Section, found: Sequence[DataSet]) -> Grid:
  """Lists the data sets: whether each is synthetic or real, and its size."""
  rows = []
  for data in found:
    if data.problem:
      images, classes = section.sizes.get(data.role, (None, None))
      size = [_count(images), _count(classes)]
    else:
      size = [_used(section, data), _count(data.num_classes)]
    rows.append([data.role, data.source, data.kind or "not known", *size])
  problems: dict[str, list[str]] = {}
  for data in found:
    if data.problem:
      problems.setdefault(data.problem, []).append(data.role)
  note = " ".join(f"Not opened: {'; '.join(roles)} ({problem})." for problem, roles in problems.items())
  words = frozenset({0, 1, 2})
  header = ["use", "source", "synthetic or real", "images", "classes"]
  return Grid("Data", header, rows, note, words)


def cells(results: Results) -> Grid:
  """Lists the state and folder of every cell."""
  rows = []
  for arm in results.arms:
    for seed in results.seeds:
      row = next(
        (r for r in results.rows if r["arm"] == arm and r["seed"] == seed and "images_per_second" in r), {}
      )
      rows.append(
        [
          arm,
          str(seed),
          _state(results, arm, seed),
          f"{arm}/{seed}",
          str(_session_of(results, arm, seed)),
          *(
            _plain(row.get(name))
            for name in ("steps", "peak_rate", "train_loss", "images_per_second", "data_wait")
          ),
        ]
      )
  header = [
    "arm",
    "seed",
    "state",
    "folder",
    "session",
    "steps",
    "peak rate",
    "final train loss",
    "images/s",
    "data wait",
  ]
  # Columns without any value are dropped, such as those of training where nothing was trained.
  keep = [i for i, _ in enumerate(header) if i < 5 or any(row[i] != ABSENT for row in rows)]
  header, rows = [header[i] for i in keep], [[row[i] for i in keep] for row in rows]
  note = (
    "Folders are inside the working folder; session is the one under Environment that finished the cell, 0 "
    "the first"
  ) + ("; data wait is the share of time that a step waited for images." if "data wait" in header else ".")
  return Grid("Cells", header, rows, note, frozenset({0, 2, 3}))


def arms(results: Results) -> Grid:
  """Lists how each arm differs from the base."""
  rows = []
  for arm in results.arms:
    base, merged = results.config["base"], results.arm_config(arm)
    found = grouped(config_lib.differences(base, merged))
    rows.append([arm, "; ".join(found) or "the base itself"])
  return Grid("Arms", ["arm", "difference to the base"], rows, words=frozenset({0, 1}))


def grouped(differences: Sequence[str]) -> list[str]:
  """Merges the same change in several places into one line that names the first place."""
  places: dict[str, list[str]] = {}
  for line in differences:
    place, _, change = line.partition(": ")
    places.setdefault(change, []).append(place)
  return [
    f"{where[0]}{f', {len(where)} places in all' if len(where) > 1 else ''}: {change}"
    for change, where in places.items()
  ]


def numbers(results: Results, tables: Sequence[Table]) -> Grid:
  """Lists every number of the tables by seed; row i has the anchor `n{i}` that `anchors` returns."""
  header = ["arm", "measure", *(f"seed {seed}" for seed in results.seeds)]
  rows = [
    [arm, column.measure, *(_seed_value(column, arm, seed) for seed in results.seeds)]
    for arm, column in _entries(tables)
  ]
  return Grid("Every number", header, rows, words=frozenset({0, 1}))


def anchors(tables: Sequence[Table]) -> dict[tuple[str, str], str]:
  """Returns (arm, measure) -> the anchor of its row in `numbers`."""
  return {(arm, column.measure): f"n{i}" for i, (arm, column) in enumerate(_entries(tables))}


def environment(results: Results) -> Grid:
  """Lists what the numbers depend on in addition to the config."""
  env = results.env
  rows = [["config (SHA-256)", results.digest], ["study", str(results.config.get("study", ""))]]
  for name, value in env.items():
    if name == "later":
      rows += [[f"session {number}", _session(changed)] for number, changed in enumerate(value, 1)]
    elif name == "command":
      rows.append([name, results.command])
    elif isinstance(value, Mapping):
      rows.append([name, _parts(value)])
    else:
      rows.append([name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)])
  return Grid("Environment", ["", ""], rows, words=frozenset({0, 1}))


def _session_of(results: Results, arm: str, seed: int) -> int | str:
  """Returns the session that finished a cell."""
  own = (row for row in results.rows if row["arm"] == arm and row["seed"] == seed)
  first = next(own, None)
  return ABSENT if first is None else first.get("session", 0)


def _session(changed: Mapping[str, Any]) -> str:
  """Formats the values of a later session that differ."""
  texts = {
    name: " ".join(map(str, value))
    if isinstance(value, list)
    else _parts(value)
    if isinstance(value, Mapping)
    else str(value)
    for name, value in changed.items()
  }
  return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _parts(value: Mapping[str, Any]) -> str:
  """Formats a mapping as text."""
  return ", ".join(
    f"{key} {' '.join(map(str, item)) if isinstance(item, list) else item}" for key, item in value.items()
  )


def _entries(tables: Sequence[Table]) -> Iterator[tuple[str, Column]]:
  """Yields each number once, because tables share their pre-training columns."""
  columns = {column.measure: column for table in tables for column in table.columns}
  for column in columns.values():
    for arm in dict.fromkeys(arm for table in tables for arm in table.arms):
      if column.values.get(arm):
        yield arm, column


def _seed_value(column: Column, arm: str, seed: int) -> str:
  value = column.values.get(arm, {}).get(seed)
  return ABSENT if value is None else f"{value:.6g}"


def _used(section: Section, data: DataSet) -> str:
  """Formats the number of images, and how many of them were used if the study draws a subset."""
  counts = [count for count in section.drawn.get(data.role, ()) if count != data.num_images]
  drawn = " or ".join(f"{count:,.0f}" for count in counts)
  return f"{drawn} of {_count(data.num_images)}" if drawn else _count(data.num_images)


def _state(results: Results, arm: str, seed: int) -> str:
  if (arm, seed) in results.finished:
    return "finished"
  records = results.curves.get((arm, seed))
  return f"unfinished, at step {records[-1]['step']:g}" if records else "not started"


def _count(value: Any) -> str:
  return f"{value:,.0f}" if is_number(value) else ABSENT


def _plain(value: Any) -> str:
  return f"{value:.4g}" if is_number(value) else ABSENT
