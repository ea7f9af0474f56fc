"""The learning curve of a training: its metrics records as one row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from jaxtl.optim import steps_of
from jaxtl.train.loop import RATES

Record = Mapping[str, float]


def by_epoch(history: Sequence[Record], *, steps_per_epoch: float) -> list[dict[str, float]]:
  """Returns one row for each epoch that holds a record; the last epoch may be incomplete.

  Args:
    history: metrics records with their `step`, oldest first.
    steps_per_epoch: examples over the batch size, which need not be a whole number.

  Returns:
    Rows of `epoch`, counted from 1, and its newest `step`. `train/` metrics are means over the records of the
    epoch, which are single batches; the rate and all other metrics are the newest of the epoch.
  """
  rows: list[dict[str, float]] = []
  for epoch, records in enumerate(_epochs(history, steps_per_epoch), 1):
    if not records:
      continue
    row: dict[str, float] = {"epoch": epoch, "step": records[-1]["step"]}
    for name in dict.fromkeys(name for record in records for name in record):
      values = [record[name] for record in records if name in record]
      if name.startswith("train/") and name != "train/rate":
        row[name] = sum(values) / len(values)
      elif name != "step":
        row[name] = values[-1]
    rows.append({name: value for name, value in row.items() if name not in RATES})
  return rows


def as_csv(rows: Sequence[Record]) -> str:
  """Writes the rows as CSV with a column for each metric; a cell is empty if its epoch lacks the metric."""
  text = io.StringIO()
  columns = list(dict.fromkeys(["epoch", "step", *(name for row in rows for name in row)]))
  writer = csv.DictWriter(text, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _epochs(history: Sequence[Record], steps_per_epoch: float) -> list[list[Record]]:
  """Groups the records by epoch. A record at the last step of an epoch belongs to that epoch."""
  found: list[list[Record]] = []
  for record in history:
    while record["step"] > steps_of(len(found), steps_per_epoch=steps_per_epoch):
      found.append([])
    if found:  # a run without updates has one record, of step 0
      found[-1].append(record)
  return found
