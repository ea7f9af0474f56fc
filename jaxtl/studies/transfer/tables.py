"""The tables of a transfer: accuracy on every target, one table for each protocol."""

from __future__ import annotations

import dataclasses

from jaxtl.report.results import Results
from jaxtl.report.table import Column, Table, filled_table, mean_ranks
from jaxtl.studies.transfer.results import accuracies, mean_accuracies, protocol_title, targets


def make_table(results: Results, protocol: str) -> Table:
  """Makes a table of the accuracy on each target, their mean, and the mean rank of each arm."""
  return filled_table(results, protocol_title(protocol), columns(results, protocol))


def columns(results: Results, protocol: str) -> list[Column]:
  """Returns the columns of a protocol, which the tables of other studies use too."""
  how = protocol_title(protocol).lower()
  found = [
    Column(
      name,
      "Transfer accuracy",
      f"accuracy on {name}, {how}",
      accuracies(results, protocol, name),
      beside=results.values("best_accuracy", kind="transfer", protocol=protocol, target=name),
    )
    for name in targets(results)
  ]
  # If the test set was evaluated once, the best accuracy is the last.
  if all(column.beside == column.values for column in found):
    found = [dataclasses.replace(column, beside={}) for column in found]
  means = mean_accuracies(results, protocol)
  overall = [Column("mean", "Over targets", f"mean accuracy over targets, {how}", means)]
  measured = [column.values for column in found if column.values]
  if len({arm for values in measured for arm in values}) > 1:
    ranks = mean_ranks(measured)
    measure = f"mean rank over targets, {how}"
    overall.append(Column("mean rank", "Over targets", measure, ranks, better=-1, decimals=2))
  return [*found, *overall]
