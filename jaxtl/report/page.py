"""Renders the report as one self-contained HTML page.

It has no script, loads nothing, and escapes all external text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape as escape_markup

import numpy as np

from jaxtl.errors import printable
from jaxtl.report.canvas import COLORS, Figure
from jaxtl.report.grid import AT_END, Grid
from jaxtl.report.page_style import style_sheet
from jaxtl.report.preview import Preview, encoded
from jaxtl.report.results import Results
from jaxtl.report.section import Caption, Section
from jaxtl.report.table import ABSENT, Column, Table

_MOST_ROWS = 60  # rows of a table that is shown without scrolling
_WRAPS = 60  # characters from which a cell of words may wrap


def escape(text: str) -> str:
  """Escapes markup and control characters of external text."""
  return escape_markup(printable(text, lines=True))


def to_html(
  results: Results,
  title: str,
  lead: Sequence[str],
  section: Section,
  preview: Preview,
  *,
  data: Grid,
  behind: Sequence[Grid],
  anchors: Mapping[tuple[str, str], str],
) -> str:
  """Renders the page.

  Args:
    results: the study.
    title: the title of the page.
    lead: the finding, followed by its qualifications.
    section: the study's own part.
    preview: the training images.
    data: the data sets.
    behind: the appendix; "Every number" has the rows to which cells link.
    anchors: (arm, measure) -> id of that row.
  """
  colors = {arm: f"var(--arm-{i % len(COLORS)})" for i, arm in enumerate(results.arms)}
  links = [
    ("results", "Results", bool(section.tables or section.grids)),
    ("figures", "Figures", bool(section.figures)),
    ("trials", section.trials.title if section.trials else "", section.trials is not None),
    ("data", "Data", True),
    ("behind", "Behind the numbers", True),
  ]
  parts = [
    _head(results, title, lead, section.facts),
    navigation({name: text for name, text, there in links if there}),
  ]
  if section.tables or section.grids:
    parts += [
      '<h2 id="results">Results</h2>',
      *(_result(table, text, results, colors, anchors) for table, text in section.tables),
      *map(_titled, section.grids),
    ]
  if section.figures:
    parts += ['<h2 id="figures">Figures</h2>', *map(figure, section.figures)]
  if trials := section.trials:
    parts += [f'<h2 id="trials">{escape(trials.title)}</h2>', text_table(trials, shaded=AT_END)]
  parts += ['<h2 id="data">Data</h2>', text_table(data), _preview(preview)]
  parts += ['<h2 id="behind">Behind the numbers</h2>']
  rows = list(anchors.values())
  parts += [_titled(grid, rows if grid.title == "Every number" else []) for grid in behind]
  config = escape(json.dumps(results.config, indent=1))
  parts.append(f"<details><summary>The config</summary><pre>{config}</pre></details>")
  parts.append(_footer(results))
  return document(title, parts)


def document(title: str, parts: Sequence[str], *, style: str = "") -> str:
  """Assembles a page from HTML parts, and embeds the style sheet and the rules of `style`."""
  body = "\n".join(parts)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>{escape(title)}</title><style>{style_sheet()}{style}</style></head>\n"
    f"<body><main>\n{body}\n</main></body></html>\n"
  )


def header(eyebrow: str, title: str, lead: Sequence[str], facts: Mapping[str, str]) -> str:
  """Renders the head of a page: its kind, title, finding, qualifications, and a line of facts."""
  shown = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items())
  know = "".join(f"<li>{_prose(text)}</li>" for text in lead[1:])
  return (
    f'<header><p class="eyebrow">{eyebrow}</p><h1>{escape(title)}</h1>'
    f'<p class="lead">{_prose(lead[0])}</p>'
    + (f'<ul class="know">{know}</ul>' if know else "")
    + f'<dl class="facts">{shown}</dl></header>'
  )


def navigation(links: Mapping[str, str]) -> str:
  """Renders links inside the page: id -> text."""
  return "<nav>" + "".join(f'<a href="#{name}">{text}</a>' for name, text in links.items()) + "</nav>"


def _head(results: Results, title: str, lead: Sequence[str], more: Mapping[str, str]) -> str:
  done, total = len(results.finished), len(results.arms) * len(results.seeds)
  facts = {
    "arms": str(len(results.arms)),
    "seeds": str(len(results.seeds)),
    "finished cells": f"{done} of {total}",
    **more,
    "devices": ", ".join(map(str, results.env.get("devices", []))) or ABSENT,
    "started": str(results.env.get("started", ABSENT))[:10],
    "config": results.digest[:8],
  }
  return header("Study report", title, lead, facts)


def _result(
  table: Table,
  caption: Caption,
  results: Results,
  colors: Mapping[str, str],
  anchors: Mapping[tuple[str, str], str],
) -> str:
  groups: list[tuple[str, int]] = []
  for column in table.columns:
    if groups and groups[-1][0] == column.group:
      groups[-1] = (column.group, groups[-1][1] + 1)
    else:
      groups.append((column.group, 1))
  top = "".join(
    f'<th colspan="{width}" scope="colgroup"><span>{escape(name)}</span></th>' for name, width in groups
  )
  names = "".join(
    f'<th scope="col" title="{escape(c.measure)}">{_heading(c.title)}</th>' for c in table.columns
  )
  rows = "".join(
    f'<tr><th scope="row" title="{escape(arm)}">{_dot(colors.get(arm))}{_breakable(arm)}</th>'
    + "".join(_cell(column, arm, len(results.seeds), anchors) for column in table.columns)
    + "</tr>"
    for arm in table.arms
  )
  said = " ".join(f"<b>{_prose(topic)}.</b> {_prose(text)}" for topic, text in caption)
  return (
    f'<figure><h3>{escape(table.title)}</h3><div class="box result" tabindex="0" role="region" '
    f'aria-label="{escape(table.title)}"><table><thead><tr class="groups"><th></th>{top}</tr>'
    f'<tr><th scope="col" class="word">{escape(table.row)}</th>{names}</tr></thead>'
    f"<tbody>{rows}</tbody></table></div>"
    f"<figcaption>{said}</figcaption></figure>"
  )


def _dot(color: str | None) -> str:
  """Renders the colour of an arm in the figures; rows that are not arms have none."""
  return f'<i style="background:{color}"></i>' if color else ""


def _heading(title: str) -> str:
  return _prose(title) if title == "λ_max" else _breakable(title)


def _breakable(name: str) -> str:
  return escape(name).replace("_", "_<wbr>")


def _prose(text: str) -> str:
  return escape(text).replace("λ_max", "λ<sub>max</sub>")


def _cell(column: Column, arm: str, num_seeds: int, anchors: Mapping[tuple[str, str], str]) -> str:
  cell = column.cell(arm)
  if not cell.values:
    return f"<td>{ABSENT}</td>"
  seeds = ", ".join(f"seed {seed}: {value:.6g}" for seed, value in cell.values.items())
  beside = f'<span class="beside">{cell.beside}</span>' if cell.beside else ""
  spread = f'<span class="spread">± {cell.spread}</span>' if cell.spread else ""
  few = f'<span class="few">n = {len(cell.values)}</span>' if len(cell.values) < num_seeds else ""
  best = ' class="best"' if column.is_best(arm) else ""
  title = escape(f"{arm}, {column.measure}: {seeds}")
  link = anchors[arm, column.measure]
  mean = f'<span class="mean">{cell.mean}</span>'
  return f'<td{best}><a href="#{link}" title="{title}">{mean}{beside}{spread}{few}</a></td>'


def figure(drawn: Figure) -> str:
  """Renders a figure with its title and caption, in the colours of the page."""
  label = escape(drawn.title)
  svg = drawn.inline().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
  return (
    f"<figure><h3>{label}</h3>"
    f'<div class="box figure" tabindex="0" role="region" aria-label="{label}">{svg}</div>'
    f"<figcaption>{_prose(drawn.caption)}</figcaption></figure>"
  )


def text_table(grid: Grid, *, ids: Sequence[str] = (), shaded: str = "") -> str:
  """Renders a grid as a table; a long one scrolls inside its box, and a note says so.

  Args:
    grid: the table.
    ids: anchors of the rows, or none.
    shaded: cells that contain this text are marked.
  """
  head = "".join(
    f'<th scope="col"{_kind(grid, i, "")}>{escape(name)}</th>' for i, name in enumerate(grid.header)
  )
  lines = []
  for number, row in enumerate(grid.rows):
    anchor = f' id="{ids[number]}"' if ids else ""
    cells = "".join(
      f"<td{_kind(grid, i, text, shaded)}>{escape(text)}</td>" for i, text in enumerate(row[1:], start=1)
    )
    lines.append(f'<tr{anchor}><th scope="row">{escape(row[0])}</th>{cells}</tr>')
  header = f"<thead><tr>{head}</tr></thead>" if any(grid.header) else ""
  tall = len(grid.rows) > _MOST_ROWS
  scrolls = f"{len(grid.rows):,} rows: scroll inside the table to see all of them." if tall else ""
  notes = " ".join(filter(None, (scrolls, grid.note)))
  note = f'<p class="note">{escape(notes)}</p>' if notes else ""
  return (
    f'<div class="box{" tall" if tall else ""}" tabindex="0" role="region" aria-label="{escape(grid.title)}">'
    f"<table>{header}<tbody>{''.join(lines)}</tbody></table></div>{note}"
  )


def _kind(grid: Grid, column: int, text: str, shaded: str = "") -> str:
  names = ["word"] if column in grid.words or column == 0 else []
  names += ["wrap"] if len(text) > _WRAPS else []
  names += ["edge"] if shaded and shaded in text else []
  return f' class="{" ".join(names)}"' if names else ""


def _titled(grid: Grid, ids: Sequence[str] = ()) -> str:
  """Renders a grid below its title."""
  return f"<h3>{escape(grid.title)}</h3>\n{text_table(grid, ids=ids)}"


def _preview(preview: Preview) -> str:
  head = "<h3>Training images</h3>"
  if not (preview.images or preview.problem):
    return ""
  if preview.problem:
    return f'{head}<p class="note">{escape(preview.problem)}</p>'
  how = f" after {preview.transforms}" if preview.transforms else ""
  return (
    head
    + pictures(preview.images, preview.titles)
    + f'<p class="note">{escape(f"The first images that the base trains on{how}; normalisation undone.")}</p>'
  )


def pictures(images: Sequence[np.ndarray], titles: Sequence[str]) -> str:
  """Renders a grid of uint8 [H, W, 3] images inside the page, each with its title below."""
  return (
    '<div class="images">'
    + "".join(
      f'<figure><img{_small(image.shape)} alt="" src="data:image/png;base64,{_base64(encoded(image))}">'
      f'<figcaption title="{escape(title)}">{escape(title)}</figcaption></figure>'
      for image, title in zip(images, titles)
    )
    + "</div>"
  )


def _base64(content: bytes) -> str:
  return base64.b64encode(content).decode()


def _small(shape: tuple[int, ...]) -> str:
  return ' class="small"' if max(shape[:2]) <= 64 else ""


def _footer(results: Results) -> str:
  version = results.env.get("versions", {}).get("jaxtl", "")
  return (
    f"<footer>Made by <code>jaxtl report</code> from the rows of a run of jaxtl {escape(str(version))}: "
    f"<code>{escape(results.command)}</code>. The same numbers: table.csv, table.tex, report.md; "
    "figures as PNG and SVG next to this page.</footer>"
  )
