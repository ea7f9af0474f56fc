"""The figures of a layer diagnosis: bars for the possible gain and the curvature of each layer."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import Canvas, Figure
from jaxtl.report.charts import grouped
from jaxtl.report.results import Results, Values
from jaxtl.studies.layers.diagnosis_tables import KIND, diagnosis_rows

_CROWDED = 24  # number of layers from which names are rotated
_SPARSE = 60  # number of layers from which only some are named


def make_figures(results: Results) -> list[Figure]:
  """Makes both figures; returns none if no layer was diagnosed."""
  rows = diagnosis_rows(results)
  return [room(results), curvature(results)] if rows else []


def room(results: Results) -> Figure:
  """Draws Delta L of each layer."""
  arms, layers = _arms(results), _layers(results)
  with drawing.canvas([3.3], results.arms, shown=_shown(arms)) as canvas:
    axes = canvas.axes[0]
    places = _bars(axes, canvas, results, "delta_loss", arms, layers)
    _mark(axes, results, places, "update")
    axes.set_ylabel("ΔL, fall of the mean loss")
    axes.set_ylim(bottom=0)
  caption = (
    "By how much the loss falls when one layer alone is moved along its own gradient, to the minimum. ★: the "
    "layer with most room, small ones left out. ≥: it still fell at the longest step. Bars: mean over seeds; "
    "dots: single seeds."
  )
  return canvas.figure("layers_room", "Room for improvement in each layer", caption)


def curvature(results: Results) -> Figure:
  """Draws kappa and kappa_rel of each layer."""
  arms, layers = _arms(results), _layers(results)
  with drawing.canvas([2.7, 2.7], results.arms, shown=_shown(arms)) as canvas:
    titles = {"kappa": "κ = ΔL / step²", "kappa_rel": "κ_rel = ΔL |w|² / step²"}
    choosing = {row["choose_by"] for row in diagnosis_rows(results)}
    for axes, (key, title) in zip(canvas.axes, titles.items()):
      places = _bars(axes, canvas, results, key, arms, layers)
      if key in choosing:
        _mark(axes, results, places, "perturb")
      axes.set_ylabel("curvature (log scale)")
      axes.set_title(title)
      low, high = _range([mean for _, mean in places.values()])
      drawing.log_axis(axes.yaxis, at=(1.0,) if high / low > 200 else (1.0, 2.0, 5.0))
      axes.set_ylim(low, high)
  caption = (
    "The scale is logarithmic: heights compare orders of magnitude. κ of layers with other scales cannot be "
    "compared, κ_rel can. ★: the layer that the automatic choice perturbs, small and unbounded ones left "
    "out. No bar: nothing better was found in that layer."
  )
  return canvas.figure("layers_curvature", "Curvature of each layer", caption)


def _bars(
  axes: Axes, canvas: Canvas, results: Results, key: str, arms: list[str], layers: list[str]
) -> Mapping[tuple[str, str], tuple[float, float]]:
  groups: dict[str, Values] = {name: results.values(key, kind=KIND, layer=name) for name in layers}
  places = grouped(axes, canvas, groups, arms, bars=True)
  if len(layers) >= _CROWDED:
    every = -(-len(layers) // _SPARSE)
    ticks = range(0, len(layers), every)
    axes.set_xticks(ticks, [drawing.short(layers[i]) for i in ticks], rotation=90, ha="center", fontsize=7)
  return places


def _mark(
  axes: Axes, results: Results, places: Mapping[tuple[str, str], tuple[float, float]], key: str
) -> None:
  """Marks the chosen layer of every arm with a star, and unbounded layers with a sign."""
  for row in diagnosis_rows(results):
    text = "★" * bool(row[key]) + "≥" * bool(row["unbounded"] and key == "update")
    place = places.get((row["layer"], row["arm"]))
    if text and place is not None:
      axes.annotate(
        text, place, xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9
      )


def _range(means: list[float]) -> tuple[float, float]:
  """Returns limits of a logarithmic axis, with room below the lowest bar and for a star above the highest."""
  positive = [mean for mean in means if mean > 0] or [1.0]
  return min(positive) / 4, max(positive) * 4


def _arms(results: Results) -> list[str]:
  found = {row["arm"] for row in diagnosis_rows(results)}
  return [arm for arm in results.arms if arm in found]


def _shown(arms: list[str]) -> list[str]:
  return arms if len(arms) > 1 else []


def _layers(results: Results) -> list[str]:
  return list(dict.fromkeys(row["layer"] for row in diagnosis_rows(results)))
