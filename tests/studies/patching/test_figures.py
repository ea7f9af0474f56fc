"""The figures of a patching study."""

import dataclasses

import numpy as np
import pytest

from jaxtl.report import canvas as drawing
from jaxtl.report.results import load
from jaxtl.studies.patching import figures as patching_figures

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("normalise", ["initial", "none"])
def test_the_sum_is_the_arm_s_own_and_below_the_losses(finished, normalise):
  [row] = load(finished).rows
  before, after = (np.array(row["curve"][key]) for key in ("supported_loss", "patching_loss"))
  total = before / before[0] + after / after[0] if normalise == "initial" else before + after
  row = row | {"curve": row["curve"] | {"objective": total.tolist()}}
  with drawing.canvas([2], patching_figures.ROLES, shown=patching_figures.ROLES) as canvas:
    patching_figures.draw_losses(canvas.axes[0], canvas, row)
    wide, *others = sorted(canvas.axes[0].get_lines(), key=lambda line: line.get_zorder())
    assert wide.get_linewidth() > 2 * max(line.get_linewidth() for line in others)
    assert wide.get_alpha() < 1
    np.testing.assert_allclose(wide.get_ydata(), total / total[0])
    [best] = [line for line in others if line.get_marker() == "D"]
    assert best.get_xdata() == [row["optimised/alpha"]]


@pytest.mark.parametrize("zero", [["supported_loss"], ["patching_loss", "objective"], ["objective"]])
def test_a_curve_that_begins_at_0_has_no_multiples_and_is_not_drawn(finished, zero):
  [row] = load(finished).rows
  for all_of_it in (False, True):
    curve = {key: list(values) for key, values in row["curve"].items()}
    for key in zero:
      curve[key] = [0.0] * len(curve[key]) if all_of_it else [0.0, *curve[key][1:]]
    with drawing.canvas([2], patching_figures.ROLES, shown=patching_figures.ROLES) as canvas:
      patching_figures.draw_losses(canvas.axes[0], canvas, row | {"curve": curve})
      wide, *_ = sorted(canvas.axes[0].get_lines(), key=lambda line: line.get_zorder())
      assert np.isnan(wide.get_ydata()).all() == ("objective" in zero)
      low, high = canvas.axes[0].get_ylim()
      assert (low, np.isfinite(high)) == (0, True)
      assert high > 0


def test_shapes_tell_the_patching_tasks(finished):
  results = load(finished)
  [row] = results.rows
  pairs = [dict(row, supported=old, patching=new) for old in ("a", "b") for new in ("c", "d")]
  figure = patching_figures.indicators(dataclasses.replace(results, rows=pairs))
  legend = [name for name in "abcd" if f">{name}</text>" in figure.svg]
  assert legend == list("abcd")
  assert figure.svg.count(">c</text>") == 1  # in the legend alone: labels beside dots collide


def test_accuracies_along_the_way_are_the_curve_with_its_ends_and_the_optimum(finished):
  [row] = load(finished).rows
  marked = patching_figures.MARKED
  with drawing.canvas([2], list(marked), shown=list(marked)) as canvas:
    patching_figures._accuracy_panel(canvas.axes[0], canvas, row)
    curve, *points = canvas.axes[0].get_lines()
    np.testing.assert_allclose(curve.get_xdata(), 100 * np.array(row["curve"]["supported_top1"]))
    np.testing.assert_allclose(curve.get_ydata(), 100 * np.array(row["curve"]["patching_top1"]))
    places = {}
    for alpha, old, new in zip(row["curve"]["alpha"], curve.get_xdata(), curve.get_ydata(), strict=True):
      places[alpha] = old, new
    for alpha, point in zip((0.0, row["optimised/alpha"], 1.0), points, strict=True):
      [x], [y] = point.get_data()
      assert (x, y) == pytest.approx(places[alpha])
    assert len({point.get_marker() for point in points}) == 3


def test_every_arm_with_pairs_has_its_accuracies(finished):
  results = load(finished)
  figure = patching_figures.accuracies_along(results, "a")
  assert figure.name == "patching_accuracy_a"
  for name in patching_figures.MARKED:
    assert f">{name}</text>" in figure.svg
  assert patching_figures.accuracies_along(dataclasses.replace(results, rows=[]), "a") is None
