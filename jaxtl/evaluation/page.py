"""The files of an evaluation: numbers, tables, figures, and one self-contained page that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.config import call, calls
from jaxtl.data.class_names import display_name
from jaxtl.evaluation import figures, tables
from jaxtl.evaluation.evaluate import Evaluation
from jaxtl.evaluation.tables import ClassScores, Mistakes, shown
from jaxtl.evaluation.task_measures import TaskEvaluation
from jaxtl.report import page
from jaxtl.report.canvas import Figure
from jaxtl.report.grid import Grid
from jaxtl.report.preview import encoded
from jaxtl.report.table import ABSENT

_MEANINGS = {
  "top1": "share of the images whose true class is first, ahead of every other",
  "top5": "share of the images whose true class is among the first five",
  "top1_all": "the same as top1, among all of the model's classes instead of the data's only",
  "balanced_accuracy": "mean over classes of top1, so that rare classes count as much as frequent ones",
  "loss": "mean of the loss that the model was trained with",
  "cross_entropy": "mean in nats, comparable between losses",
  "ece": "expected calibration error: mean distance of accuracy from confidence, in 15 bins",
  "seconds": "time of the pass, compilation left out",
  "images_per_second": "reading and preprocessing included",
}
_NUM_PAIRS = 20


def files(result: Evaluation) -> dict[str, str | bytes]:
  """Returns all files by name; `worst_classes.png` is omitted if there are no mistakes."""
  drawn = [figures.reliability_figure(result), figures.confusion_figure(result)]
  worst = tables.worst_classes(result)
  images = figures.mistakes_images(result, worst)
  found: dict[str, str | bytes] = {
    "scores.json": json.dumps(tables.summary(result), indent=1) + "\n",
    "per_class.csv": tables.per_class_csv(result),
    "confusion.csv": tables.confusion_csv(result),
    "predictions.csv": tables.predictions_csv(result),
    **{f"{figure.name}.png": figure.png for figure in drawn},
  }
  if worst:
    found["worst_classes.png"] = encoded(figures.gallery(result, worst, images))
  found["index.html"] = to_html(result, drawn, worst, images)
  return found


def to_html(
  result: Evaluation,
  drawn: Sequence[Figure],
  worst: Sequence[Mistakes],
  images: Sequence[Sequence[np.ndarray]],
) -> str:
  """Makes the page, which has no script, loads nothing, and supports light and dark mode."""
  title = f"Evaluation on {result.source.name}"
  links = {"scores": "Scores", "figures": "Figures", "mistakes": "Mistakes", "classes": "Classes"}
  by_class = tables.per_class(result)
  pairs = _pairs(result)
  parts = [
    page.header("Evaluation", title, _lead(result, by_class), _facts(result)),
    page.navigation({**links, "behind": "Behind the numbers"}),
    '<h2 id="scores">Scores</h2>',
    page.text_table(_scores(result)),
    '<h2 id="figures">Figures</h2>',
    *map(page.figure, drawn),
    '<h2 id="mistakes">Mistakes</h2>',
    *([page.text_table(pairs)] if pairs.rows else ['<p class="note">There are none.</p>']),
    *_gallery(result, worst, images),
    '<h2 id="classes">Classes</h2>',
    page.text_table(_classes(result, by_class)),
    '<h2 id="behind">Behind the numbers</h2>',
    page.text_table(behind(result)),
    *_class_map(result),
    "<footer>Made by <code>jaxtl eval</code>. The same numbers are next to this page: scores.json, "
    "per_class.csv, confusion.csv, and predictions.csv with a line for each image.</footer>",
  ]
  return page.document(title, parts)


def _lead(result: Evaluation, by_class: Sequence[ClassScores]) -> list[str]:
  """Returns the main finding, followed by its qualifications."""
  scores, labels = result.scores, result.labels
  top5 = f", and among the first five for {scores['top5']:.1%}" if "top5" in scores else ""
  said = [f"The true class comes first for {scores['top1']:.1%} of {len(result.examples):,} images{top5}."]
  if labels.restricted:
    said.append(
      f"The model chooses among the data's {len(labels.classes):,} classes only; among all of its "
      f"{labels.num_model_classes:,}, the true class comes first for {scores['top1_all']:.1%}."
    )
  confidence = float(np.mean(result.examples.confidence, dtype=np.float64))
  more = "above" if confidence >= scores["top1"] else "below"
  said.append(
    f"Its mean confidence is {confidence:.1%}, {100 * abs(confidence - scores['top1']):.1f} points {more} "
    f"its accuracy; the expected calibration error is {scores['ece']:.4f}."
  )
  wrong = sorted((c for c in by_class if c.wrong is not None), key=lambda c: (c.top1, -c.examples))
  if wrong:
    first = wrong[0]
    said.append(
      f"The hardest class is {display_name(first.name)!r}: {first.top1:.1%} of its {first.examples:,} images "
      f"are right; it is most often taken for {display_name(first.wrong or '')!r}."
    )
  if result.num_unreadable:
    said.append(f"{result.num_unreadable:,} images could not be read and are left out.")
  return said


def _facts(result: Evaluation) -> dict[str, str]:
  return facts(result, {"images": f"{len(result.examples):,}", "classes": f"{len(result.labels.classes):,}"})


def facts(result: Evaluation | TaskEvaluation, counts: Mapping[str, str]) -> dict[str, str]:
  """Returns the facts at the head of a page: the counts, and how they were evaluated."""
  return {
    **counts,
    "image size": " x ".join(map(str, result.plan.image_shape)),
    "images per second": f"{result.scores['images_per_second']:,.0f}",
    "data": {"synthetic": "synthetic", "real": "real"}.get(result.source.kind, ABSENT),
    "step": str(result.plan.weights.config.get("step", ABSENT)),
  }


def _scores(result: Evaluation) -> Grid:
  rows = [[name, shown(name, value), _MEANINGS[name]] for name, value in result.scores.items()]
  return Grid("Scores", ["measure", "value", "meaning"], rows, words=frozenset({2}))


def _pairs(result: Evaluation) -> Grid:
  """Returns a table of the most frequent mistakes."""
  counts, names = result.confusion, [display_name(name) for name in result.labels.classes]
  pairs = tables.confused_pairs(counts)
  total = counts.sum(axis=1)
  rows = [
    [names[true], names[predicted], f"{count:,}", f"{count / total[true]:.1%}"]
    for true, predicted, count in pairs[:_NUM_PAIRS]
  ]
  shown_of = f"The {len(rows)} most frequent of {len(pairs):,}. " if len(pairs) > len(rows) else ""
  note = f"{shown_of}The share is of the true class's images."
  header = ["true class", "taken for", "images", "share"]
  return Grid("The most frequent mistakes", header, rows, note, words=frozenset({1}))


def _gallery(
  result: Evaluation, worst: Sequence[Mistakes], images: Sequence[Sequence[np.ndarray]]
) -> list[str]:
  if not worst:
    return []
  parts = [
    "<h3>The worst classes</h3>",
    f'<p class="note">The {len(worst)} classes with the lowest top-1, each with its most confident mistakes: '
    "what the image was taken for, and with which confidence. Images are as the network sees them, "
    "normalisation undone.</p>",
  ]
  for mistakes, pictures in zip(worst, images):
    titles = [" ".join(title.split("\n")) for title in figures.mistakes_titles(result, mistakes)]
    parts += [f"<h3>{page.escape(figures.mistakes_heading(mistakes))}</h3>", page.pictures(pictures, titles)]
  return parts


def _classes(result: Evaluation, by_class: Sequence[ClassScores]) -> Grid:
  header = ["class", "images", "top-1", "top-5", "loss", "confidence", "most often taken for", "share"]
  rows = [
    [
      c.name,
      f"{c.examples:,}",
      *(_percent(value) for value in (c.top1, c.top5)),
      ABSENT if c.loss is None else f"{c.loss:.3f}",
      _percent(c.confidence),
      ABSENT if c.wrong is None else display_name(c.wrong),
      _percent(c.wrong_share),
    ]
    for c in by_class
  ]
  keep = [i for i, name in enumerate(header) if name != "top-5" or "top5" in result.scores]
  rows = [[row[i] for i in keep] for row in rows]
  words = frozenset({keep.index(6)})
  return Grid("Every class", [header[i] for i in keep], rows, words=words)


def _percent(value: float | None) -> str:
  return ABSENT if value is None else f"{value:.1%}"


def behind(result: Evaluation | TaskEvaluation) -> Grid:
  """Makes a table of the checkpoint, its model and task, the data and their preprocessing."""
  weights = result.plan.weights
  rows: list[Any] = [
    ["checkpoint", weights.path],
    ["model", call(weights.config["model"])],
    ["task", call(weights.config["task"])],
    ["data", result.source.name],
    ["preprocessing", calls(result.plan.transforms)],
  ]
  return Grid("Behind the numbers", ["", ""], rows, words=frozenset({1}))


def _class_map(result: Evaluation) -> list[str]:
  if not result.labels.restricted:
    return []
  model = result.plan.weights.classes
  rows = [[name, model[column]] for name, column in zip(result.labels.classes, result.labels.columns)]
  grid = Grid(
    "Classes of the data and of the model", ["of the data", "of the model"], rows, words=frozenset({1})
  )
  return [f"<h3>{grid.title}</h3>", page.text_table(grid)]
