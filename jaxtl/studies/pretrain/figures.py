"""The figures of a pre-training."""

from __future__ import annotations

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import Figure
from jaxtl.report.charts import draw_curves, series, training_curves
from jaxtl.report.results import Results
from jaxtl.studies.pretrain.tables import (
  accuracies,
  curvature_loss,
  curvature_sentence,
  curvatures,
  evaluations,
  outputs,
)
from jaxtl.studies.transfer.figures import against_transfer, transfer_bars
from jaxtl.studies.transfer.results import protocols


def make_figures(results: Results) -> list[Figure]:
  """Makes all figures for which the rows have data."""
  names = evaluations(results)
  found = [
    training_curves(results, first=names[0] if names else None),
    against_transfer(
      results,
      curvatures(results),
      "flatness",
      "Flatness against transfer",
      f"λ_max of the {curvature_loss(results)} (log scale)",
      curvature_sentence(results),
      log=True,
    ),
    against_transfer(
      results,
      accuracies(results, names[0]) if names else {},
      "accuracy",
      "Pre-training accuracy against transfer",
      "pre-training accuracy (top-1)",
      "",
    ),
    curvature_in_training(results),
    losses_in_training(results),
    *(outputs_in_training(results, name) for name in outputs(results)),
  ]
  bars = [transfer_bars(results, protocol) for protocol in protocols(results)]
  return [*bars, *(figure for figure in found if figure is not None)]


def curvature_in_training(results: Results) -> Figure | None:
  """Draws lambda_max over steps, if several checkpoints were measured."""
  curves = series(results, "flatness/lambda_max", at_least=2)
  if not curves:
    return None
  arms = [arm for arm in results.arms if arm in curves]
  with drawing.canvas([3.2], results.arms, shown=arms) as canvas:
    axes = canvas.axes[0]
    draw_curves(axes, canvas, curves, marked=True)
    drawing.log_axis(axes.yaxis)
    axes.set_xlabel("step")
    axes.set_ylabel("λ_max (log scale)")
  caption = "Thin: single seeds; thick: their mean. " + curvature_sentence(results)
  return canvas.figure("curvature_training", "Curvature during pre-training", caption)


def losses_in_training(results: Results) -> Figure | None:
  """Draws the cross-entropy on each evaluation set over steps, if it was evaluated several times."""
  panels = {f"eval/{name}/cross_entropy": f"cross-entropy on {name}" for name in evaluations(results)}
  caption = (
    "Thin: single seeds; thick: their mean. A curve that rises again shows over-fitting or over-confidence."
  )
  return _panels(results, panels, "losses", "Cross-entropy during pre-training", caption)


def outputs_in_training(results: Results, name: str) -> Figure | None:
  """Draws measures of the outputs on a set of images over steps."""
  panels = {
    f"outputs/{name}/{key}": title
    for key, title in (
      ("zero_loss", "share of images with zero loss"),
      ("gap_p50", "median logit gap"),
      ("logit_norm", "norm of the centred logits"),
      ("nc1", "variability within classes (NC1)"),
    )
  }
  caption = (
    "Thin: single seeds; thick: their mean. The gap is the true logit minus the largest other one; a loss "
    "with a margin is zero for images whose gap exceeds it."
  )
  return _panels(results, panels, f"outputs_{name}", f"Outputs on {name} images during pre-training", caption)


def _panels(results: Results, panels: dict[str, str], name: str, title: str, caption: str) -> Figure | None:
  """Draws one metric over steps in each panel; None if no metric was recorded twice."""
  curves = {key: series(results, key, at_least=2) for key in panels}
  panels = {key: label for key, label in panels.items() if curves[key]}
  if not panels:
    return None
  arms = [arm for arm in results.arms if any(arm in curves[key] for key in panels)]
  with drawing.canvas([3.2], results.arms, shown=arms, columns=max(len(panels), 2)) as canvas:
    for axes in canvas.axes[len(panels) :]:
      axes.set_axis_off()
    for axes, (key, label) in zip(canvas.axes, panels.items()):
      draw_curves(axes, canvas, curves[key])
      axes.set_xlabel("step")
      axes.set_title(label)
  return canvas.figure(name, title, caption)
