"""Writes the report of a study: tables, figures and one page, from what the runs left on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxtl.errors import cannot_write
from jaxtl.report import appendix, findings, page, preview, text_formats
from jaxtl.report.grid import Grid
from jaxtl.report.results import Results, load
from jaxtl.report.section import Section
from jaxtl.report.study_section import section_of
from jaxtl.report.table import Table


def write(workdir: Path, out: Path, *, data_dir: str | None = None, trust: bool = False) -> Path:
  """Writes the report of a working folder, finished or not; the same rows give the same bytes.

  It writes into `out`: `index.html` (self-contained), `report.md`, `table.csv` (every row), `table.tex`
  (booktabs), each figure as `.svg` and `.png`, and `training_images.png` if the training data can be opened.

  Args:
    workdir: the folder of a run.
    out: created if it is missing; files of the same name are replaced, each atomically.
    data_dir: the folder below which sources look for their files, for the preview of the training images.
    trust: also imports and uses the section of a study and the sources of other packages.

  Returns:
    The path of the page.

  Raises:
    InputError: no study ran in `workdir`, or `out` cannot be written.
    StorageError: the disk is full or fails.
  """
  results = load(workdir)
  section = section_of(results, trust=trust)
  title = results.config.get("title") or "Study"
  lead = [
    *findings.finding(results, section),
    *section.lead,
    *findings.qualifications(results, section),
    *results.config.get("notes", ()),
  ]
  shown = [table for table, _ in section.tables]
  images = preview.preview(results.config, data_dir=data_dir, trust=trust)
  data = appendix.data_sets(section, preview.describe(results.config, data_dir=data_dir, trust=trust))
  behind = _behind(results, section, shown)
  trials = [section.trials] if section.trials else []
  sheet = "![Training images](training_images.png)"
  files: dict[str, str | bytes] = {
    "report.md": text_formats.to_markdown(
      title,
      lead,
      section,
      [*trials, data, *behind],
      preview=sheet if images.images else text_formats.markdown(images.problem),
    ),
    "table.csv": text_formats.to_csv(results),
    "table.tex": text_formats.to_latex(results, section.tables),
  }
  for figure in section.figures:
    files |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
  if images.images:
    files["training_images.png"] = images.sheet()
  # Written last: if the page exists, so do its files.
  files["index.html"] = page.to_html(
    results, title, lead, section, images, data=data, behind=behind, anchors=appendix.anchors(shown)
  )
  _write(out, files)
  return out / "index.html"


def _behind(results: Results, section: Section, shown: Sequence[Table]) -> list[Grid]:
  """Returns the grids of the appendix."""
  return [
    *section.appendix,
    *([appendix.arms(results)] if any(results.config["arms"].values()) or len(results.arms) > 1 else []),
    *([appendix.numbers(results, shown)] if shown else []),
    appendix.cells(results),
    appendix.environment(results),
  ]


def _write(out: Path, files: dict[str, str | bytes]) -> None:
  """Writes each file atomically."""
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
      temporary = out / f".{name}.{os.getpid()}"
      try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(out / name)
      finally:
        temporary.unlink(missing_ok=True)
  except OSError as error:
    raise cannot_write(f"the report's folder {out}", error, instead="give another --out") from error
