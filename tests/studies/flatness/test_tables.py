"""The tables of a flatness study, from rows whose numbers are known."""

import pytest

from jaxtl.report import text_formats
from jaxtl.report.results import Results
from jaxtl.report.section import Section
from jaxtl.studies.flatness import tables as flatness_tables
from tests.studies.flatness.rows import results, rows_of

__all__ = ["results"]  # a fixture


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


@pytest.mark.parametrize("count", [2, flatness_tables.FEW_PROBES - 1, flatness_tables.FEW_PROBES])
def test_the_caption_warns_of_few_probes(results, count):
  nodes = [[0.0]] * count
  rows = [row | ({"density_nodes": nodes} if "density_nodes" in row else {}) for row in results.rows]
  found = Results(results.config, {}, rows, {}, frozenset())
  said = dict(flatness_tables.caption(found, flatness_tables.make_tables(found)[0]))["Standard error (s.e.)"]
  assert said.startswith("One standard error over the random probes")
  few = count < flatness_tables.FEW_PROBES
  assert (f"Few probes, here {count} for the trace" in said) == few
  assert ("Student's t" in said) == few


def test_one_checkpoint_is_compared_with_none(results):
  one = Results({"arms": {"a": {}}, "seeds": [0], "base": {}}, {}, rows_of("a", 0, 1.0), {}, frozenset())
  assert flatness_tables.lead(one) == [
    "On 400 images of cifar10/train: λ_max has reached its tolerance, with a relative residual of 0.004; the "
    "trace is 500 ± 31.2; the loss of 0.5 rises by 0.1 within a radius of 0.05."
  ]
  [table] = flatness_tables.make_tables(one)
  assert "Bold" not in dict(flatness_tables.caption(one, table))
  columns = ["λ_max", "residual", "trace ± s.e.", "eff. dim. ± s.e.", "SAM sharpness"]
  assert flatness_tables.blocks(one)[0].header == ["block", *columns]
  assert flatness_tables.lead(results) == []
  both = flatness_tables.make_tables(results)[0]
  assert "Bold" in dict(flatness_tables.caption(results, both))
  assert flatness_tables.blocks(results)[0].header == ["block", "arm", *columns]


def test_titles_that_groups_tell_apart_are_all_with_their_group(results):
  row = results.rows[0] | {"adaptive_sam_sharpness": 0.3}
  [table] = flatness_tables.make_tables(
    Results({"arms": {"plain": {}}, "seeds": [0], "base": {}}, {}, [row], {}, frozenset())
  )
  markdown = text_formats.to_markdown("x", [], Section(tables=[(table, [])]), [], preview="")
  titles = next(line for line in markdown.splitlines() if line.startswith("| arm")).split(" | ")[1:]
  assert titles[0] == "Hessian: λ\\_max"
  assert all(": " in title for title in titles)
  assert len(set(titles)) == len(titles)
  latex = text_formats.to_latex(results, [(table, [])])
  assert (
    r"\multicolumn{4}{c}{Hessian} & \multicolumn{4}{c}{Gauss-Newton} & \multicolumn{1}{c}{Sharpness}" in latex
  )


def test_blocks_are_means_over_seeds_and_lower_bounds_are_marked(results):
  [grid] = flatness_tables.blocks(results)
  assert grid.rows == [
    ["stem", "plain", "6", "0.01", "6 ± 0.5", "8 ± 0.25", "0.02"],
    ["stem", "hinge", "1.5", "0.01", "6 ± 0.5", "2 ± 0.25", "0.005"],
    ["head", "plain", "~14", "0.01", "14 ± 0.5", "8 ± 0.25", "0.02"],
    ["head", "hinge", "~3.5", "0.01", "14 ± 0.5", "2 ± 0.25", "0.005"],
  ]
  assert "λ / (λ + 2); the latter half of its steps changed it by 0.12 at most" in grid.note
  assert "radius 0.05 in the block alone" in grid.note


def test_blocks_of_an_older_version_lack_what_it_did_not_measure(results):
  old = [
    {k: v for k, v in row.items() if "effective" not in k and k not in ("layer_sam_first_order", "layer_rho")}
    for row in results.rows
    if row["arm"] == "hinge" and row["loss"] == "cross_entropy"
  ]
  [grid] = flatness_tables.blocks(Results(results.config, {}, old, {}, frozenset()))
  assert grid.rows[0] == ["stem", "1.5", "0.01", "6 ± 0.5", "-", "-"]
  assert "Effective dimension" not in grid.note
  assert "effective dimension -, SAM -" in flatness_tables.terminal_table(old)


def with_negative(row):
  return row | {"lambda_by_magnitude": -250.0, "residual_by_magnitude": 0.002}


def test_an_eigenvalue_of_larger_magnitude_is_told(results):
  """A negative one: λ_max is the largest in the algebraic sense."""
  rows = [with_negative(row) if row["kind"] == "flatness" else row for row in results.rows]
  [grid] = flatness_tables.conditions(Results(results.config, {}, rows, {}, frozenset()))
  cells = dict(zip(grid.header, grid.rows[0], strict=True))
  assert (cells["λ_max"], cells["residual"]) == ("100", "4.0e-03")
  assert (cells["by magnitude"], cells["its residual"]) == ("-250", "2.0e-03")
  of_hinge = [row for row in rows if row["arm"] == "hinge"]
  text = flatness_tables.terminal_table(of_hinge)
  assert "lambda_by_magnitude" in text
  assert "-250" in text
  same = [
    row | {"lambda_by_magnitude": row["lambda_max"], "residual_by_magnitude": row["residual"]}
    for row in of_hinge
    if row["kind"] == "flatness"
  ]
  assert "lambda_by_magnitude" not in flatness_tables.terminal_table(same)
  [grid] = flatness_tables.conditions(results)  # of an older version
  assert dict(zip(grid.header, grid.rows[0]))["by magnitude"] == "-"


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
  assert lines["block stem"].endswith(
    "1.5 (residual 1.0e-02), trace 6 ± 0.5, effective dimension 2 ± 0.25, SAM 0.005"
  )
  assert lines["block head"].split()[2] == "~3.5"
  assert lines["sharpness rho"].split()[-2:] == ["0.05", "0.05"]
  assert lines["images"].split()[1] == "cifar10/train"
