"""The tables and figures of a flatness study, from rows whose numbers are known."""

import numpy as np
import pytest

from jaxtl.studies import flatness_figures, flatness_tables, formats
from jaxtl.studies.results import Results


def rows_of(arm, seed, scale, loss="cross_entropy", differentiated="softmax_cross_entropy"):
  common = {
    "arm": arm,
    "seed": seed,
    "loss": loss,
    "differentiated": differentiated,
    "checkpoint": f"runs/{arm}",
  }
  flat = {
    **{"kind": "flatness", "num_examples": 400, "num_parameters": 1000, "precision": "float32"},
    **{"images": "cifar10/train", "seed_of_images": seed, "matmul_precision": "default"},
    **{"compute_type": "float32", "weights": "0123456789abcdef", "tolerance": 0.01},
    "sharpness_plan": {"rho": 0.05, "adaptive_rho": 0.1, "num_steps": 3, "sigma": 0.005}
    | {"adaptive_sigma": 0.05, "num_samples": 8},
    **{"batch_norm": "stored statistics", "lambda_max": 100.0 * scale, "residual": 0.004, "converged": True},
    **{"num_products": 17, "trace": 500.0 * scale, "trace_error": 31.25, "alpha": 2.0, "mean_loss": 0.5},
    **{"eigenvalues": [100.0 * scale, 40.0], "sam_sharpness": 0.1 * scale},
    **{"effective_dimension": 21.5, "effective_dimension_error": 3.0, "effective_dimension_change": 0.125},
    **{"gauss_newton_trace": 450.0, "gauss_newton_trace_error": 25.0},
    "density_nodes": [[-1.0, 0.0, 100.0 * scale]] * 2,
    "density_weights": [[0.01, 0.989, 0.001]] * 2,
  }
  layers = [
    {
      **{"kind": "layer", "layer": name, "layer_parameters": 10, "layer_lambda_max": value * scale},
      **{"layer_residual": 0.01, "layer_converged": name == "stem", "layer_trace": 2 * value},
      "layer_trace_error": 0.5,
    }
    for name, value in (("stem", 3.0), ("head", 7.0))
  ]
  line = {"kind": "slice", "direction": "random", "coordinates": [-1.0, 0.0, 1.0], "values": [2.0, 0.5, None]}
  grid = (np.arange(9.0).reshape(3, 3) * scale).tolist()
  plane = {"kind": "plane", "coordinates": [-1.0, 0.0, 1.0], "values": grid}
  return [common | row for row in (flat, *layers, line, plane)]


@pytest.fixture
def results():
  hinge = rows_of("hinge", 0, 2.0, "training", "multiclass_smoothed_hinge(margin=7)")[:1]
  rows = [*rows_of("plain", 0, 1.0), *rows_of("plain", 1, 3.0), *rows_of("hinge", 0, 0.5), *hinge]
  config = {
    "arms": {"plain": {}, "hinge": {}},
    "seeds": [0, 1],
    "base": {},
  }
  return Results(config=config, env={}, rows=rows, curves={}, finished=frozenset())


def test_one_table_for_each_loss_with_means_and_the_flattest_marked(results):
  first, second = flatness_tables.make_tables(results)
  assert (first.title, second.title) == ("Curvature of the cross-entropy", "Curvature of the training loss")
  assert (first.arms, second.arms) == (("plain", "hinge"), ("hinge",))
  columns = {column.title: column for column in first.columns}
  assert columns["λ_max"].cell("plain").mean == "200"
  assert columns["λ_max"].is_best("hinge")
  assert not columns["λ_max"].is_best("plain")
  assert not columns["residual"].is_best("plain")
  assert "Fisher-Rao" not in columns  # no row has it


def test_the_caption_says_what_a_number_depends_on(results):
  tables = flatness_tables.make_tables(results)
  texts = [
    " ".join(f"{topic}: {text}" for topic, text in flatness_tables.caption(results, t)) for t in tables
  ]
  for text in texts:
    assert "400 of cifar10/train" in text
    assert "radius 0.05, and 0.1 relative" in text
    assert "seed 0 or 1" in text
    assert "stored statistics" in text
    assert "float32" in text
    assert "λ / (λ + 2)" in text
  assert "multiclass_smoothed_hinge(margin=7)" not in texts[0]
  assert "hinge: multiclass_smoothed_hinge(margin=7)" in texts[1]


def test_one_checkpoint_is_compared_with_none(results):
  one = Results({"arms": {"a": {}}, "seeds": [0], "base": {}}, {}, rows_of("a", 0, 1.0), {}, frozenset())
  assert flatness_tables.lead(one) == [
    "On 400 images of cifar10/train: λ_max has reached its tolerance, with a relative residual of 0.004; the "
    "trace is 500 ± 31.2; the loss of 0.5 rises by 0.1 within a radius of 0.05."
  ]
  [table] = flatness_tables.make_tables(one)
  assert "Bold" not in dict(flatness_tables.caption(one, table))
  assert flatness_tables.blocks(one)[0].header == ["block", "λ_max", "trace ± s.e."]
  assert flatness_tables.lead(results) == []
  both = flatness_tables.make_tables(results)[0]
  assert "Bold" in dict(flatness_tables.caption(results, both))
  assert flatness_tables.blocks(results)[0].header[1] == "plain: λ_max"


def test_titles_that_groups_tell_apart_are_all_with_their_group(results):
  row = results.rows[0] | {"adaptive_sam_sharpness": 0.3}
  [table] = flatness_tables.make_tables(
    Results({"arms": {"plain": {}}, "seeds": [0], "base": {}}, {}, [row], {}, frozenset())
  )
  markdown = formats.to_markdown("x", [], [table], [[]], [], [], found=[], preview="")
  titles = next(line for line in markdown.splitlines() if line.startswith("| arm")).split(" | ")[1:]
  assert titles[0] == "Hessian: λ\\_max"
  assert all(": " in title for title in titles)
  assert len(set(titles)) == len(titles)
  latex = formats.to_latex(results, [table], [[]])
  assert (
    r"\multicolumn{4}{c}{Hessian} & \multicolumn{4}{c}{Gauss-Newton} & \multicolumn{1}{c}{Sharpness}" in latex
  )


def test_blocks_are_means_over_seeds_and_lower_bounds_are_marked(results):
  [grid] = flatness_tables.blocks(results)
  assert grid.rows == [
    ["stem", "6", "6 ± 0.5", "1.5", "6 ± 0.5"],
    ["head", "~14", "14 ± 0.5", "~3.5", "14 ± 0.5"],
  ]


def test_conditions_have_a_line_for_each_measurement(results):
  [grid] = flatness_tables.conditions(results)
  assert len(grid.rows) == 4
  assert grid.rows[0][:5] == ["plain", "0", "cross-entropy", "softmax_cross_entropy", "runs/plain"]
  assert grid.rows[0][-1] == "100, 40"


def test_the_terminal_has_a_column_for_each_loss(results):
  text = flatness_tables.terminal_table([row for row in results.rows if row["arm"] == "hinge"])
  lines = {line.split("  ")[0]: line for line in text.splitlines()}
  assert lines["lambda_max"].split() == ["lambda_max", "50", "200"]
  assert lines["trace"].split() == ["trace", "250", "±", "31.2", "1000", "±", "31.2"]
  assert lines["block stem"].split()[2] == "1.5,"
  assert lines["block head"].split()[2] == "~3.5,"
  assert lines["sharpness rho"].split()[-2:] == ["0.05", "0.05"]
  assert lines["images"].split()[1] == "cifar10/train"


def test_figures_leave_out_what_is_not_finite_and_share_a_scale(results):
  density, slices, planes = flatness_figures.make_figures(results)
  assert (density.name, slices.name, planes.name) == ("density", "slices", "planes")
  assert "Hessian of the training loss" in density.svg
  assert "random, filter-normalised" in slices.svg
  assert "share their" in planes.caption


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
