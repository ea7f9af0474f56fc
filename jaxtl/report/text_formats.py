"""Renders the report as Markdown, CSV and LaTeX; external text is escaped for each."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxtl.errors import printable
from jaxtl.report.grid import Grid
from jaxtl.report.results import Results
from jaxtl.report.section import Caption, Section
from jaxtl.report.table import ABSENT, Column, Table

_FIRST = ("kind", "arm", "seed", "protocol", "target")
# Beginnings of a formula, including the wide forms that some spreadsheets accept.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|Infinity|nan|NaN)", re.ASCII)
_LATEX = {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
  "|": r"\textbar{}",
  "λ": r"$\lambda$",
  "±": r"$\pm$",
  "✓": r"$\checkmark$",
  **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def to_csv(results: Results) -> str:
  """Formats one line for each row of the study: its numbers and texts in full precision, and their origin.

  Mappings become JSON. Class lists are omitted (they are in the cells' `rows.jsonl`). Missing values are
  empty. The last columns are the digest of the config and the command. Texts are escaped as in `csv_text`.
  """
  rows = [{key: value for key, value in row.items() if key != "classes"} for row in results.rows]
  columns = list(dict.fromkeys([*_FIRST, *(key for row in rows for key in row)]))
  header = [*columns, "config_sha256", "command"]
  lines = ([*(_csv_value(row.get(key)) for key in columns), results.digest, results.command] for row in rows)
  return csv_text(header, lines)


def csv_text(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
  """Formats comma-separated values that a spreadsheet displays but does not execute.

  A text that a spreadsheet would take for a formula gets an apostrophe in front. A number is unchanged.
  Control characters are escaped as Python writes them.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerows([_csv_cell(value) for value in row] for row in (header, *rows))
  return text.getvalue()


def _csv_cell(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  is_formula = value.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(value)
  return printable(f"'{value}" if is_formula else value, lines=True)


def to_latex(results: Results, tables: Sequence[tuple[Table, Caption]]) -> str:
  """Renders every table of a section as a booktabs table."""
  head = [
    "% needs \\usepackage{booktabs}",
    f"% config SHA-256 {results.digest}",
    f"% command: {printable(' '.join(results.command.split()))}",
  ]
  return "\n".join([*head, *(_latex_table(table, text) for table, text in tables)]) + "\n"


def to_markdown(
  title: str, lead: Sequence[str], section: Section, behind: Sequence[Grid], *, preview: str
) -> str:
  """Renders the report as one Markdown text.

  Args:
    title: the title of the report.
    lead: the finding, followed by its qualifications.
    section: the study's own part.
    behind: grids that follow the results.
    preview: Markdown text; omitted if it is empty.
  """
  parts = [f"# {markdown(title)}", *(markdown(text) for text in lead)]
  for table, text in section.tables:
    parts += [f"## {markdown(table.title)}", _markdown_table(table), _markdown_caption(text)]
  parts += [text for grid in section.grids for text in _markdown_section(grid)]
  for figure in section.figures:
    alt = markdown(figure.title)
    parts += [f"## {alt}", f"![{alt}]({figure.name}.png)", markdown(figure.caption)]
  if preview:
    parts += ["## Training images", preview]
  parts += [text for grid in behind for text in _markdown_section(grid)]
  return "\n\n".join(parts) + "\n"


def markdown(text: str) -> str:
  """Escapes text that Markdown must show unchanged, also inside a table."""
  text = (
    printable(" ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
  )
  text = re.sub(r"([\\`*\[\]|~#$!])", r"\\\1", text)
  # Inside a word, an underscore has no special meaning.
  return re.sub(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\_", text)


def latex(text: str) -> str:
  """Escapes text that LaTeX must show unchanged."""
  text = "".join(_LATEX.get(sign, sign) for sign in printable(" ".join(str(text).split())))
  return text.replace(r"$\lambda$\_max", r"$\lambda_{\max}$")


def _csv_value(value: Any) -> str:
  if value is None:
    return ""
  return value if isinstance(value, str) else json.dumps(value)


def _markdown_table(table: Table) -> str:
  rows = [[arm, *(_markdown_cell(column, arm) for column in table.columns)] for arm in table.arms]
  # Several groups may share a title, and a pipe table cannot show groups above it.
  names = [f"{c.group}: {c.title}" if _grouped(table) else c.title for c in table.columns]
  return _pipes([table.row, *names], rows, left=1, escaped=rows)


def _markdown_caption(caption: Caption) -> str:
  return " ".join(f"**{markdown(topic)}.** {markdown(text)}" for topic, text in caption)


def _markdown_section(grid: Grid) -> list[str]:
  table = _pipes(grid.header, grid.rows, left=1)
  return [f"## {markdown(grid.title)}", table, *([markdown(grid.note)] if grid.note else [])]


def _pipes(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, escaped: object = None) -> str:
  """Renders a pipe table; escapes only names if the cells are already Markdown."""
  lines = [[markdown(name) for name in header], [":--"] * left + ["--:"] * (len(header) - left)]
  for row in rows:
    lines.append([markdown(row[0]), *(row[1:] if escaped is rows else map(markdown, row[1:]))])
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_cell(column: Column, arm: str) -> str:
  cell = column.cell(arm)
  mean = f"**{cell.mean}**" if column.is_best(arm) else cell.mean
  spread = f" ± {cell.spread}" if cell.spread else ""
  return mean + spread + (f" ({cell.beside})" if cell.beside else "")


def _grouped(table: Table) -> bool:
  """Returns whether some titles differ only by their groups."""
  titles = [column.title for column in table.columns]
  return len(set(titles)) < len(titles)


def _latex_groups(table: Table) -> list[str]:
  """Returns the line above the titles if they need one."""
  if not _grouped(table):
    return []
  groups = [(name, len(list(columns))) for name, columns in itertools.groupby(c.group for c in table.columns)]
  return ["".join(rf" & \multicolumn{{{width}}}{{c}}{{{latex(name)}}}" for name, width in groups) + r" \\"]


def _latex_table(table: Table, caption: Caption) -> str:
  header = " & ".join(["", *(_latex_title(column) for column in table.columns)])
  rows = [
    " & ".join([latex(arm), *(_latex_cell(column, arm) for column in table.columns)]) + r" \\"
    for arm in table.arms
  ]
  text = " ".join(rf"\emph{{{latex(topic)}:}} {latex(said)}" for topic, said in caption)
  return "\n".join(
    [
      r"\begin{table}",
      r"\centering",
      r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
      r"\toprule",
      *_latex_groups(table),
      header + r" \\",
      r"\midrule",
      *rows,
      r"\bottomrule",
      r"\end{tabular}",
      rf"\caption{{{latex(table.title)}. {text}}}",
      r"\end{table}",
    ]
  )


def _latex_title(column: Column) -> str:
  return r"$\lambda_{\max}$" if column.title == "λ_max" else latex(column.title)


def _latex_cell(column: Column, arm: str) -> str:
  cell = column.cell(arm)
  if cell.mean == ABSENT:
    return "--"
  mean = rf"\textbf{{{cell.mean}}}" if column.is_best(arm) else cell.mean
  spread = rf" {{\scriptsize$\pm$ {cell.spread}}}" if cell.spread else ""
  return mean + spread + (rf" {{\tiny ({cell.beside})}}" if cell.beside else "")
