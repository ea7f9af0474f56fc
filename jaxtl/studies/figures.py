"""The report's figures: each a Figure with its caption, the same bytes whenever the numbers are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from jaxtl.studies import drawing
from jaxtl.studies.drawing import INK, LINE, MUTED, Figure
from jaxtl.studies.results import Results, Values
from jaxtl.studies.sentences import curvature_sentence
from jaxtl.studies.tables import curvatures, mean_and_spread, protocol_title, spearman

# Points of a curve; longer ones are averaged over blocks of records.
_MOST_POINTS = 100
_MEAN = "mean over targets"


def make_figures(results: Results) -> list[Figure]:
  """All figures that the rows have data for."""
  figures = [transfer_bars(results, protocol) for protocol in results.protocols]
  found = curvatures(results)
  accuracy = results.values(f"{results.evaluations[0]}/top1", kind="pretrain") if results.evaluations else {}
  made = [
    training_curves(results),
    against_transfer(
      results,
      found,
      "flatness",
      "Flatness against transfer",
      "λ_max of the cross-entropy (log scale)",
      curvature_sentence(results),
      log=True,
    ),
    against_transfer(
      results,
      accuracy,
      "accuracy",
      "Pre-training accuracy against transfer",
      "pre-training accuracy (top-1)",
      "",
    ),
    curvature_in_training(results),
  ]
  return [*figures, *(figure for figure in made if figure is not None)]


def transfer_bars(results: Results, protocol: str) -> Figure:
  """Accuracy on each target and their mean, and below it the difference to the first arm, paired by seed."""
  where = {"kind": "transfer", "protocol": protocol}
  groups = {name: results.values("accuracy", target=name, **where) for name in results.targets}
  if len(groups) > 1:
    groups[_MEAN] = results.transfer_means(protocol)
  arms = [arm for arm in results.arms if any(values.get(arm) for values in groups.values())]
  pairs = _differences(results, groups, arms)
  heights = [3.4, 2.4] if pairs else [3.4]
  with drawing.canvas(heights, results.arms, shown=arms) as canvas:
    upper = canvas.axes[0]
    grouped(upper, canvas, groups, arms, bars=True)
    upper.set_ylabel("test accuracy (share correct)")
    upper.set_ylim(0, 1)
    if pairs:
      lower = canvas.axes[1]
      grouped(lower, canvas, pairs, arms, bars=False)
      lower.axhline(0, color=MUTED, linewidth=1)
      lower.set_ylabel(f"difference to\n{drawing.short(arms[0])}")
  how = protocol_title(protocol)
  caption = (
    "Bars: mean over seeds; lines: standard deviation over seeds; dots: single seeds. Bars start at zero."
  )
  if pairs:
    scratch = [arm for arm in arms if results.from_scratch(arm)]
    left_out = f" ({', '.join(scratch)} left out: it is the control, not a pre-training)" if scratch else ""
    caption += f" Below: the difference to {arms[0]} with the same seed, on its own scale{left_out}."
  return canvas.figure(f"transfer_{protocol}", f"{how}: accuracy by target", caption)


def training_curves(results: Results) -> Figure | None:
  """Loss and accuracy over steps."""
  evaluated = [f"eval/{name}/top1" for name in results.evaluations] or sorted(
    {key for records in results.curves.values() for key in records[-1] if key.startswith("eval/")}
  )
  panels = {
    "train/loss": "training loss of the arm",
    "train/accuracy": "training accuracy (batch)",
    **{key: f"top-1 on {key.split('/')[1]}" for key in evaluated[:1]},
  }
  curves = {key: _series(results, key, at_least=2) for key in panels}
  panels = {key: title for key, title in panels.items() if curves[key]}
  if not panels:
    return None
  arms = [arm for arm in results.arms if any(arm in curves[key] for key in panels)]
  blocks = max(_block(points) for key in panels for runs in curves[key].values() for points in runs)
  with drawing.canvas([3.2], results.arms, shown=arms, columns=len(panels)) as canvas:
    for axes, (key, title) in zip(canvas.axes, panels.items()):
      _curves(axes, canvas, curves[key])
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


def against_transfer(
  results: Results, x: Values, name: str, title: str, label: str, note: str, *, log: bool = False
) -> Figure | None:
  """A measure of the checkpoint against mean transfer accuracy, a dot for each arm and seed."""
  panels = {}
  trained = [arm for arm in results.arms if not results.from_scratch(arm)]
  for protocol in results.protocols:
    y = results.transfer_means(protocol)
    points = [
      (arm, x[arm][seed], y[arm][seed])
      for arm in trained
      for seed in sorted(x.get(arm, {}))
      if seed in y.get(arm, {}) and (x[arm][seed] > 0 or not log)
    ]
    if len(points) > 1:
      panels[protocol] = points
  if not panels:
    return None
  arms = [
    arm for arm in results.arms if any(arm == point[0] for points in panels.values() for point in points)
  ]
  said = []
  with drawing.canvas([3.5], results.arms, shown=arms, columns=max(len(panels), 2)) as canvas:
    for axes in canvas.axes[len(panels) :]:
      axes.set_axis_off()
    for axes, (protocol, points) in zip(canvas.axes, panels.items()):
      for arm in arms:
        dots = [(a, b) for owner, a, b in points if owner == arm]
        axes.scatter([a for a, _ in dots], [b for _, b in dots], s=44, **canvas.dots(arm))
      if log:
        drawing.log_axis(axes.xaxis)
      axes.set_xlabel(label)
      axes.set_ylabel("mean transfer accuracy")
      axes.set_title(protocol_title(protocol))
      said.append(_correlation(protocol, points))
  caption = " ".join([note, "One dot for each arm and seed that was pre-trained.", *said]).strip()
  return canvas.figure(f"{name}_transfer", title, caption)


def curvature_in_training(results: Results) -> Figure | None:
  """lambda_max over steps, where several checkpoints were measured."""
  curves = _series(results, "flatness/lambda_max", at_least=2)
  if not curves:
    return None
  arms = [arm for arm in results.arms if arm in curves]
  with drawing.canvas([3.2], results.arms, shown=arms) as canvas:
    axes = canvas.axes[0]
    _curves(axes, canvas, curves, marked=True)
    drawing.log_axis(axes.yaxis)
    axes.set_xlabel("step")
    axes.set_ylabel("λ_max (log scale)")
  caption = "Thin: single seeds; thick: their mean. " + curvature_sentence(results)
  return canvas.figure("curvature_training", "Curvature during pre-training", caption)


def grouped(
  axes: Axes, canvas: drawing.Canvas, groups: Mapping[str, Values], arms: Sequence[str], *, bars: bool
) -> dict[tuple[str, str], tuple[float, float]]:
  """One group of arms side by side for each target; the mean set apart.

  Returns:
    (group, arm) -> place and mean of what was drawn.
  """
  drawn: dict[tuple[str, str], tuple[float, float]] = {}
  width = 0.82 / len(arms)
  places = np.arange(len(groups)) + [0.35 * (name == _MEAN) for name in groups]
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
  names = ["mean\nover targets" if name == _MEAN else drawing.short(name) for name in groups]
  tilted = len(names) * max(len(line) for name in names for line in name.split("\n")) > 110
  axes.set_xticks(places, names, rotation=30 if tilted else 0, ha="right" if tilted else "center")
  axes.tick_params(axis="x", length=0)
  axes.grid(axis="x", visible=False)
  axes.set_xlim(places[0] - 0.55, places[-1] + 0.55)
  if list(groups)[-1] == _MEAN:
    axes.axvspan(places[-1] - 0.55, places[-1] + 0.55, color=LINE, alpha=0.35, linewidth=0, zorder=0)
  return drawn


def _differences(results: Results, groups: Mapping[str, Values], arms: Sequence[str]) -> dict[str, Values]:
  """Group -> arm -> seed -> difference to the first arm with the same seed."""
  first = arms[0]
  compared = [arm for arm in arms[1:] if not results.from_scratch(arm)]
  found: dict[str, Values] = {
    name: {
      arm: {
        seed: value - values[first][seed]
        for seed, value in values.get(arm, {}).items()
        if seed in values.get(first, {})
      }
      for arm in compared
    }
    for name, values in groups.items()
  }
  return found if any(by_seed for values in found.values() for by_seed in values.values()) else {}


def _series(results: Results, key: str, *, at_least: int) -> dict[str, list[np.ndarray]]:
  """arm -> for each seed [n, 2] of step and value; arms without a run of `at_least` records are left out."""
  found: dict[str, list[np.ndarray]] = {}
  for (arm, _), records in results.curves.items():
    points = [(record["step"], record[key]) for record in records if np.isfinite(record.get(key, np.nan))]
    if len(points) >= at_least:
      found.setdefault(arm, []).append(np.asarray(points, float))
  return found


def _block(points: np.ndarray) -> int:
  return -(-len(points) // _MOST_POINTS)


def _thinned(points: np.ndarray) -> np.ndarray:
  """Means over blocks of neighbouring records."""
  block = _block(points)
  return np.stack([points[start : start + block].mean(axis=0) for start in range(0, len(points), block)])


def _curves(
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


def _correlation(protocol: str, points: Sequence[tuple[str, float, float]]) -> str:
  rho = spearman([x for _, x, _ in points], [y for _, _, y in points])
  if rho is None:
    return f"{protocol_title(protocol)}: too few different dots ({len(points)}) for a correlation."
  return (
    f"{protocol_title(protocol)}: Spearman correlation {rho:+.2f} over n = {len(points)} dots "
    "(seeds of one arm are not independent of each other)."
  )
