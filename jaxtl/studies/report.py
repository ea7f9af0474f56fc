"""The report of a study: tables, figures and one page, from what the runs left on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtl.errors import cannot_write
from jaxtl.studies import (
  appendix,
  diagnosis_figures,
  diagnosis_tables,
  figures,
  flatness_figures,
  flatness_tables,
  formats,
  layers_tables,
  page,
  patching_figures,
  patching_tables,
  samples,
  sentences,
  tables,
)
from jaxtl.studies.appendix import Grid
from jaxtl.studies.drawing import Figure
from jaxtl.studies.formats import Caption
from jaxtl.studies.results import Results, load
from jaxtl.studies.tables import Table


class Part(NamedTuple):
  """What the rows of one kind of study add to a report; each is empty where there are no such rows.

  Attributes:
    tables, caption: the tables, and how to read each of them.
    figures: drawn.
    grids: results whose rows are no arms.
    behind: what belongs into the appendix.
    lead: sentences for the head of the page.
  """

  tables: Callable[[Results], list[Table]]
  caption: Callable[[Results, Table], Caption]
  figures: Callable[[Results], list[Figure]]
  grids: Callable[[Results], list[Grid]] = lambda results: []
  behind: Callable[[Results], list[Grid]] = lambda results: []
  lead: Callable[[Results], list[str]] = lambda results: []


PARTS = (
  Part(tables.make_tables, sentences.caption, figures.make_figures),
  Part(
    flatness_tables.make_tables,
    flatness_tables.caption,
    flatness_figures.make_figures,
    behind=lambda results: [*flatness_tables.blocks(results), *flatness_tables.conditions(results)],
    lead=flatness_tables.lead,
  ),
  Part(
    patching_tables.make_tables,
    patching_tables.caption,
    patching_figures.make_figures,
    behind=patching_tables.behind,
    lead=patching_tables.lead,
  ),
  Part(
    layers_tables.make_tables,
    layers_tables.caption,
    lambda results: [],
    behind=layers_tables.behind,
    lead=layers_tables.lead,
  ),
  Part(
    lambda results: [],
    lambda results, table: [],
    diagnosis_figures.make_figures,
    grids=diagnosis_tables.grids,
    lead=diagnosis_tables.finding,
  ),
)


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
    StorageError: the disk is full or fails.
  """
  results = load(workdir)
  found = [(table, part.caption(results, table)) for part in PARTS for table in part.tables(results)]
  grids = [grid for part in PARTS for grid in part.grids(results)]
  if not found and not grids and (plain := tables.plain_table(results)):
    found = [(plain, sentences.plain_caption(results))]
  shown, captions = [table for table, _ in found], [caption for _, caption in found]
  told = (results.config.get("title") or "Study", _lead(results, shown), shown, captions)
  drawn = [figure for part in PARTS for figure in part.figures(results)]
  preview = samples.preview(results.config, data_dir=data_dir, trust=trust)
  rates = appendix.rates(results)
  data = appendix.data_sets(results, samples.describe(results.config, data_dir=data_dir, trust=trust))
  behind = _behind(results, shown)
  html = page.to_html(
    results,
    *told,
    grids,
    drawn,
    preview,
    rates=rates,
    data=data,
    behind=behind,
    anchors=appendix.anchors(shown),
  )
  markdown = formats.to_markdown(
    *told,
    drawn,
    [*([rates] if rates else []), data, *behind],
    found=grids,
    preview="![Training images](training_images.png)"
    if preview.images
    else formats.markdown(preview.problem),
  )
  files: dict[str, str | bytes] = {
    "report.md": markdown,
    "table.csv": formats.to_csv(results),
    "table.tex": formats.to_latex(results, shown, captions),
  }
  for figure in drawn:
    files |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
  if preview.images:
    files["training_images.png"] = preview.sheet()
  files["index.html"] = html  # last: a page that is there has its files beside it
  _write(out, files)
  return out / "index.html"


def _lead(results: Results, shown: Sequence[Table]) -> list[str]:
  """The head of the page: what was found, and what qualifies it."""
  lead = [text for part in PARTS for text in part.lead(results)]
  if shown or not lead:  # else there is nothing that compares arms
    lead[:0] = sentences.finding(results)
  return [*lead, *sentences.qualifications(results), *results.config.get("notes", ())]


def _behind(results: Results, shown: Sequence[Table]) -> list[Grid]:
  """The appendix."""
  return [
    *(grid for part in PARTS for grid in part.behind(results)),
    *([appendix.arms(results)] if any(results.config["arms"].values()) or len(results.arms) > 1 else []),
    *([appendix.numbers(results, shown)] if shown else []),
    appendix.cells(results),
    appendix.environment(results),
  ]


def _write(out: Path, files: dict[str, str | bytes]) -> None:
  """Each file whole or not at all."""
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
