"""The report of a pre-training: its accuracy, its flatness, and its transfer."""

from __future__ import annotations

from jaxtl.report.findings import capital
from jaxtl.report.results import Results
from jaxtl.report.section import Caption, Headline, Section
from jaxtl.report.table import Table, decimals_for
from jaxtl.studies.pretrain.figures import make_figures
from jaxtl.studies.pretrain.tables import (
  accuracies,
  curvature_loss,
  curvatures,
  evaluations,
  make_table,
  outputs,
  outputs_table,
  test_losses,
)
from jaxtl.studies.pretrain.trials import trial_grid, warnings_of_trials
from jaxtl.studies.transfer import report as transfer_report
from jaxtl.studies.transfer.captions import caption
from jaxtl.studies.transfer.results import protocols


def section(results: Results) -> Section:
  """Reports pre-training accuracy and curvature with transfer, the trials of rates, and the curves."""
  tables = [(make_table(results, name), name) for name in protocols(results) or ("",)]
  images = {
    row["num_examples"] for row in results.rows if row.get("kind") == "pretrain" and "num_examples" in row
  }
  return Section(
    headline=transfer_report.headline(results) or _headline(results),
    warnings=warnings(results),
    tables=[
      *(
        (table, caption(results, table, name, measures=_measures(results, table)))
        for table, name in tables
        if table.columns
      ),
      *((table, _notes(table)) for table in _further_tables(results) if table.columns),
    ],
    figures=make_figures(results),
    trials=trial_grid(results),
    facts=transfer_report.facts(results),
    drawn={"flatness.data": sorted(images)},
    sizes=transfer_report.sizes(results),
  )


def _further_tables(results: Results) -> list[Table]:
  if not outputs(results):
    return []  # without them, one evaluation at the end is usual, which the first table has
  return [test_losses(results), *(outputs_table(results, name) for name in outputs(results))]


def _notes(table: Table) -> Caption:
  """Explains each column of a table."""
  return [(column.title, f"{capital(column.measure)}.") for column in table.columns]


def warnings(results: Results) -> list[str]:
  """Warns of the trials, and includes the warnings of the transfer."""
  return [*warnings_of_trials(results), *transfer_report.warnings(results)]


def _headline(results: Results) -> Headline | None:
  """Returns the accuracy of the pre-training, else its curvature; None before anything is trained."""
  for name in evaluations(results):
    if values := accuracies(results, name):
      measure = f"pre-training accuracy on {name}"
      return Headline(f"Best {measure}", capital(measure), values)
  values = curvatures(results)
  if not values:
    return None
  return Headline(
    "Flattest (smallest λ_max)",
    f"λ_max of the {curvature_loss(results)}",
    values,
    decimals_for(values),
    larger=False,
  )


def _measures(results: Results, table: Table) -> Caption:
  """Explains how to read the columns that are not about the transfer."""
  titles = {column.title for column in table.columns}
  topics = []
  if "accuracy" in titles:
    topics.append(("Pre-training", f"Accuracy is top-1 on the evaluation set {evaluations(results)[0]}."))
  if "λ_max" in titles:
    loss = curvature_loss(results)
    whatever = ", whatever the arm was trained with" if loss == "cross-entropy" else ""
    topics.append(("λ_max", f"The largest curvature of the {loss}{whatever}."))
  topics += [("Speed", f"{capital(c.measure)}; not marked.") for c in table.columns if c.title == "speed"]
  return topics
