"""The figures of an evaluation: confusion matrix, reliability diagram, gallery of mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection

from jaxtl import data as data_lib
from jaxtl import metrics
from jaxtl.data.class_names import display_name
from jaxtl.evaluation.evaluate import Evaluation, images_at
from jaxtl.evaluation.tables import Mistakes, confused_pairs
from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import COLORS, INK, MUTED, PAPER, Figure
from jaxtl.report.preview import pixels_of

_MOST_NAMED = 30  # classes whose names fit next to a matrix
_MOST_WRITTEN = 12  # classes up to which every cell shows its percentage
_MOST_CELLS = 250  # cells per side that can be distinguished
_MOST_DRAWN = 2500  # cells that are drawn individually, in the page's colours; more are drawn as one image
# One colour from transparent to opaque, which suits light and dark backgrounds.
_SHADES = colors.LinearSegmentedColormap.from_list(
  "share", [colors.to_rgba(COLORS[0], 0.0), colors.to_rgba(COLORS[0], 1.0)]
)


def confusion_figure(result: Evaluation) -> Figure:
  """Draws the confusion matrix, with each row divided by its number of examples.

  With more than 30 classes it has no names, and a second matrix shows the 30 most often confused classes.
  """
  counts, names = result.confusion, [display_name(name) for name in result.labels.classes]
  caption = "Each row shows where the examples of one true class went, as a share of the row."
  size = len(names)
  if size <= _MOST_NAMED:
    with drawing.canvas([2.2 + 0.45 * size**0.75], (), shown=()) as canvas:
      _matrix(canvas.axes[0], _shares(counts), names, written=size <= _MOST_WRITTEN)
  else:
    block = -(-size // _MOST_CELLS)
    chosen = most_confused(counts, _MOST_NAMED)
    with drawing.canvas([4.6], (), shown=(), columns=2) as canvas:
      _matrix(canvas.axes[0], _shares(_in_blocks(counts, block)), (), written=False)
      part = _shares(counts)[np.ix_(chosen, chosen)]
      _matrix(canvas.axes[1], part, [names[number] for number in chosen], written=False)
      canvas.axes[0].set_title(f"all {size} classes, in the order of their labels")
      canvas.axes[1].set_title(f"the {len(chosen)} classes that are most often confused")
    caption += f" On the left, {block} neighbouring classes share a cell." if block > 1 else ""
    caption += " On the right, what goes to classes that are not shown is left out."
  return canvas.figure("confusion", "Confusion matrix", caption)


def most_confused(counts: np.ndarray, number: int) -> list[int]:
  """Returns the classes of the most frequent mistakes, in the order of their labels.

  Args:
    counts: [K, K] confusion matrix.
    number: maximum number of classes.
  """
  chosen: dict[int, None] = {}
  for true, predicted, _ in confused_pairs(counts):
    if len(chosen.keys() | {true, predicted}) <= number:
      chosen |= {true: None, predicted: None}
  return sorted(chosen) or list(range(min(number, len(counts))))


def _shares(counts: np.ndarray) -> np.ndarray:
  """Divides each row by its sum; NaN for a class without examples."""
  total = counts.sum(axis=1, keepdims=True)
  return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


def _in_blocks(counts: np.ndarray, block: int) -> np.ndarray:
  starts = np.arange(0, len(counts), block)
  return np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)


def _matrix(axes: Axes, shares: np.ndarray, names: Sequence[str], *, written: bool) -> None:
  size = len(shares)
  # The square root makes single mistakes, of a few per cent, visible.
  norm = colors.Normalize(0, 1) if written else colors.PowerNorm(0.5, 0, 1)
  image: ScalarMappable
  rows, columns = np.nonzero(shares > 0)
  if len(rows) <= _MOST_DRAWN:
    cells = np.stack([columns, rows], axis=-1)[:, None] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    image = PolyCollection(
      cells, array=shares[rows, columns], cmap=_SHADES, norm=norm, linewidth=0, antialiased=False
    )
    axes.add_collection(image)
    axes.set(xlim=(0, size), ylim=(size, 0))
  else:
    image = axes.imshow(np.nan_to_num(shares), cmap=_SHADES, norm=norm, interpolation="nearest")
  if names:
    font = 9.0 if size <= _MOST_WRITTEN else 6.5
    texts = [drawing.short(name) for name in names]
    axes.set_xticks(np.arange(size) + 0.5, texts, rotation=90 if size > 6 else 0, fontsize=font)
    axes.set_yticks(np.arange(size) + 0.5, texts, fontsize=font)
  else:
    axes.set_xticks([])
    axes.set_yticks([])
  axes.set_aspect("equal")
  axes.tick_params(length=0)
  axes.grid(visible=False)
  axes.spines[:].set_visible(True)
  axes.set_xlabel("predicted class")
  axes.set_ylabel("true class")
  if written:
    _write_cells(axes, shares)
  else:
    edges = np.linspace(0, 1, 11) ** 2
    bar = axes.figure.colorbar(image, ax=axes, boundaries=edges, ticks=[0, 0.09, 0.25, 0.49, 1], shrink=0.55)
    bar.ax.set_yticklabels(["0", "9%", "25%", "49%", "100%"], fontsize=7)
    bar.outline.set_visible(False)


def _write_cells(axes: Axes, shares: np.ndarray) -> None:
  for (row, column), share in np.ndenumerate(shares):
    if share >= 0.005:
      color = PAPER if share > 0.55 else INK
      text = f"{share:.0%}".rstrip("%" if len(shares) > 6 else "")
      axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color, fontsize=8.5)


def reliability_figure(result: Evaluation) -> Figure:
  """Draws accuracy against confidence in 15 bins, and the distribution of confidences.

  Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599, figure 1.
  """
  examples = result.examples
  bins = metrics.confidence_bins(examples.confidence, examples.top1)
  width = 1 / len(bins.counts)
  middle = (np.arange(len(bins.counts)) + 0.5) * width
  there = bins.counts > 0
  x, accuracy, confidence = middle[there], bins.accuracy[there], bins.confidence[there]
  with drawing.canvas([4.2], (), shown=(), columns=2) as canvas:
    left, right = canvas.axes
    left.bar(x, accuracy, width * 0.92, color=COLORS[0], linewidth=0, label="accuracy")
    for name, gap, bottom, color in (
      ("overconfident by", confidence - accuracy, accuracy, COLORS[1]),
      ("underconfident by", accuracy - confidence, confidence, COLORS[5]),
    ):
      left.bar(x, np.maximum(gap, 0), width * 0.92, bottom=bottom, color=color, linewidth=0, label=name)
    left.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.2, label="calibrated", zorder=4)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share correct")
    left.set_title(f"expected calibration error {result.scores['ece']:.4f}")
    left.legend(loc="upper left")
    right.bar(middle, bins.counts / bins.counts.sum(), width * 0.92, color=COLORS[0], linewidth=0)
    lines = (
      ("mean confidence", float(np.mean(examples.confidence, dtype=np.float64)), COLORS[3], "-"),
      ("accuracy", result.scores["top1"], INK, "--"),
    )
    for name, value, color, style in lines:
      right.axvline(value, color=color, linestyle=style, linewidth=1.6, label=f"{name} {value:.1%}")
    right.set(xlim=(0, 1), xlabel="confidence", ylabel="share of the images")
    right.set_title("distribution of the confidences")
    right.legend(loc="best")
  caption = (
    "Left: images in 15 bins of their confidence; a calibrated model lies on the dashed line. Bins with few "
    "images say little: the right panel shows the share of images in each."
  )
  return canvas.figure("reliability", "Reliability", caption)


def mistakes_images(result: Evaluation, worst: Sequence[Mistakes]) -> list[list[np.ndarray]]:
  """Returns for each class its mistakes as pictures, uint8 [h, w, 3]."""
  indices = np.concatenate([mistakes.indices for mistakes in worst]) if worst else np.zeros(0, int)
  rows = result.examples.row[indices]
  transforms = result.plan.transforms
  images = images_at(result.plan, result.source, rows) if len(rows) else []
  pictures = iter([pixels_of(image, transforms) for image in images])
  return [[next(pictures) for _ in mistakes.indices] for mistakes in worst]


def mistakes_titles(result: Evaluation, mistakes: Mistakes) -> list[str]:
  """Returns the predicted class and the confidence of each mistake, in two lines."""
  names, examples = result.labels.classes, result.examples
  return [
    f"{display_name(names[examples.predicted[i]])}\n{examples.confidence[i]:.1%}" for i in mistakes.indices
  ]


def mistakes_heading(mistakes: Mistakes) -> str:
  """Returns the class with its accuracy."""
  scores = mistakes.scores
  right = round((scores.top1 or 0) * scores.examples)
  return f"{display_name(scores.name)}: {right} of {scores.examples} right ({scores.top1:.1%})"


def gallery(
  result: Evaluation, worst: Sequence[Mistakes], pictures: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
  """Draws the mistakes as one picture, uint8 [H, W, 3], with a row for each class."""
  groups = [
    (mistakes_heading(mistakes), images, mistakes_titles(result, mistakes))
    for mistakes, images in zip(worst, pictures)
  ]
  return np.asarray(data_lib.gallery(groups))
