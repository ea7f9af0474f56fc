"""Where the report finds a study's section, and what stands in for one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from jaxtl.report import charts
from jaxtl.report.findings import seeds_sentence
from jaxtl.report.results import Results
from jaxtl.report.section import Section
from jaxtl.report.table import plain_table


def section_of(results: Results, *, trust: bool = False) -> Section:
  """The section of the study that the results are of, or a plain one for a study without `section`.

  A study writes its section in `section(results) -> Section`, in the module `report` of the package of its
  `rows`, or beside `rows` itself.

  Args:
    results: a working folder, read.
    trust: imports the module of a study outside jaxtl. Without it, only what is imported already is used,
      since a report must be safe to make of a folder that somebody else wrote.
  """
  module = str(results.config.get("study", "")).rpartition(".")[0]
  full = f"jaxtl{module}" if module.startswith(".") else module
  for name in (f"{full}.report", f"{full.rpartition('.')[0]}.report", full):
    make = getattr(_imported(name, trust=trust), "section", None)
    if callable(make):
      return make(results)
  return plain_section(results)


def plain_section(results: Results) -> Section:
  """Every numeric key of the rows in a table, and the training curves."""
  table = plain_table(results)
  curves = charts.training_curves(results)
  return Section(
    tables=[(table, _plain_caption(results))] if table else [],
    figures=[curves] if curves else [],
  )


def _imported(name: str, *, trust: bool) -> ModuleType | None:
  """The module of that name; None if there is none, or if it is not to be imported."""
  if name in sys.modules:
    return sys.modules[name]
  if not (trust or name.startswith("jaxtl.")):
    return None
  try:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
  except (ImportError, ValueError):  # a folder of another version, or of a study that is not installed here
    return None


def _plain_caption(results: Results) -> list[tuple[str, str]]:
  """How to read the table of a study that has no section of its own."""
  said = [("Seeds", seeds_sentence(results))]
  counts = [(row["arm"], row["seed"]) for row in results.rows]
  if len(set(counts)) < len(counts):
    said.append(("Rows", "Some cells have several rows: each number is the mean over those that have it."))
  return [
    *said,
    ("Numbers", "Every numeric key of the study's rows. The study does not say which values are good."),
  ]
