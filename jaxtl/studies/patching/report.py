"""The report of patching and merging."""

from __future__ import annotations

from jaxtl.report.findings import capital, some
from jaxtl.report.results import Results
from jaxtl.report.section import Headline, Section
from jaxtl.studies.patching import tables
from jaxtl.studies.patching.figures import make_figures


def section(results: Results) -> Section:
  """Reports accuracies at each coefficient, every pair, and every way to merge."""
  return Section(
    headline=headline(results),
    lead=tables.lead(results),
    warnings=warnings(results),
    tables=[(table, tables.caption(results, table)) for table in tables.make_tables(results)],
    figures=make_figures(results),
    appendix=tables.behind(results),
  )


def headline(results: Results) -> Headline | None:
  """Returns the mean of both accuracies over the pairs; None without pairs.

  It is not the sum that was minimised, because arms may normalise their losses differently.
  """
  values = results.means(
    lambda row: (row["optimised/test_supported_top1"] + row["optimised/test_patching_top1"]) / 2,
    kind="patch",
  )
  measure = "accuracy on supported and patching task at the optimised coefficient, mean over pairs"
  return Headline(f"Best {measure}", capital(measure), values) if values else None


def warnings(results: Results) -> list[str]:
  """Warns of fine-tuning that ends below its starting accuracy."""
  worse = [
    f"{row['arm']} on {row['patching']} ({end:.3f} after {start:.3f})"
    for row in tables.pairs(results)
    if (end := row["fine_tuned/test_patching_top1"]) < (start := row["zero_shot/test_patching_top1"])
  ]
  worse = list(dict.fromkeys(worse))
  return (
    [f"Fine-tuning ends below its own start: {some(worse)}. Another rate or length may help."]
    if worse
    else []
  )
