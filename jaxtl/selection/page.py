"""The files of a ranking: rows as JSON and CSV, and one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.measure.transfer_scores import SCORES
from jaxtl.report import canvas as drawing
from jaxtl.report import page
from jaxtl.report.canvas import COLORS, INK, MUTED, Figure
from jaxtl.report.grid import Grid
from jaxtl.report.table import ABSENT
from jaxtl.report.text_formats import csv_text
from jaxtl.selection import tables
from jaxtl.selection.ranking import Place, Ranking
from jaxtl.selection.verdict import qualifications, verdict

# What each ranking leaves open, however sure it is.
LIMITS = (
  "The scores are of training images. How well a weight does on new images of another origin is not in them.",
  "They judge features as they are. After fine-tuning the order may differ: --finetune-budget measures that.",
  "The resamples of the images do not cover the choice of these weights, or of this target.",
)


def files(ranking: Ranking) -> dict[str, str | bytes]:
  """Returns the files by name: `ranking.json`, `ranking.csv`, `index.html` and the figure."""
  drawn = [order_figure(ranking)] if len(ranking.ranked) > 1 else []
  return {
    "ranking.json": json.dumps(tables.ranking_json(ranking), indent=1) + "\n",
    "ranking.csv": ranking_csv(ranking),
    **{f"{figure.name}.png": figure.png for figure in drawn},
    "index.html": to_html(ranking, drawn),
  }


def ranking_csv(ranking: Ranking) -> str:
  """Formats one line per weight, with every score in full precision; what is left out is empty."""
  rows = tables.ranking_json(ranking)["rows"]
  plain = [key for key, value in rows[0].items() if not isinstance(value, Mapping)]
  names = [name for name in SCORES if any(name in row["scores"] for row in rows)]
  lines = [
    [
      *(_cell(row[key]) for key in plain),
      *(_cell(row["scores"].get(name, {}).get("value")) for name in names),
    ]
    for row in rows
  ]
  return csv_text([*plain, *names], lines)


def _cell(value: Any) -> Any:
  return "" if value is None else value


def to_html(ranking: Ranking, drawn: list[Figure]) -> str:
  """Makes the page, which has no script, loads nothing, and supports light and dark mode."""
  title = f"Weights for {ranking.target['target']}"
  links = {"order": "Order", "scores": "Scores", "behind": "Behind the numbers"}
  grids = [tables.order_grid(ranking), tables.score_grid(ranking)]
  tuned = ['<h2 id="tuned">Fine-tuned</h2>', page.text_table(tables.tuned_grid(ranking))]
  names = [name for name in SCORES if any(name in place.row["scores"] for place in ranking.places)]
  left_out = tables.left_out_lines(ranking)
  parts = [
    page.header("Choice of a weight", title, [verdict(ranking), *qualifications(ranking)], _facts(ranking)),
    page.navigation(links if not ranking.tuned else {"order": "Order", "tuned": "Fine-tuned"} | links),
    '<h2 id="order">Order</h2>',
    page.text_table(grids[0]),
    *map(page.figure, drawn),
    *(tuned if ranking.tuned else []),
    '<h2 id="scores">Scores</h2>',
    page.text_table(grids[1]),
    *(f'<p class="note">{page.escape(line)}.</p>' for line in left_out),
    "<h3>What the scores are</h3>",
    page.text_table(tables.meaning_grid(names)),
    "<h3>What this does not say</h3>",
    *(f"<p>{page.escape(line)}</p>" for line in LIMITS),
    '<h2 id="behind">Behind the numbers</h2>',
    page.text_table(_weights(ranking)),
    page.text_table(_target(ranking)),
    "<footer>Made by <code>jaxtl rank</code>. The same numbers are next to this page: ranking.json, and "
    "ranking.csv with one line per weight.</footer>",
  ]
  return page.document(title, parts)


def _facts(ranking: Ranking) -> dict[str, str]:
  return {
    "weights": str(len(ranking.places)),
    "images": f"{ranking.places[0].row['num_images']:,}",
    "classes": str(ranking.places[0].row["num_classes"]),
    "order by": SCORES[ranking.by].title,
    "resamples": f"{ranking.draws:,}",
  }


def _weights(ranking: Ranking) -> Grid:
  rows = [
    [
      place.name,
      str(place.row["architecture"]),
      str(place.row["image_size"]),
      str(place.row["features"]),
      str(place.row["head_classes"] or ABSENT),
      str(place.row["source_accuracy_from"] or ABSENT),
      str(place.row["digest"]),
      str(place.row["path"]),
      str(place.row["preprocessing"]),
    ]
    for place in ranking.places
  ]
  header = [
    *("weight", "architecture", "pixels", "D", "own classes"),
    *("source accuracy from", "digest", "path", "preprocessing"),
  ]
  return Grid("Weights", header, rows, words=frozenset({1, 5, 6, 7, 8}))


def _target(ranking: Ranking) -> Grid:
  target = ranking.target
  missing = target["classes_without_images"]
  rows = [
    ["target", str(target["target"])],
    ["split", str(target["split"])],
    ["images used", str(target["source"])],
    ["seed of folds and resamples", str(target["seed"])],
    ["classes with one image", str(target["classes_of_one_image"])],
    ["classes without images, left out", ", ".join(map(str, missing[:20])) or "none"],
  ]
  return Grid("Target", ["", ""], rows, words=frozenset({1}))


def order_figure(ranking: Ranking) -> Figure:
  """Draws the deciding score of each weight with its interval, best on top, controls as lines."""
  places = ranking.ranked
  scale = 100 if SCORES[ranking.by].accuracy else 1
  with drawing.canvas([0.6 + 0.32 * len(places)], [], shown=[]) as canvas:
    axes = canvas.axes[0]
    for row, place in enumerate(reversed(places)):
      _bar(axes, row, place, scale)
    for control in ranking.controls:
      value = control["scores"].get(ranking.by, {}).get("value")
      if value is not None:
        axes.axvline(scale * value, color=MUTED, linewidth=1, linestyle=":")
    axes.set_yticks(np.arange(len(places)), [drawing.short(place.name) for place in reversed(places)])
    axes.set_ylim(-0.5, len(places) - 0.5)
    axes.set_xlabel(SCORES[ranking.by].title + (" (% of the images)" if scale == 100 else ""))
    axes.grid(axis="y", visible=False)
  dotted = " Dotted: controls without learned features." if ranking.controls else ""
  spread = "Lines: 95 % of the resamples of the images." if ranking.draws else "There is no interval."
  return canvas.figure("order", "The deciding score", f"{spread}{dotted}")


def _bar(axes: Any, row: int, place: Place, scale: float) -> None:
  value = scale * float(place.value or 0.0)
  if place.low is not None and place.high is not None:
    axes.plot([scale * place.low, scale * place.high], [row, row], color=INK, linewidth=1.4)
  axes.plot([value], [row], marker="o", color=COLORS[0], markersize=6)
