"""The report of post-training single layers, and of the diagnosis of layers."""

from __future__ import annotations

from jaxtl.report.results import Results
from jaxtl.report.section import Section
from jaxtl.studies.layers import diagnosis_figures, diagnosis_tables, tables


def section(results: Results) -> Section:
  """Reports every method together with its base, and the layers of every network.

  There is no headline, because a study of layers compares methods, and each arm reports all of them.
  """
  kind = diagnosis_tables.KIND
  images = {row["num_examples"] for row in results.rows if row.get("kind") == kind}
  return Section(
    lead=[*tables.lead(results), *diagnosis_tables.finding(results)],
    tables=[(table, tables.caption(results, table)) for table in tables.make_tables(results)],
    grids=diagnosis_tables.grids(results),
    figures=diagnosis_figures.make_figures(results),
    appendix=tables.behind(results),
    drawn={"diagnosis.data": sorted(images)},
  )
