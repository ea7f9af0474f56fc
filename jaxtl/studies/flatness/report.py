"""The report of a study of flatness."""

from __future__ import annotations

from jaxtl.report.results import Results
from jaxtl.report.section import Headline, Section
from jaxtl.report.table import decimals_for
from jaxtl.studies.flatness import tables
from jaxtl.studies.flatness.figures import make_figures


def section(results: Results) -> Section:
  """Reports curvature and sharpness of every checkpoint and its blocks, and how each number was measured."""
  loss = tables.first_loss(results)
  values = results.values("lambda_max", kind="flatness", loss=loss)
  images = {row["num_examples"] for row in results.rows if row.get("kind") == "flatness"}
  measure = f"λ_max of the {tables.LOSSES[loss]}"
  headline = Headline("Flattest (smallest λ_max)", measure, values, decimals_for(values), larger=False)
  return Section(
    headline=headline if values and tables.is_comparable(results) else None,
    lead=tables.lead(results),
    tables=[(table, tables.caption(results, table)) for table in tables.make_tables(results)],
    figures=make_figures(results),
    appendix=[*tables.blocks(results), *tables.conditions(results)],
    drawn={"flatness.data": sorted(images)},
  )
