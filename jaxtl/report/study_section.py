"""Finds the report section of a study, or makes a plain one."""

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
  """Returns the section of the study that produced the results, or a plain one if it defines none.

  A study defines its section as `section(results) -> Section`. It stands in the module `report` of the
  package of its `rows`, or in the module of `rows` itself.

  Args:
    results: the contents of a working folder.
    trust: imports the module of a study outside jaxtl. Otherwise such a module is used only if it is already
      imported, because a report of another person's folder must be safe.
  """
  module = str(results.config.get("study", "")).rpartition(".")[0]
  full = f"jaxtl{module}" if module.startswith(".") else module
  for name in (f"{full}.report", f"{full.rpartition('.')[0]}.report", full):
    make = getattr(_imported(name, trust=trust), "section", None)
    if callable(make):
      return make(results)
  return plain_section(results)


def plain_section(results: Results) -> Section:
  """Makes a table of every numeric key of the rows, and the training curves."""
  table = plain_table(results)
  curves = charts.training_curves(results)
  return Section(
    tables=[(table, _plain_caption(results))] if table else [],
    figures=[curves] if curves else [],
  )


def _imported(name: str, *, trust: bool) -> ModuleType | None:
  """Imports the named module; returns None if it does not exist or must not be imported."""
  if name in sys.modules:
    return sys.modules[name]
  if not (trust or name.startswith("jaxtl.")):
    return None
  try:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
  except (ImportError, ValueError):  # the folder is from another version, or its study is not installed
    return None


def _plain_caption(results: Results) -> list[tuple[str, str]]:
  """Explains how to read the table of a study without its own section."""
  said = [("Seeds", seeds_sentence(results))]
  counts = [(row["arm"], row["seed"]) for row in results.rows]
  if len(set(counts)) < len(counts):
    said.append(("Rows", "Some cells have several rows: each number is the mean over those that have it."))
  return [
    *said,
    ("Numbers", "Every numeric key of the study's rows. The study does not say which values are good."),
  ]
