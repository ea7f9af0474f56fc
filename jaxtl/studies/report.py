"""The report of a study: tables, figures and one page, from what the runs left on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxtl.errors import InputError
from jaxtl.studies import appendix, flatness_figures, flatness_tables, formats, page, samples, sentences
from jaxtl.studies.appendix import Grid
from jaxtl.studies.figures import make_figures
from jaxtl.studies.results import Results, load
from jaxtl.studies.tables import Table, make_tables


def write(workdir: Path, out: Path, *, data_dir: str | None = None, trust: bool = False) -> Path:
  """Writes the report of a working folder, finished or not; the same rows give the same bytes.

  In `out`: `index.html` (self-contained), `report.md`, `table.csv` (every row), `table.tex` (booktabs), each
  figure as `.svg` and `.png`, and `training_images.png` where the training data can be opened.

  Args:
    workdir: of a run.
    out: made if it is not there; files of the same name are replaced, each at once.
    data_dir: the folder below which sources look for their files, for the preview of the training images.
    trust: opens sources of other packages too, which imports them.

  Returns:
    The path of the page.

  Raises:
    InputError: no study ran in `workdir`, or `out` cannot be written.
  """
  results = load(workdir)
  title = results.config.get("title") or "Study"
  lead = [sentences.finding(results), *sentences.qualifications(results), *results.config.get("notes", ())]
  flat = flatness_tables.make_tables(results)
  tables = [*make_tables(results), *flat]
  captions = [(flatness_tables if table in flat else sentences).caption(results, table) for table in tables]
  figures = [*make_figures(results), *flatness_figures.make_figures(results)]
  preview = samples.preview(results.config, data_dir=data_dir, trust=trust)
  rates = appendix.rates(results)
  data = appendix.data_sets(results, samples.describe(results.config, data_dir=data_dir, trust=trust))
  behind = _behind(results, tables)
  html = page.to_html(
    results,
    title,
    lead,
    tables,
    captions,
    figures,
    preview,
    rates=rates,
    data=data,
    behind=behind,
    anchors=appendix.anchors(tables),
  )
  markdown = formats.to_markdown(
    title,
    lead,
    tables,
    captions,
    figures,
    [*([rates] if rates else []), data, *behind],
    preview=formats.markdown(preview.problem) or "![Training images](training_images.png)",
  )
  files: dict[str, str | bytes] = {
    "report.md": markdown,
    "table.csv": formats.to_csv(results),
    "table.tex": formats.to_latex(results, tables, captions),
  }
  for figure in figures:
    files |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
  if preview.images:
    files["training_images.png"] = preview.sheet()
  files["index.html"] = html  # last: a page that is there has its files beside it
  _write(out, files)
  return out / "index.html"


def _behind(results: Results, tables: Sequence[Table]) -> list[Grid]:
  """The appendix."""
  return [
    *flatness_tables.blocks(results),
    *flatness_tables.conditions(results),
    appendix.arms(results),
    appendix.numbers(results, tables),
    appendix.cells(results),
    appendix.environment(results),
  ]


def _write(out: Path, files: dict[str, str | bytes]) -> None:
  """Each file whole or not at all."""
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
      temporary = out / f".{name}.{os.getpid()}"
      temporary.write_bytes(content.encode() if isinstance(content, str) else content)
      temporary.replace(out / name)
  except OSError as error:
    raise InputError(f"cannot write the report to {out}: {error.strerror}; give another --out") from error
