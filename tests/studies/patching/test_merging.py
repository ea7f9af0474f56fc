"""All patching tasks in one model, by every method."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl import tree, weights
from jaxtl.config import parse
from jaxtl.errors import ConfigError
from jaxtl.report import write as report
from jaxtl.report.results import load
from jaxtl.studies.patching import fine_tuning, merging
from jaxtl.studies.patching import tables as patching_tables
from jaxtl.studies.patching.settings import METHODS, MORE_METHODS, Merging, Patching
from jaxtl.weights import objective
from tests.studies.patching.test_study import base, bench_of, checkpointed, run, task

pytestmark = pytest.mark.slow

__all__ = ["base", "checkpointed"]


@pytest.fixture
def many(base):
  return dict(base, patching=dict(two=base["patching"]["two"], three=task(20, names="uvw")))


def rows_of(many, runtime, tmp_path, **keywords):
  bench = bench_of(many, runtime, tmp_path)
  return bench, list(merging.rows(bench, Merging(**keywords)))


def test_every_method_has_a_row_and_the_report_shows_them(many, runtime, tmp_path):
  found = run(
    many,
    runtime,
    tmp_path / "run",
    merging=dict(step=0.5, max_sweeps=1, num_fisher=16, methods=[*METHODS, *MORE_METHODS]),
  )
  rows = [row for row in found if row["kind"] == "merge"]
  methods = {*METHODS, *MORE_METHODS} - {"negation"}
  assert {row["method"] for row in rows} == {*methods, "negation of two", "negation of three"}
  for row in rows:
    assert set(row["test_top1"]) == {"old", "two", "three"}
    assert row["num_evaluations"] > 0 or row["method"] in ("uniform_soup", "fisher")
    patched = np.mean([row["test_top1"][name] for name in ("two", "three")])
    assert row["test_patching_top1"] == pytest.approx(patched)
    assert row["normalisation"] == "initial"
  report.write(tmp_path / "run", tmp_path / "out")
  text = (tmp_path / "out" / "report.md").read_text()
  assert "All patching tasks in one model" in text
  assert "Merges of a" in text
  tables = patching_tables.make_tables(load(tmp_path / "run"))
  assert {column.group for column in tables[1].columns} == {row["method"] for row in rows}


def test_a_soup_and_task_arithmetic_are_what_they_say(many, runtime, tmp_path):
  bench = bench_of(many, runtime, tmp_path)
  scale = merging._Scale(bench)
  models = [bench.fine_tuned(name) for name in ("two", "three")]
  soup = merging._METHODS["uniform_soup"](bench, Merging(), scale).weights
  half = merging._sum(bench, merging._vectors(bench, scale), (0.5, 0.5))
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *models)
  for found in (soup, half):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found["params"], mean["params"])


def test_the_best_multiple_is_the_best_of_the_grid(many, runtime, tmp_path):
  bench = bench_of(many, runtime, tmp_path)
  scale, plan = merging._Scale(bench), Merging(step=0.25)
  vectors = merging._vectors(bench, scale)
  found = merging._METHODS["task_arithmetic"](bench, plan, scale)
  values = {c: scale.value(merging._sum(bench, vectors, (c, c))) for c in (0.25, 0.5, 0.75, 1.0)}
  assert found.coefficients == (min(values, key=values.get),) * 2


def test_parallel_is_never_worse_than_its_one_coefficient(many, runtime, tmp_path):
  _, [one] = rows_of(many, runtime, tmp_path, methods=("parallel",), max_sweeps=0)
  _, [each] = rows_of(many, runtime, tmp_path / "more", methods=("parallel",), max_sweeps=1)
  assert one["coefficients"][0] == one["coefficients"][1]
  assert each["objective"] <= one["objective"] + 1e-6
  assert each["num_evaluations"] > one["num_evaluations"]


def test_every_line_and_coordinate_has_the_bounds_of_the_search(many, runtime, tmp_path, monkeypatch):
  wide = dict(many, search=dict(fn=".weights.brent", bounds=[0.0, 1.2]))
  asked, evaluated = [], []
  search, line = weights.coordinate_search, fine_tuning.FineTunedTasks.line

  def noted(*arguments, **keywords):
    asked.append(keywords["bounds"])
    return search(*arguments, **keywords)

  def kept(*arguments):
    evaluated.append(line(*arguments))
    return evaluated[-1]

  monkeypatch.setattr(weights, "coordinate_search", noted)
  monkeypatch.setattr(fine_tuning.FineTunedTasks, "line", kept)
  rows_of(wide, runtime, tmp_path, methods=("joint", "sequential", "parallel"), max_sweeps=1)
  assert asked == [(0.0, 1.2)]
  searched = [[alpha for alpha, _, part in path._known if part == "validation"] for path in evaluated]
  # To the joint weights, to the mean of all, and to two of the sequence; specialists are only tested.
  assert [max(alphas) for alphas in searched if alphas] == [1.2] * 4


def test_sequential_patches_what_it_has_already_patched(many, runtime, tmp_path):
  bench, [row] = rows_of(many, runtime, tmp_path, methods=("sequential",))
  first = bench.fine_tuned("two", name="sequential/0_two")
  second = bench.fine_tuned("three", name="sequential/1_three")
  patched = weights.interpolate(bench.before, first, row["coefficients"][0])
  final = weights.interpolate(patched, second, row["coefficients"][1])
  scores = bench.tasks.scores("three", "test", final)
  assert scores["top1"] == row["test_top1"]["three"]
  assert scores["loss"] == pytest.approx(row["test_loss"]["three"], rel=1e-5)


def test_what_is_already_patched_counts_as_supported(many, runtime, tmp_path):
  bench, [row] = rows_of(many, runtime, tmp_path, methods=("sequential",))
  first = bench.fine_tuned("two", name="sequential/0_two")
  second = bench.fine_tuned("three", name="sequential/1_three")
  path = bench.line(weights.interpolate(bench.before, first, row["coefficients"][0]), second)
  found, without = (
    weights.optimize_alpha(bench.objective(path, supported, ["three"])).alpha
    for supported in (["old", "two"], ["old"])
  )
  assert row["coefficients"][1] == pytest.approx(found, abs=1e-4)
  assert abs(found - without) > 1e-2


def test_normalised_accuracy_is_a_share_of_the_specialists(many, runtime, tmp_path):
  bench, [row] = rows_of(many, runtime, tmp_path, methods=("uniform_soup",))
  shares = [
    row["test_top1"][name] / bench.tasks.scores(name, "test", bench.fine_tuned(name))["top1"]
    for name in ("two", "three")
  ]
  assert row["normalised_accuracy"] == pytest.approx(np.mean(shares))
  assert abs(row["normalised_accuracy"] - 1) > 0.01


@pytest.mark.parametrize("accuracies", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_share_of_a_specialist_without_accuracy_is_not_defined(
  many, runtime, tmp_path, monkeypatch, accuracies
):
  """With few test images a specialist may have none of them right."""
  single = dict(zip(("two", "three"), accuracies))
  monkeypatch.setattr(fine_tuning.FineTunedTasks, "specialist", lambda bench, name: {"top1": single[name]})
  run(many, runtime, tmp_path / "run", merging=dict(methods=["uniform_soup"]))
  table = patching_tables.make_tables(results := load(tmp_path / "run"))[1]
  assert "normalised" not in [column.title for column in table.columns]
  other = dict(next(row for row in results.rows if row["kind"] == "merge"), arm="b", normalised_accuracy=0.5)
  both = dataclasses.replace(
    results, rows=[*results.rows, other], config={**results.config, "arms": {"a": {}, "b": {}}}
  )
  [normalised] = [c for c in patching_tables.make_tables(both)[1].columns if c.title == "normalised"]
  assert [normalised.cell(arm).mean for arm in "ab"] == ["-", "0.500"]
  report.write(tmp_path / "run", tmp_path / "out")


def test_a_row_says_which_normalisation_was_in_use(many, runtime, tmp_path, monkeypatch):
  """Where the losses do not have two ends, endpoints falls back to initial."""
  monkeypatch.setattr(objective, "SMALLEST_RANGE", -1e9)
  _, [row] = rows_of(dict(many, normalise="endpoints"), runtime, tmp_path, methods=("uniform_soup",))
  assert row["normalisation"] == "endpoints"
  monkeypatch.setattr(objective, "SMALLEST_RANGE", 1e9)
  _, [row] = rows_of(dict(many, normalise="endpoints"), runtime, tmp_path / "flat", methods=("uniform_soup",))
  assert row["normalisation"] == "initial"


def test_negation_keeps_the_supported_tasks(many, runtime, tmp_path):
  bench, rows = rows_of(many, runtime, tmp_path, methods=("negation",), step=0.5)
  for row in rows:
    [coefficient] = row["coefficients"]
    assert coefficient in (0.0, -0.5, -1.0)
  scale = merging._Scale(bench)
  merged = merging._negation(bench, Merging(step=0.5), scale, "two")
  assert merging._supported(scale, merged.weights) >= 0.95 * merging._supported(scale, bench.before)


@pytest.mark.parametrize(
  ("method", "change"),
  [
    ("ties", dict(density=0.9)),
    ("ties", dict(aggregate="sum")),
    ("dare_ties", dict(drop=0.9)),
    ("dare_ties", dict(aggregate="sum")),
    ("dare", dict(drop=0.9)),
    ("fisher", dict(num_fisher=3)),
    ("task_arithmetic", dict(step=1.0)),
  ],
)
def test_an_option_changes_the_merge(many, runtime, tmp_path, method, change):
  bench = bench_of(many, runtime, tmp_path)
  scale = merging._Scale(bench)
  usual = Merging(step=0.5, num_fisher=16)
  before = merging._METHODS[method](bench, usual, scale).weights["params"]
  after = merging._METHODS[method](bench, dataclasses.replace(usual, **change), scale).weights["params"]
  assert tree.norm(tree.sub(before, after)) > 0


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_without_a_drop_dare_before_ties_is_ties_of_the_plan(many, runtime, tmp_path, aggregate):
  bench = bench_of(many, runtime, tmp_path)
  scale, plan = merging._Scale(bench), Merging(step=1.0, density=0.5, aggregate=aggregate, drop=0.0)
  found = [merging._METHODS[name](bench, plan, scale).weights["params"] for name in ("dare_ties", "ties")]
  one = weights.ties(merging._vectors(bench, scale), density=0.5, aggregate=aggregate)
  expected = weights.task_arithmetic(bench.before["params"], [one], [1.0])
  for params in found:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)


def test_statistics_are_estimated_for_merged_weights(many, runtime, tmp_path):
  stored = bench_of(many, runtime, tmp_path)
  new = bench_of(many, runtime, tmp_path, statistics_batches=2)
  soups = [
    merging._METHODS["uniform_soup"](bench, Merging(), merging._Scale(bench)).weights
    for bench in (stored, new)
  ]
  assert tree.norm(tree.sub(soups[0]["batch_stats"], soups[1]["batch_stats"])) > 0


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(methods=()), "methods is .*some of joint"),
    (dict(methods=("stew",)), "methods is .*some of joint"),
    (dict(step=0.0), "step is 0.0"),
    (dict(density=2.0), "density is 2.0"),
    (dict(aggregate="median"), "aggregate is 'median'; expected one of 'mean', 'sum'"),
    (dict(drop=-1.0), "drop is -1.0"),
    (dict(num_fisher=0), "num_fisher is 0"),
    (dict(max_sweeps=-1), "max_sweeps is -1"),
  ],
)
def test_a_plan_out_of_range_is_one_line(keywords, message):
  with pytest.raises(ConfigError, match=message):
    parse(keywords, Merging)


def test_heads_that_are_trained_cannot_be_merged(many):
  with pytest.raises(ConfigError, match=r"merging is .*expected None where heads are trained"):
    parse(many | dict(merging=dict(), train_head=True), Patching)
