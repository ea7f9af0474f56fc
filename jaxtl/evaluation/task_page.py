"""The files of an evaluation by the measures of a task: numbers, a line for each image, and a page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from jaxtl import config as config_lib
from jaxtl.config import calls
from jaxtl.evaluation import page as classification_page
from jaxtl.evaluation.evaluate import images_at
from jaxtl.evaluation.tables import aligned
from jaxtl.evaluation.task_measures import TaskEvaluation
from jaxtl.report import page
from jaxtl.report.grid import Grid
from jaxtl.report.preview import pixels_of
from jaxtl.report.text_formats import csv_text

_NUM_WORST = 8
_MEANINGS = {
  "loss": "mean of the loss that the model was trained with",
  "seconds": "time of the pass, compilation left out",
  "images_per_second": "reading and preprocessing included",
}


def task_files(result: TaskEvaluation) -> dict[str, str | bytes]:
  """Returns all files by name."""
  return {
    "scores.json": json.dumps(task_summary(result), indent=1) + "\n",
    "examples.csv": examples_csv(result),
    "index.html": task_html(result),
  }


def task_summary(result: TaskEvaluation) -> dict[str, Any]:
  """Returns the content of `scores.json`: the origin of the numbers, and the numbers."""
  weights = result.plan.weights
  about = {
    "checkpoint": weights.path,
    "step": weights.config.get("step"),
    "task": result.plan.task.path,
    "data": result.source.name,
    "num_examples": len(result.losses),
    "num_unreadable": result.num_unreadable,
  }
  return about | result.scores | {"transforms": config_lib.plain(list(result.plan.transforms))}


def task_terminal_table(result: TaskEvaluation) -> str:
  """Formats one aligned line for each number."""
  cells = {"num_examples": str(len(result.losses))}
  if result.num_unreadable:
    cells["num_unreadable"] = str(result.num_unreadable)
  texts = {
    "checkpoint": result.plan.weights.path,
    "task": result.plan.task.path,
    "data": result.source.name,
    "transforms": calls(result.plan.transforms),
  }
  return aligned(texts, cells | {name: f"{value:.5g}" for name, value in result.scores.items()})


def examples_csv(result: TaskEvaluation) -> str:
  """Formats a line with the loss of each readable example."""
  rows = (
    # The shortest text that gives the same float32.
    [row, result.source.file_name(int(row)) or "", loss]
    for row, loss in zip(result.rows, result.losses.astype(str), strict=True)
  )
  return csv_text(["row", "file", "loss"], rows)


def task_html(result: TaskEvaluation) -> str:
  """Makes the page, which has no script, loads nothing, and supports light and dark mode."""
  title = f"Evaluation on {result.source.name}"
  facts = classification_page.facts(result, {"images": f"{len(result.losses):,}"})
  links = {"scores": "Scores", "worst": "Largest losses", "behind": "Behind the numbers"}
  rows = [[name, f"{value:.5g}", _MEANINGS.get(name, "")] for name, value in result.scores.items()]
  parts = [
    page.header("Evaluation", title, _lead(result), facts),
    page.navigation(links),
    '<h2 id="scores">Scores</h2>',
    page.text_table(Grid("Scores", ["measure", "value", "meaning"], rows, words=frozenset({2}))),
    '<h2 id="worst">Largest losses</h2>',
    *_worst(result),
    '<h2 id="behind">Behind the numbers</h2>',
    page.text_table(classification_page.behind(result)),
    "<footer>Made by <code>jaxtl eval</code>. The same numbers are next to this page: scores.json, and "
    "examples.csv with a line for each image.</footer>",
  ]
  return page.document(title, parts)


def _lead(result: TaskEvaluation) -> list[str]:
  said = [f"The mean loss is {result.scores['loss']:.4g} over {len(result.losses):,} images."]
  if result.num_unreadable:
    said.append(f"{result.num_unreadable:,} images could not be read and are left out.")
  return said


def _worst(result: TaskEvaluation) -> list[str]:
  """Shows the images with the largest loss, largest first."""
  order = np.argsort(-result.losses, kind="stable")[:_NUM_WORST]
  rows, transforms = result.rows[order], result.plan.transforms
  pictures = [pixels_of(image, transforms) for image in images_at(result.plan, result.source, rows)]
  titles = [f"row {row}: loss {loss:.4g}" for row, loss in zip(rows, result.losses[order], strict=True)]
  note = "Images are as the network sees them, normalisation undone."
  return [f'<p class="note">{note}</p>', page.pictures(pictures, titles)]
