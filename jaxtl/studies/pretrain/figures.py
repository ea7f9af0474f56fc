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
