"""Crossings of known lines: inside, before, after, and several."""

import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.errors import InputError


def test_a_line_in_the_logarithm_crosses_where_it_should():
  sizes = [1, 10, 100, 1000]
  found = metrics.crossover(sizes, np.log10(sizes) - 1.5)
  assert found.where == "inside"
  assert found.size == pytest.approx(10**1.5)


def test_without_a_crossing_the_side_is_told():
  assert metrics.crossover([1, 2, 4], [0.1, 0.2, 0.3]) == ("below", None)
  assert metrics.crossover([1, 2, 4], [-0.1, -0.2, -0.3]) == ("above", None)
  assert metrics.crossover([1, 2, 4], [0.3, 0.2, -0.1]) == ("above", None)
  assert metrics.crossover([1, 2], [0.0, 0.0]) == ("above", None)


def test_the_last_of_several_crossings_counts():
  found = metrics.crossover([1, 10, 100, 1000, 10000], [-1, 1, -1, 1, 2])
  assert found.size == pytest.approx(10**2.5)


def test_a_size_without_a_difference_is_the_crossing():
  assert metrics.crossover([1, 10, 100], [-1, 0, 1]).size == pytest.approx(10)


def test_the_interval_covers_the_true_size():
  # 200 studies of 5 seeds; percentile intervals of 5 curves are narrow, so 70 % of them is what is asked.
  rng = np.random.default_rng(0)
  sizes = np.array([1, 3, 10, 30, 100, 300])
  covered = 0
  for number in range(200):
    curves = np.log(sizes) - np.log(20) + rng.normal(0, 1.0, (5, 1)) + rng.normal(0, 0.2, (5, 6))
    found = metrics.crossover_interval(sizes, curves, draws=200, seed=number)
    covered += (found.low or 0) <= 20 <= (found.high or np.inf)
  assert covered >= 140


def test_resamples_without_a_crossing_are_beyond_the_sizes_and_counted():
  sizes = [1, 10, 100]
  curves = np.array([[-1, -1, 1], [1, 1, 1], [-1, -1, -1.0]])
  found = metrics.crossover_interval(sizes, curves, draws=2000)
  assert found.low is None
  assert found.high is None
  assert 0.2 < found.share_inside < 0.9
  same = np.tile([-1.0, -1.0, 1.0], (3, 1))
  sure = metrics.crossover_interval(sizes, same)
  assert (sure.low, sure.high, sure.share_inside) == pytest.approx((10**1.5, 10**1.5, 1.0))
  assert sure.found.size == pytest.approx(10**1.5)


def test_level_seed_and_draws_change_the_interval():
  rng = np.random.default_rng(1)
  sizes = [1, 10, 100, 1000]
  curves = np.log10(sizes) - 1.5 + rng.normal(0, 0.5, (6, 4))
  base = metrics.crossover_interval(sizes, curves)
  assert metrics.crossover_interval(sizes, curves, level=0.5).low > base.low
  assert metrics.crossover_interval(sizes, curves, draws=5).low != base.low
  lows = {metrics.crossover_interval(sizes, curves, draws=50, seed=seed).low for seed in range(4)}
  assert len(lows) > 1


@pytest.mark.parametrize(
  ("sizes", "differences"), [([1], [1]), ([2, 1], [1, 2]), ([0, 1], [1, 2]), ([1, 2], [1, 2, 3])]
)
def test_sizes_that_do_not_ascend_are_refused(sizes, differences):
  with pytest.raises(InputError, match="expected a difference for each of at least two ascending sizes"):
    metrics.crossover(sizes, differences)


def test_one_curve_alone_is_not_a_table():
  with pytest.raises(InputError, match=r"expected differences \[seeds, sizes\]"):
    metrics.crossover_interval([1, 2], np.array([1.0, 2.0]))
