"""Exact tests by enumeration, Holm's rule by hand, and intervals under a simulated null."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxtl import metrics
from jaxtl.errors import ConfigError, InputError


def test_one_against_eight_images():
  assert metrics.mcnemar(1, 8) == 0.0390625 == metrics.mcnemar(8, 1)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (3, 3), (2, 9), (40, 60), (0, 30)])
def test_it_is_the_exact_binomial_test(b, c):
  expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
  assert metrics.mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


def test_negative_counts_are_refused():
  with pytest.raises(InputError, match="expected numbers of images, got -1 and 2"):
    metrics.mcnemar(-1, 2)


def test_holm_by_hand_in_any_order():
  given = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
  expected = {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
  for names in itertools.permutations(given):
    found = metrics.holm({name: given[name] for name in names})
    assert list(found) == list(names)
    assert found == pytest.approx(expected)


def test_holm_ends_at_one_and_refuses_what_is_no_share():
  assert metrics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
  assert metrics.holm({}) == {}
  with pytest.raises(InputError, match=r"the p-value of b is 1\.5"):
    metrics.holm({"b": 1.5})


def test_arms_without_a_difference_are_told_apart_in_7_of_100_at_most():
  # Three seeds, with a spread of their own: an interval over images alone would miss far more often.
  rng = np.random.default_rng(4)
  told_apart = 0
  for number in range(300):
    effects = rng.normal(0, 0.02, (3, 1))
    first, second = rng.normal(effects, 1.0, (3, 100)), rng.normal(0, 1.0, (3, 100))
    told_apart += metrics.seeds_and_images(first - second, draws=200, seed=number).excludes_zero
  assert told_apart / 300 <= 0.07


def test_a_clear_difference_is_found_and_the_options_change_the_interval():
  rng = np.random.default_rng(5)
  differences = rng.normal(0.5, 1.0, (3, 400))
  found = metrics.seeds_and_images(differences)
  assert found.estimate == pytest.approx(differences.mean())
  assert found.low > 0.3
  assert metrics.seeds_and_images(differences, level=0.5).low > found.low
  assert metrics.seeds_and_images(differences, seed=1).low != found.low
  assert metrics.seeds_and_images(differences, draws=10).low != found.low


def test_the_spread_of_seeds_is_a_part_of_the_interval():
  images = np.random.default_rng(6).normal(0, 0.1, (4, 200))
  seeds = np.array([[-1.0], [1.0], [-1.0], [1.0]])
  narrow, wide = (metrics.seeds_and_images(x) for x in (images, images + seeds))
  assert wide.high - wide.low > 10 * (narrow.high - narrow.low)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((0, 3)), np.full((2, 2), np.nan)])
def test_what_is_no_table_of_differences_is_refused(bad):
  with pytest.raises(InputError, match=r"expected finite differences \[seeds, images\]"):
    metrics.seeds_and_images(bad)


@pytest.mark.parametrize("options", [dict(draws=0), dict(level=1.0)])
def test_bad_options_are_refused(options):
  with pytest.raises(ConfigError, match="expected at least 1, and a share"):
    metrics.seeds_and_images(np.ones((2, 2)), **options)
