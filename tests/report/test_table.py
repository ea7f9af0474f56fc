import math

import pytest

from jaxtl.report import results as results_lib
from jaxtl.report.table import (
  ABSENT,
  Column,
  TableCell,
  decimals_for,
  mean_and_spread,
  mean_ranks,
  ranks,
  spearman,
)
from jaxtl.studies.pretrain.tables import make_table
from tests.report import example_study


def column(values, **keywords):
  return Column("title", "group", "measure", values, **keywords)


def test_mean_and_spread_by_hand():
  mean, spread = mean_and_spread([1.0, 2.0, 6.0])
  assert mean == 3.0
  assert spread == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_one_value_has_no_spread():
  mean, spread = mean_and_spread([0.5])
  assert mean == 0.5
  assert math.isnan(spread)
  assert TableCell({0: 0.5}, 3).spread == ""


def test_ranks_share_ties():
  assert ranks([0.9, 0.7, 0.9, 0.1]) == [1.5, 3.0, 1.5, 4.0]


def test_mean_rank_by_hand():
  digits = {"a": {0: 0.9, 1: 0.5}, "b": {0: 0.8, 1: 0.5}, "c": {0: 0.1, 1: 0.2}}
  pets = {"a": {0: 0.3, 1: 0.9}, "b": {0: 0.4, 1: 0.1}, "c": {0: 0.5, 1: 0.2}}
  # Seed 0: digits 1 2 3, pets 3 2 1. Seed 1: digits 1.5 1.5 3, pets 1 3 2.
  found = mean_ranks([digits, pets])
  assert found == {"a": {0: 2.0, 1: 1.25}, "b": {0: 2.0, 1: 2.25}, "c": {0: 2.0, 1: 2.5}}


def test_mean_rank_counts_only_seeds_that_every_arm_has():
  assert mean_ranks([{"a": {0: 0.9, 1: 0.1}, "b": {0: 0.8}}]) == {"a": {0: 1.0}, "b": {0: 2.0}}
  assert mean_ranks([{"a": {0: 0.9}, "b": {1: 0.8}}]) == {}
  assert mean_ranks([]) == {}


def test_spearman_is_the_correlation_of_ranks():
  assert spearman([1, 2, 3, 4], [10, 100, 1000, 2000]) == pytest.approx(1)
  # One swap of neighbours among four: 1 - 6 * 2 / (4 * 15).
  assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
  assert spearman([1, 2], [1, 2]) is None
  assert spearman([1, 2, 3], [5, 5, 5]) is None


def test_best_is_what_is_printed_best():
  accuracy = column({"a": {0: 0.70004}, "b": {0: 0.70001}, "c": {0: 0.6}})
  assert [accuracy.is_best(arm) for arm in "abc"] == [True, True, False]
  assert [column(accuracy.values, better=-1).is_best(arm) for arm in "abc"] == [False, False, True]
  assert not any(column(accuracy.values, better=0).is_best(arm) for arm in "abc")
  assert not column({"a": {0: 0.7}}).is_best("a")


def test_absent_values_show_a_dash():
  assert column({}).cell("a").mean == ABSENT


def test_decimals_show_about_three_digits():
  assert decimals_for({"a": {0: 123.4}}) == 0
  assert decimals_for({"a": {0: 12.34}}) == 1
  assert decimals_for({"a": {0: 0.01234}}) == 4
  assert decimals_for({}) == 2


def test_mean_over_targets_is_by_seed(tmp_path):
  results = results_lib.load(example_study.write(tmp_path))
  table = make_table(results, "fine_tune")
  mean = next(c for c in table.columns if c.title == "mean").values["sam"][1]
  by_hand = [
    row["accuracy"]
    for row in results.rows
    if (row["arm"], row["seed"], row.get("protocol")) == ("sam", 1, "fine_tune")
  ]
  assert len(by_hand) == 6
  assert mean == pytest.approx(sum(by_hand) / 6)


def test_from_scratch_is_ranked_like_the_others(tmp_path):
  table = make_table(results_lib.load(example_study.write(tmp_path)), "fine_tune")
  rank = next(c for c in table.columns if c.title == "mean rank")
  assert rank.cell("from_scratch").mean == "6.00"
  lambda_max = next(c for c in table.columns if c.title == "λ_max")
  assert lambda_max.cell("from_scratch").mean == ABSENT


def test_best_is_shown_only_where_it_is_another_number_than_the_last(tmp_path):
  results = results_lib.load(example_study.write(tmp_path))
  tables = {name: make_table(results, name) for name in example_study.PROTOCOLS}
  beside = {
    name: [c.cell("sam").beside for c in t.columns if c.title == "digits"] for name, t in tables.items()
  }
  last = next(c for c in tables["fine_tune"].columns if c.title == "digits").cell("sam")
  assert float(beside["fine_tune"][0]) == pytest.approx(float(last.mean) + 0.004, abs=0.0011)
  assert beside["linear_probe"] == [""]


def test_speed_is_relative_to_the_first_arm(tmp_path):
  table = make_table(results_lib.load(example_study.write(tmp_path)), "fine_tune")
  speed = next(c for c in table.columns if c.title == "speed")
  assert speed.cell("cross_entropy").mean == "1.00"
  assert speed.cell("sam").mean == "0.50"
  assert speed.cell("from_scratch").mean == ABSENT
