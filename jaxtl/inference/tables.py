"""Predictions as text: on the terminal, as JSON and as CSV."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtl.data.class_names import display_name
from jaxtl.errors import printable

_MOST_LINES = 120  # lines on the terminal up to which every image shows all of its classes


class Ranked(NamedTuple):
  """The best classes of one image, most probable first."""

  name: str
  best: Sequence[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Predictions:
  """The predictions for a list of images.

  Attributes:
    checkpoint: the step that was loaded.
    model: the call that makes the network.
    transforms: the preprocessing.
    image_shape: (height, width) that the network sees.
    num_classes: the number of classes.
    images: the predictions, in order.
    unreadable: one line per image that is left out.
  """

  checkpoint: str
  model: str
  transforms: str
  image_shape: tuple[int, int]
  num_classes: int
  images: Sequence[Ranked]
  unreadable: Sequence[str] = ()


def terminal_text(found: Predictions) -> str:
  """Formats each image with its classes below it; of a long list, one line per image with its first class."""
  if sum(1 + len(image.best) for image in found.images) > _MOST_LINES:
    firsts = [(printable(image.name), *_cells(*image.best[0])) for image in found.images]
    widths = [max(len(row[column]) for row in firsts) for column in range(3)]
    return "\n".join(
      f"{name:{widths[0]}}  {label:{widths[1]}}  {share:>{widths[2]}}" for name, label, share in firsts
    )
  cells = [[_cells(*entry) for entry in image.best] for image in found.images]
  width = max(len(label) for rows in cells for label, _ in rows)
  lines = []
  for image, rows in zip(found.images, cells):
    lines += [printable(image.name), *(f"  {label:{width}}  {share:>6}" for label, share in rows)]
  return "\n".join(lines)


def to_json(found: Predictions) -> str:
  """Formats the predictions, and what made them, as one JSON object."""
  about: dict[str, Any] = {
    "checkpoint": found.checkpoint,
    "model": found.model,
    "preprocessing": found.transforms,
    "images": [
      {
        "file": image.name,
        "predictions": [{"class": name, "probability": probability} for name, probability in image.best],
      }
      for image in found.images
    ],
    "unreadable": list(found.unreadable),
  }
  return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


def to_csv(found: Predictions) -> str:
  """Formats one line per image and class: file, rank from 1, class, probability."""
  from jaxtl.report.text_formats import csv_text  # imports matplotlib, which other outputs do without

  rows = (
    [image.name, rank, name, probability]
    for image in found.images
    for rank, (name, probability) in enumerate(image.best, start=1)
  )
  return csv_text(["file", "rank", "class", "probability"], rows)


def _cells(name: str, probability: float) -> tuple[str, str]:
  return printable(display_name(name)), f"{probability:.1%}"
