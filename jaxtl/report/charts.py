"""Charts that several studies draw; equal numbers give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import INK, LINE, Figure
from jaxtl.report.results import Results, Values
from jaxtl.report.table import mean_and_spread

# Points per curve; longer curves are averaged over blocks of records.
_MOST_POINTS = 100


def training_curves(results: Results, *, first: str | None = None) -> Figure | None:
  """Draws loss and accuracy over steps; returns None without two records of either.

  Args:
    results: the study.
    first: the evaluation set whose accuracy is drawn; None takes the first by name.
  """
  recorded = {key for records in results.curves.values() for key in records[-1] if key.startswith("eval/")}
  evaluated = sorted(recorded) if first is None else [f"eval/{first}/top1"]
  panels = {
    "train/loss": "training loss of the arm",
    "train/accuracy": "training accuracy (batch)",
    **{key: f"top-1 on {key.split('/')[1]}" for key in evaluated[:1]},
  }
  curves = {key: series(results, key, at_least=2) for key in panels}
  panels = {key: title for key, title in panels.items() if curves[key]}
  if not panels:
    return None
  arms = [arm for arm in results.arms if any(arm in curves[key] for key in panels)]
  blocks = max(_block(points) for key in panels for runs in curves[key].values() for points in runs)
  with drawing.canvas([3.2], results.arms, shown=arms, columns=len(panels)) as canvas:
    for axes, (key, title) in zip(canvas.axes, panels.items()):
      draw_curves(axes, canvas, curves[key])
      axes.set_xlabel("step")
      axes.set_title(title)
      if key == "train/loss":
        _log_where_wide(axes)
  smooth = f", records averaged in blocks of up to {blocks}" if blocks > 1 else ""
  caption = (
    f"Thin: single seeds; thick: their mean{smooth}. Losses of different objectives have different scales "
    "and cannot be compared; accuracies can."
  )
  return canvas.figure("training", "Training curves", caption)


def grouped(
  axes: Axes,
  canvas: drawing.Canvas,
  groups: Mapping[str, Values],
  arms: Sequence[str],
  *,
  bars: bool,
  apart: str = "",
) -> dict[tuple[str, str], tuple[float, float]]:
  """Draws the arms side by side in each group.

  Args:
    axes, canvas: where to draw.
    groups: name of the group -> its numbers.
    arms: the arms, in order.
    bars: draws bars from zero; otherwise markers.
    apart: the last group, if it is set apart, such as a mean of the others.

  Returns:
    (group, arm) -> position and mean of what was drawn.
  """
  drawn: dict[tuple[str, str], tuple[float, float]] = {}
  width = 0.82 / len(arms)
  places = np.arange(len(groups)) + [0.35 * (name == apart) for name in groups]
  for place, (group, values) in zip(places, groups.items()):
    for number, arm in enumerate(arms):
      found = list(values.get(arm, {}).values())
      if not found:
        continue
      x = place + (number - (len(arms) - 1) / 2) * width
      mean, spread = mean_and_spread(found)
      drawn[group, arm] = (x, mean)
      color = INK if bars else canvas.color(arm)
      if bars:
        axes.bar(x, mean, width * 0.9, color=canvas.color(arm), linewidth=0)
      else:
        axes.plot([x], [mean], **canvas.marker(arm), markersize=6.5, linestyle="none", zorder=4)
      if len(found) > 1:
        axes.plot([x, x], [mean - spread, mean + spread], color=color, linewidth=1.2, solid_capstyle="butt")
        size = min(9.0, 60 * width)
        axes.scatter([x] * len(found), found, s=size, color=color, alpha=0.6, linewidth=0, zorder=3)
  names = [name.replace(" ", "\n", 1) if name == apart else drawing.short(name) for name in groups]
  tilted = len(names) * max(len(line) for name in names for line in name.split("\n")) > 110
  axes.set_xticks(places, names, rotation=30 if tilted else 0, ha="right" if tilted else "center")
  axes.tick_params(axis="x", length=0)
  axes.grid(axis="x", visible=False)
  axes.set_xlim(places[0] - 0.55, places[-1] + 0.55)
  if list(groups)[-1] == apart:
    axes.axvspan(places[-1] - 0.55, places[-1] + 0.55, color=LINE, alpha=0.35, linewidth=0, zorder=0)
  return drawn


def series(results: Results, key: str, *, at_least: int) -> dict[str, list[np.ndarray]]:
  """Returns arm -> for each seed [n, 2] of step and value.

  Arms without a run of `at_least` records are omitted.
  """
  found: dict[str, list[np.ndarray]] = {}
  for (arm, _), records in results.curves.items():
    points = [(record["step"], record[key]) for record in records if np.isfinite(record.get(key, np.nan))]
    if len(points) >= at_least:
      found.setdefault(arm, []).append(np.asarray(points, float))
  return found


def _block(points: np.ndarray) -> int:
  return -(-len(points) // _MOST_POINTS)


def _thinned(points: np.ndarray) -> np.ndarray:
  """Averages blocks of neighbouring records."""
  block = _block(points)
  return np.stack([points[start : start + block].mean(axis=0) for start in range(0, len(points), block)])


def draw_curves(
  axes: Axes, canvas: drawing.Canvas, curves: Mapping[str, list[np.ndarray]], *, marked: bool = False
) -> None:
  for arm, runs in curves.items():
    runs = [_thinned(points) for points in runs]
    color = canvas.color(arm)
    if len(runs) > 1:
      for points in runs:
        axes.plot(*points.T, color=color, linewidth=0.7, alpha=0.45)
    length = min(len(points) for points in runs)
    same = [points for points in runs if np.array_equal(points[:length, 0], runs[0][:length, 0])]
    mean = np.mean([points[:length] for points in same], axis=0)
    style = canvas.marker(arm) | {"markersize": 5} if marked else {"color": color}
    axes.plot(*mean.T, linewidth=2.0, **style)


def _log_where_wide(axes: Axes) -> None:
  low, high = axes.dataLim.intervaly
  if low > 0 and high / low > 8:
    drawing.log_axis(axes.yaxis)
  else:
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6))
