"""The figures of a selection study: predictors with their intervals, and the score against the accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import COLORS, INK, MUTED, Figure


def predictors_figure(
  names: Sequence[str],
  taus: Sequence[tuple[float, float, float]],
  *,
  baselines: frozenset[str],
  title: str,
  name: str,
) -> Figure:
  """Draws the weighted tau of each predictor with its interval, best on top.

  Args:
    names: titles of the predictors.
    taus: (estimate, low, high); NaN where there is no interval.
    baselines: the names that do not look at the target's images.
    title: of the figure.
    name: stem of its files.
  """
  with drawing.canvas([0.7 + 0.28 * len(names)], [], shown=[]) as canvas:
    axes = canvas.axes[0]
    for row, (predictor, (tau, low, high)) in enumerate(zip(reversed(names), reversed(taus), strict=True)):
      color = COLORS[3] if predictor in baselines else COLORS[0]
      if not np.isnan(low):
        axes.plot([low, high], [row, row], color=INK, linewidth=1.2)
      axes.plot([tau], [row], marker="s" if predictor in baselines else "o", color=color, markersize=6)
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
    axes.set_yticks(np.arange(len(names)), [drawing.short(text) for text in reversed(names)])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("weighted tau, mean over targets")
    axes.grid(axis="y", visible=False)
  caption = (
    "Squares do not look at the target's images. Lines: 95 % over targets and clusters of checkpoints. "
    "Dotted: a random order."
  )
  return canvas.figure(name, title, caption)


def scatter_figure(
  arms: Sequence[str],
  targets: Sequence[str],
  scores: np.ndarray,
  accuracies: np.ndarray,
  *,
  score: str,
  title: str,
  name: str,
) -> Figure:
  """Draws the deciding score against the measured accuracy, one colour per target.

  Args:
    arms, targets: names of M checkpoints and T targets.
    scores: [T, M]; NaN where there is none.
    accuracies: [T, M] in percent.
    score: title of the score.
    title: of the figure.
    name: stem of its files.
  """
  with drawing.canvas([3.6], targets, shown=targets) as canvas:
    axes = canvas.axes[0]
    for number, target in enumerate(targets):
      axes.scatter(scores[number], accuracies[number], s=30, **canvas.dots(target))
    axes.set_xlabel(score)
    axes.set_ylabel("measured accuracy %")
  caption = f"One point for each of {len(arms)} checkpoints and each target."
  return canvas.figure(name, title, caption)
