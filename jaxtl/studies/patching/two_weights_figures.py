"""The figure of `two_weights`: both losses and their sum between two weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import Figure
from jaxtl.studies.patching.figures import ROLES, draw_losses

if TYPE_CHECKING:
  from jaxtl.studies.patching.two_weights import Patched


def losses_figure(found: Patched) -> Figure:
  """Draws the losses on the images that choose the coefficient, over alpha."""
  points = found.curve.values()
  curve: dict[str, list[Any]] = {
    "alpha": list(found.curve),
    "objective": list(found.objective.values()),
    "supported_loss": [point["supported"]["loss"] for point in points],
    "patching_loss": [point["patching"]["loss"] for point in points],
    "searched": [True] * len(found.curve),
  }
  with drawing.canvas([3.2], ROLES, shown=ROLES) as canvas:
    (axes,) = canvas.axes
    draw_losses(axes, canvas, {"curve": curve, "optimised/alpha": found.alpha})
    axes.set_xlabel("α")
  caption = (
    "Losses on the images that choose the coefficient, and, as a wide pale line, the sum that is minimised, "
    "each as a share of its value before patching. Dots are evaluated points. The dashed line is the chosen "
    "coefficient."
  )
  return canvas.figure("losses", "Losses between the two weights", caption)
