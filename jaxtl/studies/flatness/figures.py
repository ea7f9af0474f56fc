"""The figures of a flatness study: the density of eigenvalues, and the loss along lines and over planes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import INK, MUTED, Figure
from jaxtl.report.results import Results
from jaxtl.studies.flatness.tables import LOSSES

_DIRECTIONS = {
  "random": "random, filter-normalised",
  "eigenvector": "eigenvector of λ_max (distance)",
  "towards": "towards the other checkpoint",
}
_POINTS = 400  # points per density curve
_LEVELS = 12
_ACROSS = 3  # planes per row


def make_figures(results: Results) -> list[Figure]:
  """Makes all figures for which the rows have data."""
  made = [densities(results), slices(results), *(planes(results, loss) for loss in LOSSES)]
  return [figure for figure in made if figure is not None]


def densities(results: Results) -> Figure | None:
  """Draws the density of each checkpoint's eigenvalues, in a panel for each loss."""
  panels = {loss: _by_arm(results, "flatness", loss, "density_nodes") for loss in LOSSES}
  panels = {loss: rows for loss, rows in panels.items() if rows}
  if not panels:
    return None
  arms = [arm for arm in results.arms if any(arm in rows for rows in panels.values())]
  with drawing.canvas([3.6], results.arms, shown=arms, columns=len(panels)) as canvas:
    for axes, (loss, by_arm) in zip(canvas.axes, panels.items()):
      nodes = np.concatenate([np.ravel(row["density_nodes"]) for rows in by_arm.values() for row in rows])
      scale = max(float(np.abs(nodes).max()) / 1e3, 1e-12)
      ends = np.arcsinh(np.array([nodes.min(), nodes.max()]) / scale)
      width = 0.02 * float(ends[1] - ends[0]) or 1.0
      place = np.linspace(ends[0] - 4 * width, ends[1] + 4 * width, _POINTS)
      for arm, rows in by_arm.items():
        curve = np.mean([_counts(row, place, scale, width) for row in rows], axis=0)
        axes.plot(place, np.where(curve > 1e-3, curve, np.nan), color=canvas.color(arm), linewidth=1.6)
      _eigenvalue_axis(axes, scale, place)
      _count_axis(axes)
      axes.set_title(f"Hessian of the {LOSSES[loss]}")
  caption = (
    "By stochastic Lanczos quadrature, mean over probes and seeds, each eigenvalue a narrow Gaussian. The "
    "axis is linear near zero and logarithmic far from it (asinh). Few probes locate the far "
    "eigenvalues, but count them only roughly: a height of less than one is a fraction of an eigenvalue."
  )
  return canvas.figure("density", "Density of the Hessian's eigenvalues", caption)


def slices(results: Results) -> Figure | None:
  """Draws the rise of the loss along each direction, with all checkpoints on one scale.

  Each loss has its own row of panels.
  """
  found = {
    (loss, direction): _by_arm(results, "slice", loss, "values", direction=direction)
    for loss in LOSSES
    for direction in _DIRECTIONS
  }
  losses = [loss for loss in LOSSES if any(found[loss, direction] for direction in _DIRECTIONS)]
  directions = [name for name in _DIRECTIONS if any(found[loss, name] for loss in losses)]
  if not losses:
    return None
  arms = [arm for arm in results.arms if any(arm in rows for rows in found.values())]
  with drawing.canvas([2.9] * len(losses), results.arms, shown=arms, columns=len(directions)) as canvas:
    places = [(loss, direction) for loss in losses for direction in directions]
    for axes, (loss, direction) in zip(canvas.axes, places):
      for arm, rows in found[loss, direction].items():
        for row in rows:
          values = np.array(row["values"], float)
          rise = values - values[np.argmin(np.abs(row["coordinates"]))]
          axes.plot(row["coordinates"], rise, color=canvas.color(arm), linewidth=1.6, alpha=0.9)
      axes.axhline(0, color=MUTED, linewidth=0.8)
      axes.set_xlabel(_DIRECTIONS[direction])
      axes.set_title(LOSSES[loss])
      axes.set_ylabel("rise of the loss")
  caption = (
    "The loss minus its value at the weights, place 0; all checkpoints share a scale. Along the random "
    "direction a unit is the norm of each filter, along the eigenvector a distance. Li et al., 2018, arXiv "
    "1712.09913."
  )
  return canvas.figure("slices", "The loss along lines through the weights", caption)


def planes(results: Results, loss: str = "cross_entropy") -> Figure | None:
  """Draws one loss over a plane, in a panel for each checkpoint of the first seed.

  The panels share their levels.
  """
  by_arm = _by_arm(results, "plane", loss, "values")
  if not by_arm:
    return None
  first = {arm: rows[0] for arm, rows in by_arm.items()}
  values = {arm: np.array(row["values"], float) for arm, row in first.items()}
  low = min(float(np.nanmin(v)) for v in values.values())
  high = float(np.median([np.nanmax(v) for v in values.values()]))
  levels = low + max(high - low, 1e-9) * np.linspace(0, 1, _LEVELS) ** 2  # closer where the loss is low
  rows = -(-len(first) // _ACROSS)
  with drawing.canvas([3.0] * rows, results.arms, shown=[], columns=min(len(first), _ACROSS)) as canvas:
    for axes in canvas.axes[len(first) :]:
      axes.set_axis_off()
    for axes, (arm, row) in zip(canvas.axes, first.items()):
      grid = row["coordinates"]
      axes.contourf(grid, grid, values[arm].T, levels=levels, cmap="cividis_r", extend="both")
      lines = axes.contour(grid, grid, values[arm].T, levels=levels[1::2], colors=INK, linewidths=0.6)
      axes.clabel(lines, fontsize=7, fmt="%.3g")
      axes.plot([0], [0], marker="+", color=INK, markersize=9)
      axes.set_title(drawing.short(arm))
      axes.grid(visible=False)
      axes.set_aspect("equal")
  caption = (
    f"Over {_axes_of(first)}; the weights are at the cross. All panels share their levels: the closer the "
    "lines, the steeper. Beyond the last level the colour stays the same."
  )
  name = "planes" if loss == "cross_entropy" else f"planes_{loss}"
  return canvas.figure(name, f"The {LOSSES[loss]} around the weights", caption)


def _axes_of(first: Mapping[str, Mapping[str, Any]]) -> str:
  """Describes the axes of the planes; arms may differ."""
  kinds = {row.get("axes", "random") for row in first.values()}
  said = {
    "random": "two random filter-normalised directions",
    "eigenvector": "the eigenvector of λ_max (across) and a random filter-normalised direction (up)",
  }
  return " or ".join(said[kind] for kind in said if kind in kinds)


def _by_arm(
  results: Results, kind: str, loss: str, key: str, **where: Any
) -> dict[str, list[Mapping[str, Any]]]:
  """Returns arm -> its rows of a kind that have `key`, one for each seed."""
  found: dict[str, list[Mapping[str, Any]]] = {}
  for row in results.rows:
    fits = row.get("kind") == kind and row.get("loss") == loss and key in row
    if fits and all(row.get(name) == wanted for name, wanted in where.items()):
      found.setdefault(row["arm"], []).append(row)
  return {arm: found[arm] for arm in results.arms if arm in found}


def _counts(row: Mapping[str, Any], place: np.ndarray, scale: float, width: float) -> np.ndarray:
  """Returns the eigenvalues per unit of asinh(eigenvalue / scale), at `place`."""
  nodes, weights = np.array(row["density_nodes"]), np.array(row["density_weights"])
  distance = (place[:, None, None] - np.arcsinh(nodes / scale)[None]) / width
  peaks = np.exp(-(distance**2) / 2) / (width * np.sqrt(2 * np.pi))
  return row["num_parameters"] * np.sum(weights * peaks, axis=(1, 2)) / len(nodes)


def _count_axis(axes: Axes) -> None:
  """Makes the axis logarithmic, with plain powers of ten from a hundredth of an eigenvalue."""
  axes.set_yscale("log")
  axes.set_ylim(bottom=1e-2)
  axes.yaxis.set_major_locator(ticker.LogLocator(numticks=8))
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
  axes.set_ylabel("eigenvalues per unit of the axis")


def _eigenvalue_axis(axes: Axes, scale: float, place: np.ndarray) -> None:
  """Labels an axis of asinh(eigenvalue / scale) with plain numbers at powers of ten."""
  largest = np.sinh(np.abs(place).max()) * scale
  powers = [10.0**n for n in range(-6, 9) if 3 * scale < 10.0**n <= largest]
  ticks = [-v for v in powers[::-1]] + [0.0, *powers]
  shown = [v for v in ticks if place[0] <= np.arcsinh(v / scale) <= place[-1]]
  axes.xaxis.set_major_locator(ticker.FixedLocator([float(np.arcsinh(v / scale)) for v in shown]))
  axes.xaxis.set_major_formatter(ticker.FixedFormatter([f"{v:g}" for v in shown]))
  axes.set_xlabel("eigenvalue")
