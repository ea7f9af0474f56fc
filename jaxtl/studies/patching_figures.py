"""The figures of a patching study: losses along the way, and what one gradient foretells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxtl.studies import drawing
from jaxtl.studies.drawing import COLORS, INK, MARKERS, MUTED, PAPER, Figure
from jaxtl.studies.patching_tables import pairs
from jaxtl.studies.results import Results

_ROLES = {"supported": COLORS[0], "patching": COLORS[3]}


def make_figures(results: Results) -> list[Figure]:
  """All figures that the rows have data for."""
  curves = [figure for arm in results.arms if (figure := losses_along(results, arm))]
  scatter = indicators(results)
  return [*curves, *([scatter] if scatter else [])]


def losses_along(results: Results, arm: str) -> Figure | None:
  """Both losses and their sum over alpha, a panel for each pair of the arm's first seed."""
  found = {(row["supported"], row["patching"]): row for row in reversed(pairs(results, arm))}
  if not found:
    return None
  supported = list(dict.fromkeys(row["supported"] for row in pairs(results, arm)))
  patching = list(dict.fromkeys(row["patching"] for row in pairs(results, arm)))
  roles = ["supported loss", "patching loss", "sum"]
  with drawing.canvas([1.9] * len(patching), roles, shown=roles, columns=len(supported)) as canvas:
    places = [(old, new) for new in patching for old in supported]
    for axes, place in zip(canvas.axes, places):
      if place in found:
        _panel(axes, canvas, found[place])
      else:
        axes.set_axis_off()
      axes.set_title(f"{drawing.short(place[0])} x {drawing.short(place[1])}", fontsize=8.5)
      if place[1] == patching[-1]:
        axes.set_xlabel("α")
  caption = (
    "Validation losses as a share of those before patching, and their sum, less 1. Filled: the points that "
    "the search has evaluated; open: those of the grid of 0.05. The line is the optimised "
    "coefficient."
  )
  return canvas.figure(f"patching_{arm}", f"Losses along the way: {arm}", caption)


def indicators(results: Results) -> Figure | None:
  """Gradient similarity against backward transfer, a panel for each arm, a colour for each supported task."""
  arms = [arm for arm in results.arms if pairs(results, arm)]
  names = list(dict.fromkeys(row["supported"] for row in pairs(results)))
  if len(pairs(results)) < 3:
    return None
  with drawing.canvas([3.4], names, shown=names, columns=len(arms)) as canvas:
    for axes, arm in zip(canvas.axes, arms):
      rows = [row for row in pairs(results, arm) if row["gradient_similarity_defined"]]
      axes.axhline(0, color=MUTED, linewidth=0.8)
      axes.axvline(0, color=MUTED, linewidth=0.8)
      for name in names:
        chosen = [row for row in rows if row["supported"] == name]
        x, y = ([row[key] for row in chosen] for key in ("gradient_similarity", "backward_transfer"))
        axes.scatter(x, y, s=34, **canvas.dots(name))
        for row in chosen:
          place = (row["gradient_similarity"], row["backward_transfer"])
          axes.annotate(
            drawing.short(row["patching"]), place, xytext=(4, 3), textcoords="offset points", fontsize=7
          )
      axes.set_title(drawing.short(arm))
      axes.set_xlabel("gradient similarity at α = 0")
      axes.set_ylabel("backward transfer (loss by distance)")
      axes.margins(0.12)
  caption = (
    "A dot for each pair and seed. Right of 0 the first step towards the fine-tuned weights lowers the "
    "supported loss; above 0 some coefficient does."
  )
  return canvas.figure("indicators", "What one gradient foretells", caption)


def _panel(axes: Axes, canvas: drawing.Canvas, row: Mapping[str, Any]) -> None:
  curve = {key: np.array(values) for key, values in row["curve"].items()}
  searched = curve["searched"].astype(bool)
  shares = {
    "supported loss": curve["supported_loss"] / curve["supported_loss"][0],
    "patching loss": curve["patching_loss"] / curve["patching_loss"][0],
  }
  shares["sum"] = shares["supported loss"] + shares["patching loss"] - 1
  for name, values in shares.items():
    color = canvas.color(name)
    axes.plot(curve["alpha"], values, color=color, linewidth=1.3)
    for chosen, face in ((~searched, PAPER), (searched, color)):
      axes.scatter(
        curve["alpha"][chosen],
        values[chosen],
        s=12,
        marker=MARKERS[list(shares).index(name)],
        facecolor=face,
        edgecolor=color,
        linewidth=0.8,
        zorder=3,
      )
  axes.axvline(row["optimised/alpha"], color=INK, linewidth=1, linestyle="--")
  # A forgotten task can be many times worse; what happens below twice the first loss is what matters.
  axes.set_ylim(
    0, min(max(2.2, float(shares["sum"].min()) + 1), 1.05 * float(max(map(np.max, shares.values()))))
  )
