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


# Key in the row of a fine-tuning -> heading, measure, whether less or more is better, decimals.
_OVER_FITTING = {
  "least_epoch": ("least at", "epoch of the least test loss", 0, 1),
  "least_loss": ("least", "least test loss over the epochs", -1, 3),
  "chosen_loss": ("chosen", "test loss of the weights that the validation images chose", -1, 3),
  "last_loss": ("last", "test loss of the last weights", -1, 3),
  "chosen_rise": ("rise", "last test loss minus that of the chosen weights", -1, 3),
  "rise_low": ("rise, low", "lower end of its 95 % interval over test images", 0, 3),
  "rise_high": ("rise, high", "upper end of its 95 % interval over test images", 0, 3),
  "scaled_loss": ("last, scaled", "last test loss after temperature scaling", -1, 3),
  "gap_at_end": ("gap", "last test loss minus the last loss on clean training images", -1, 3),
}


def over_fitting_table(results: Results, target: str) -> Table:
  """Makes a table of where the test loss of a fine-tuning is least, and how far it rises after."""
  about = dict(kind="transfer", protocol="fine_tune", target=target)
  # Every fine-tuning has a least loss; only one with a curve has the epoch.
  drawn = results.values("least_epoch", **about)
  found = [
    Column(heading, "Test loss", measure, results.values(key, **about), better=better, decimals=decimals)
    for key, (heading, measure, better, decimals) in _OVER_FITTING.items()
  ]
  shown = [
    dataclasses.replace(column, values={arm: column.values[arm] for arm in drawn if arm in column.values})
    for column in found
  ]
  trained = results.values("num_trained", **about)
  sizes = Column("trained", "Parameters", "parameters that are trained", trained, better=0, decimals=0)
  return filled_table(results, f"Over-fitting on {target}", [sizes, *shown] if drawn else [])
