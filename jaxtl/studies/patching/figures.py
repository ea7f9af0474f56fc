"""The figures of a patching study: losses along the path, and how well one gradient predicts transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import INK, MUTED, PAPER, Figure
from jaxtl.report.results import Results
from jaxtl.studies.patching.tables import pairs

# The coefficients that an accuracy curve marks: name in the legend -> name in a row.
MARKED = {"before": "zero_shot", "optimised": "optimised", "fine-tuned": "fine_tuned"}
ROLES = ("supported loss", "patching loss", "sum")


def make_figures(results: Results) -> list[Figure]:
  """Makes all figures for which the rows have data."""
  kinds = (losses_along, accuracies_along)
  curves = [figure for arm in results.arms for kind in kinds if (figure := kind(results, arm))]
  scatter = indicators(results)
  return [*curves, *([scatter] if scatter else [])]


def losses_along(results: Results, arm: str) -> Figure | None:
  """Draws both losses and their sum over alpha, in a panel for each pair of the arm's first seed."""
  canvas = _panels(results, arm, ROLES, draw_losses, xlabel="α")
  if canvas is None:
    return None
  caption = (
    "Validation losses, and, as a wide pale line below them, the sum that the search makes small, each as a "
    "share of what it is before patching. Filled: the points that the search has evaluated; open: those of "
    "the grid of 0.05 and of the search that starts from it. The dashed line is the optimised coefficient, a "
    "diamond the sum there."
  )
  return canvas.figure(f"patching_{arm}", f"Losses along the way: {arm}", caption)


def accuracies_along(results: Results, arm: str) -> Figure | None:
  """Draws patching accuracy over supported accuracy, along alpha, in a panel for each pair.

  The curve of Wortsman et al., "Robust fine-tuning of zero-shot models", 2021, arXiv 2109.01903.
  """
  canvas = _panels(results, arm, tuple(MARKED), _accuracy_panel, xlabel="supported, %", ylabel="patching, %")
  if canvas is None:
    return None
  caption = (
    "Validation accuracies in per cent along the way: supported to the right, patching upwards. Dots are the "
    "points that were evaluated, joined in the order of α (Wortsman et al., arXiv 2109.01903). A curve that "
    "bulges to the upper right has points that are better on both tasks together than a mean of its ends."
  )
  return canvas.figure(f"patching_accuracy_{arm}", f"Accuracies along the way: {arm}", caption)


def indicators(results: Results) -> Figure | None:
  """Draws gradient similarity against backward transfer, in a panel for each arm.

  Each supported task has a colour, and each patching task has a shape.
  """
  arms = [arm for arm in results.arms if pairs(results, arm)]
  names = list(dict.fromkeys(row["supported"] for row in pairs(results)))
  if len(pairs(results)) < 3:
    return None
  shapes = list(dict.fromkeys(row["patching"] for row in pairs(results)))
  with drawing.canvas([3.4], names, shown=names, shapes=shapes, columns=len(arms)) as canvas:
    for axes, arm in zip(canvas.axes, arms):
      rows = [row for row in pairs(results, arm) if row["gradient_similarity_defined"]]
      axes.axhline(0, color=MUTED, linewidth=0.8)
      axes.axvline(0, color=MUTED, linewidth=0.8)
      for row in rows:
        style: Any = dict(color=canvas.color(row["supported"]), marker=canvas.shape(row["patching"]))
        place = row["gradient_similarity"], row["backward_transfer"]
        # Transparent dots with a pale edge stay visible where they nearly coincide.
        axes.scatter(*place, s=46, alpha=0.8, edgecolor=PAPER, linewidth=0.6, zorder=3, **style)
      axes.set_title(drawing.short(arm))
      axes.set_xlabel("gradient similarity at α = 0")
      axes.set_ylabel("backward transfer (loss by distance)")
      axes.margins(0.12)
  caption = (
    "A dot for each pair and seed: the colour is the supported task, the shape the patching task. Right of 0 "
    "the first step towards the fine-tuned weights lowers the supported loss; above 0 some coefficient does."
  )
  return canvas.figure("indicators", "What one gradient predicts", caption)


def _panels(
  results: Results,
  arm: str,
  names: Sequence[str],
  draw: Callable[..., None],
  *,
  xlabel: str,
  ylabel: str = "",
) -> drawing.Canvas | None:
  """Draws a panel for each pair of the arm's first seed: patching tasks downwards, supported ones across."""
  rows = pairs(results, arm)
  found = {(row["supported"], row["patching"]): row for row in reversed(rows)}
  if not found:
    return None
  supported = list(dict.fromkeys(row["supported"] for row in rows))
  patching = list(dict.fromkeys(row["patching"] for row in rows))
  heights = [1.9] * len(patching)
  with drawing.canvas(heights, names, shown=names, columns=len(supported)) as canvas:
    places = [(old, new) for new in patching for old in supported]
    for axes, place in zip(canvas.axes, places):
      if place in found:
        draw(axes, canvas, found[place])
      else:
        axes.set_axis_off()
      axes.set_title(f"{drawing.short(place[0])} x {drawing.short(place[1])}", fontsize=8.5)
      if place[1] == patching[-1]:
        axes.set_xlabel(xlabel)
      if place[0] == supported[0]:
        axes.set_ylabel(ylabel)
  return canvas


def _accuracy_panel(axes: Axes, canvas: drawing.Canvas, row: Mapping[str, Any]) -> None:
  curve = [100 * np.array(row["curve"][f"{role}_top1"]) for role in ("supported", "patching")]
  axes.plot(*curve, color=MUTED, linewidth=1.2, marker="o", markersize=2.5, zorder=2)
  for label, name in MARKED.items():
    place = [100 * row[f"{name}/validation_{role}_top1"] for role in ("supported", "patching")]
    # Drawn smaller and above the ends, so that both are visible if the optimum is an end.
    size, order = (5.5, 5) if name == "optimised" else (8, 4)
    axes.plot(*place, linestyle="none", markersize=size, zorder=order, **canvas.marker(label))
  axes.margins(0.12)


def draw_losses(axes: Axes, canvas: drawing.Canvas, row: Mapping[str, Any]) -> None:
  """Draws the losses of one pair and their sum, relative to those before patching.

  Args:
    axes, canvas: where; the canvas has the arms `ROLES`.
    row: has `curve` and `optimised/alpha`, as in `pairs.pair_row`.
  """
  curve = {key: np.array(values) for key, values in row["curve"].items()}
  searched = curve["searched"].astype(bool)
  first = np.argmin(np.abs(curve["alpha"]))  # alpha = 0; there may be points below it
  shares = {
    "supported loss": _relative(curve["supported_loss"], first),
    "patching loss": _relative(curve["patching_loss"], first),
  }
  # The arm's own objective: losses with another normalisation have their minimum elsewhere.
  total = _relative(curve["objective"], first)
  # Wide, pale and below the others, so that both are visible where the sum and a loss nearly coincide.
  axes.plot(curve["alpha"], total, color=canvas.color("sum"), linewidth=5, alpha=0.4, zorder=1.5)
  for name, values in shares.items():
    color = canvas.color(name)
    axes.plot(curve["alpha"], values, color=color, linewidth=1.2)
    for chosen, face in ((~searched, PAPER), (searched, color)):
      axes.scatter(
        curve["alpha"][chosen],
        values[chosen],
        s=12,
        marker=canvas.shape(name),
        facecolor=face,
        edgecolor=color,
        linewidth=0.8,
        zorder=3,
      )
  best = np.argmin(np.abs(curve["alpha"] - row["optimised/alpha"]))
  axes.plot(curve["alpha"][best], total[best], markersize=7, zorder=4, **canvas.marker("sum"))
  axes.axvline(row["optimised/alpha"], color=INK, linewidth=1, linestyle="--")
  # The loss of a forgotten task can be many times larger, but the range below twice the first loss is what
  # matters.
  drawn = [values for values in (total, *shares.values()) if np.isfinite(values).all()]
  highest = max((float(values.max()) for values in drawn), default=1.0)
  lowest = float(total.min()) if np.isfinite(total).all() else 0.0
  axes.set_ylim(0, min(max(2.2, lowest + 1), 1.05 * highest))


def _relative(values: np.ndarray, first: np.intp) -> np.ndarray:
  """Divides values by the one at index `first`; NaN, which is not drawn, if that one is 0."""
  return values / values[first] if values[first] else np.full(len(values), np.nan)
