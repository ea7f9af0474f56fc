"""The figures of a transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import MUTED, Figure
from jaxtl.report.charts import grouped, training_curves
from jaxtl.report.results import Results, Values
from jaxtl.report.table import spearman
from jaxtl.studies.transfer.curve_figures import loss_curves
from jaxtl.studies.transfer.results import (
  accuracies,
  is_from_scratch,
  mean_accuracies,
  protocol_title,
  protocols,
  targets,
)

_MEAN = "mean over targets"


def make_figures(results: Results) -> list[Figure]:
  """Draws the accuracies of every protocol, and the training curves if there are any."""
  by_epoch = [loss_curves(results, name) for name in targets(results)]
  further = [figure for figure in (*by_epoch, training_curves(results)) if figure]
  return [*(transfer_bars(results, name) for name in protocols(results)), *further]


def transfer_bars(results: Results, protocol: str) -> Figure:
  """Draws the accuracy on each target and their mean.

  A panel below shows the difference to the first arm, paired by seed.
  """
  groups = {name: accuracies(results, protocol, name) for name in targets(results)}
  if len(groups) > 1:
    groups[_MEAN] = mean_accuracies(results, protocol)
  arms = [arm for arm in results.arms if any(values.get(arm) for values in groups.values())]
  pairs = _differences(results, groups, arms)
  heights = [3.4, 2.4] if pairs else [3.4]
  with drawing.canvas(heights, results.arms, shown=arms) as canvas:
    upper = canvas.axes[0]
    grouped(upper, canvas, groups, arms, bars=True, apart=_MEAN)
    upper.set_ylabel("test accuracy (share correct)")
    upper.set_ylim(0, 1)
    if pairs:
      lower = canvas.axes[1]
      grouped(lower, canvas, pairs, arms, bars=False, apart=_MEAN)
      lower.axhline(0, color=MUTED, linewidth=1)
      lower.set_ylabel(f"difference to\n{drawing.short(arms[0])}")
  how = protocol_title(protocol)
  caption = (
    "Bars: mean over seeds; lines: standard deviation over seeds; dots: single seeds. Bars start at zero."
  )
  if pairs:
    scratch = [arm for arm in arms if is_from_scratch(results, arm)]
    left_out = f" ({', '.join(scratch)} left out: it is the control, not a pre-training)" if scratch else ""
    caption += f" Below: the difference to {arms[0]} with the same seed, on its own scale{left_out}."
  return canvas.figure(f"transfer_{protocol}", f"{how}: accuracy by target", caption)


def against_transfer(
  results: Results, x: Values, name: str, title: str, label: str, note: str, *, log: bool = False
) -> Figure | None:
  """Draws a measure of the checkpoint against mean transfer accuracy, with a dot for each arm and seed."""
  panels = {}
  trained = [arm for arm in results.arms if not is_from_scratch(results, arm)]
  for protocol in protocols(results):
    y = mean_accuracies(results, protocol)
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


def _differences(results: Results, groups: Mapping[str, Values], arms: Sequence[str]) -> dict[str, Values]:
  """Returns group -> arm -> seed -> difference to the first arm with the same seed."""
  first = arms[0]
  compared = [arm for arm in arms[1:] if not is_from_scratch(results, arm)]
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


def _correlation(protocol: str, points: Sequence[tuple[str, float, float]]) -> str:
  rho = spearman([x for _, x, _ in points], [y for _, _, y in points])
  if rho is None:
    return f"{protocol_title(protocol)}: too few different dots ({len(points)}) for a correlation."
  return (
    f"{protocol_title(protocol)}: Spearman correlation {rho:+.2f} over n = {len(points)} dots "
    "(seeds of one arm are not independent of each other)."
  )
