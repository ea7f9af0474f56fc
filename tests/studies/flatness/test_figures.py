"""The figures of a flatness study: what is drawn, from rows whose numbers are known."""

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet

from jaxtl.report import canvas as drawing
from jaxtl.report.results import Results
from jaxtl.studies.flatness import figures as flatness_figures
from jaxtl.studies.flatness import tables as flatness_tables
from tests.studies.flatness.rows import results, rows_of

__all__ = ["results"]  # a fixture


@pytest.fixture
def drawn(monkeypatch):
  """The canvases that are finished, with their axes."""
  found = []
  finish = drawing.Canvas.finish
  monkeypatch.setattr(drawing.Canvas, "finish", lambda canvas: (found.append(canvas), finish(canvas)))
  return found


def curves(canvas, axes, arm):
  """The lines of an arm: those of its colour with more than two points."""
  return [line for line in axes.lines if line.get_color() == canvas.color(arm) and len(line.get_xdata()) > 2]


def test_the_density_has_a_line_for_each_arm_over_its_eigenvalues(results, drawn):
  flatness_figures.densities(results)
  [canvas] = drawn
  assert len(canvas.axes) == 2  # the losses
  assert [len(curves(canvas, canvas.axes[0], arm)) for arm in ("plain", "hinge")] == [1, 1]
  assert [len(curves(canvas, canvas.axes[1], arm)) for arm in ("plain", "hinge")] == [0, 1]
  for arm, largest in (("plain", 300), ("hinge", 50)):  # of seeds 0 and 1: 100 and 300
    [line] = curves(canvas, canvas.axes[0], arm)
    place, height = (np.nan_to_num(np.asarray(x, float)) for x in line.get_data())
    peaks = np.flatnonzero((height[1:-1] > height[:-2]) & (height[1:-1] > height[2:])) + 1
    scale = 300 / 1e3  # of asinh: a thousandth of the largest eigenvalue
    assert np.sinh(place[peaks[-1]]) * scale == pytest.approx(largest, rel=0.1)
    assert height.max() > 100  # a thousand parameters, nearly all at zero


def test_lines_are_the_rise_above_the_loss_at_the_weights(results, drawn):
  flatness_figures.slices(results)
  [canvas] = drawn
  [axes] = canvas.axes
  assert [len(curves(canvas, axes, arm)) for arm in ("plain", "hinge")] == [2, 1]  # two seeds, one
  [line] = curves(canvas, axes, "hinge")
  np.testing.assert_array_equal(line.get_xdata(), [-1, 0, 1])
  np.testing.assert_array_equal(line.get_ydata(), [1.5, 0, np.nan])  # None, where the loss was not finite


def contours(axes):
  return [found for found in axes.get_children() if isinstance(found, QuadContourSet)]


def test_planes_of_two_arms_are_two_panels_with_the_same_levels(results, drawn):
  flatness_figures.planes(results)
  [canvas] = drawn
  assert [axes.get_title(loc="left") for axes in canvas.axes] == ["plain", "hinge"]
  filled, lines = zip(*(contours(axes) for axes in canvas.axes))
  assert filled[0].levels.tolist() == filled[1].levels.tolist()
  assert lines[0].levels.tolist() == lines[1].levels.tolist() == filled[0].levels[1::2].tolist()
  assert filled[0].levels[0] == 0  # the lowest loss of both
  assert filled[0].levels[-1] == pytest.approx(6)  # the median of the highest, 8 and 4


def test_points_where_the_loss_is_not_finite_do_not_break_a_plane(results, drawn):
  rows = [dict(row) for row in results.rows]
  for row in rows:
    if row["kind"] == "plane":
      row["values"] = [[None, *line[1:]] for line in row["values"]]
      row["axes"] = "eigenvector"
  figure = flatness_figures.planes(Results(results.config, {}, rows, {}, frozenset()))
  [canvas] = drawn
  filled, _ = contours(canvas.axes[0])
  assert filled.levels[0] == 0.5  # the lowest that is left, of the flatter arm
  assert np.isfinite(filled.levels).all()
  assert "Over the eigenvector of λ_max (across) and" in figure.caption


def test_one_arm_is_one_panel(drawn):
  one = Results({"arms": {"a": {}}, "seeds": [0], "base": {}}, {}, rows_of("a", 0, 1.0), {}, frozenset())
  flatness_figures.planes(one)
  assert [len(canvas.axes) for canvas in drawn] == [1]


def test_figures_leave_out_what_is_not_finite_and_share_a_scale(results):
  density, slices, planes = flatness_figures.make_figures(results)
  assert (density.name, slices.name, planes.name) == ("density", "slices", "planes")
  assert "Hessian of the training loss" in density.svg
  assert "random, filter-normalised" in slices.svg
  assert "All panels share their levels" in planes.caption


def test_a_study_without_the_parts_has_no_figures(results):
  bare = [
    {k: v for k, v in row.items() if not k.startswith("density")}
    for row in results.rows
    if row["kind"] == "flatness"
  ]
  empty = Results(config=results.config, env={}, rows=bare, curves={}, finished=frozenset())
  assert flatness_figures.make_figures(empty) == []
  assert flatness_tables.blocks(empty) == []


def test_counts_of_eigenvalues_add_up_to_the_parameters(results):
  row = results.rows[0]
  place = np.linspace(-12, 12, 20001)
  counts = flatness_figures._counts(row, place, 0.1, 0.02)
  np.testing.assert_allclose(np.sum(counts) * (place[1] - place[0]), 1000, rtol=1e-3)
