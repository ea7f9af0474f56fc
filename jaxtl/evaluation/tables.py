"""The numbers of an evaluation as tables: on the terminal, as JSON and CSV, and by class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl import config as config_lib
from jaxtl.config import calls
from jaxtl.errors import printable
from jaxtl.evaluation.evaluate import Evaluation
from jaxtl.report.text_formats import csv_text

_NUM_WORST = 8


@dataclasses.dataclass(frozen=True)
class ClassScores:
  """The scores of one class of the data.

  Attributes:
    number, name: index and name of the class.
    examples: number of its examples.
    top1, top5: the share of examples whose class is first, or among the first five; None without examples.
      top5 is also None if there are five classes or fewer.
    loss, confidence: means of the training loss and of the highest probability; None without examples.
    wrong: the class that its examples are most often mistaken for; None if all are right.
    wrong_share: the share of its examples that are mistaken for it.
  """

  number: int
  name: str
  examples: int
  top1: float | None
  top5: float | None
  loss: float | None
  confidence: float | None
  wrong: str | None
  wrong_share: float | None


@dataclasses.dataclass(frozen=True)
class Mistakes:
  """A class and the indices into `Examples` of its mistakes, most confident first."""

  scores: ClassScores
  indices: np.ndarray


def per_class(result: Evaluation) -> list[ClassScores]:
  """Returns the scores of every class, in the order of the labels."""
  names, examples, confusion = result.labels.classes, result.examples, result.confusion
  counts = confusion.sum(axis=1)
  means = {
    field: np.bincount(examples.label, weights=getattr(examples, field), minlength=len(names))
    / np.maximum(counts, 1)
    for field in ("top1", "top5", "loss", "confidence")
  }
  mistakes = confusion - np.diag(np.diag(confusion))
  found = []
  for number, (name, count) in enumerate(zip(names, counts)):
    mean = {field: float(values[number]) if count else None for field, values in means.items()}
    worst = int(np.argmax(mistakes[number]))
    often = int(mistakes[number, worst])
    found.append(
      ClassScores(
        number,
        name,
        int(count),
        **{**mean, "top5": mean["top5"] if "top5" in result.scores else None},
        wrong=names[worst] if often else None,
        wrong_share=often / int(count) if often else None,
      )
    )
  return found


def worst_classes(
  result: Evaluation, *, num_classes: int = _NUM_WORST, num_images: int = 8
) -> list[Mistakes]:
  """Returns the classes with the lowest top-1, each with its most confident mistakes."""
  wrong = [scores for scores in per_class(result) if scores.wrong is not None]
  examples, found = result.examples, []
  for scores in sorted(wrong, key=lambda scores: (scores.top1, -scores.examples))[:num_classes]:
    indices = np.flatnonzero((examples.label == scores.number) & ~examples.top1)
    order = np.argsort(-examples.confidence[indices], kind="stable")
    found.append(Mistakes(scores, indices[order[:num_images]]))
  return found


def confused_pairs(confusion: np.ndarray) -> list[tuple[int, int, int]]:
  """Returns (true class, predicted class, examples) of all mistakes, most frequent first."""
  mistakes = confusion - np.diag(np.diag(confusion))
  true, predicted = np.nonzero(mistakes)
  counts = mistakes[true, predicted]
  order = np.argsort(-counts, kind="stable")
  return [(int(true[i]), int(predicted[i]), int(counts[i])) for i in order]


def summary(result: Evaluation) -> dict[str, Any]:
  """Returns the content of `scores.json`: the origin of the numbers, and the numbers."""
  weights, labels = result.plan.weights, result.labels
  about: dict[str, Any] = {
    "checkpoint": weights.path,
    "step": weights.config.get("step"),
    "data": result.source.name,
    "num_examples": len(result.examples),
    "num_unreadable": result.num_unreadable,
    "num_classes": len(labels.classes),
    "num_model_classes": labels.num_model_classes,
    "restricted": labels.restricted,
  }
  if labels.restricted:
    model = weights.classes
    about["class_map"] = {name: model[column] for name, column in zip(labels.classes, labels.columns)}
  return about | result.scores | {"transforms": config_lib.plain(list(result.plan.transforms))}


def terminal_table(result: Evaluation) -> str:
  """Formats one aligned line for each number."""
  numbers = {name: shown(name, value) for name, value in result.scores.items()}
  counts = {"num_examples": len(result.examples), "num_classes": len(result.labels.classes)}
  if result.num_unreadable:
    counts["num_unreadable"] = result.num_unreadable
  if result.labels.restricted:
    counts["num_model_classes"] = result.labels.num_model_classes
  cells = {name: str(count) for name, count in counts.items()} | numbers
  texts = {
    "checkpoint": result.plan.weights.path,
    "data": result.source.name,
    "transforms": calls(result.plan.transforms),
  }
  return aligned(texts, cells)


def aligned(texts: Mapping[str, str], cells: Mapping[str, str]) -> str:
  """Formats one aligned line for each text, and below them one for each number, flush right."""
  left, right = max(map(len, [*texts, *cells])), max(map(len, cells.values()))
  lines = [f"{name:{left}}  {printable(text)}" for name, text in texts.items()]
  return "\n".join([*lines, *(f"{name:{left}}  {text:>{right}}" for name, text in cells.items())])


def shown(name: str, value: float) -> str:
  """Formats a score for printing."""
  digits = {"seconds": 2, "images_per_second": 1}.get(name, 4)
  return f"{value:.{digits}f}"


def per_class_csv(result: Evaluation) -> str:
  """Formats a line for each class; values that do not exist without examples are empty."""
  header = ["class", "examples", "top1", "top5", "loss", "confidence", "most_common_wrong", "wrong_share"]
  rows = (dataclasses.astuple(scores)[1:] for scores in per_class(result))
  return csv_text(header, (["" if value is None else value for value in row] for row in rows))


def confusion_csv(result: Evaluation) -> str:
  """Formats counts, with the true class's name first in each line and the predicted classes in the header."""
  names = result.labels.classes
  rows = ([name, *row] for name, row in zip(names, result.confusion.tolist()))
  return csv_text(["true \\ predicted", *names], rows)


def predictions_csv(result: Evaluation) -> str:
  """Formats a line for each readable example."""
  examples, names = result.examples, result.labels.classes
  rows = (
    [row, result.source.file_name(int(row)) or "", names[label], names[predicted], confidence, loss]
    for row, label, predicted, confidence, loss in zip(
      examples.row,
      examples.label,
      examples.predicted,
      examples.confidence.astype(str),  # the shortest text that gives the same float32
      examples.loss.astype(str),
    )
  )
  return csv_text(["row", "file", "label", "predicted", "confidence", "loss"], rows)
