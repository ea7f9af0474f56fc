"""Curves with known answers, and the coverage of the interval of a rise."""

import math

import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.errors import InputError


def test_the_least_is_the_first_of_equal_ones():
  found = metrics.loss_curve([0.9, 0.4, 0.4, 0.5])
  assert (found.least_epoch, found.least, found.last) == (2, 0.4, 0.5)
  assert found.rise == pytest.approx(0.1)
  assert found.relative_rise == pytest.approx(0.25)


def test_a_falling_curve_does_not_rise():
  found = metrics.loss_curve([3.0, 2.0, 1.0])
  assert (found.least_epoch, found.rise, found.relative_rise) == (3, 0.0, 0.0)
  assert math.isnan(found.slope)


def test_a_curve_of_zeros_has_no_relative_rise():
  assert metrics.loss_curve([0.0, 0.0]).relative_rise == 0.0


def test_the_slope_is_that_of_the_line_after_the_least():
  losses = [2.0, *(1.0 + 0.25 * step for step in range(6))]
  assert metrics.loss_curve(losses).slope == pytest.approx(0.25)
  assert math.isnan(metrics.loss_curve(losses[:5]).slope)  # four points


def test_one_lucky_epoch_is_not_the_smooth_least():
  found = metrics.loss_curve([5.0, 0.5, 5.0, 2.0, 1.0, 1.0, 1.0, 2.0])
  assert (found.least_epoch, found.smooth_epoch) == (2, 6)
  assert metrics.loss_curve([2.0, 1.0]).smooth_epoch == 2


@pytest.mark.parametrize("losses", [[], [1.0, math.nan], [math.inf]])
def test_curves_without_numbers_are_refused(losses):
  with pytest.raises(InputError, match="expected finite losses, one for each epoch"):
    metrics.loss_curve(losses)


def test_a_rise_of_every_image_leaves_zero_and_none_does_not():
  rng = np.random.default_rng(0)
  chosen = rng.exponential(size=400)
  up = metrics.rise_interval(chosen + 0.1, chosen)
  assert up == pytest.approx((0.1, 0.1, 0.1))
  same = metrics.rise_interval(chosen, chosen)
  assert same == (0.0, 0.0, 0.0)
  assert not same.excludes_zero


def test_the_interval_covers_no_rise_in_95_of_100_sets():
  # 300 sets without a rise: 15 misses are expected; more than 33 have a probability below 1e-5.
  rng = np.random.default_rng(1)
  misses = 0
  for seed in range(300):
    difference = rng.normal(size=120)
    chosen = rng.exponential(size=120)
    found = metrics.rise_interval(chosen + difference, chosen, draws=200, seed=seed)
    misses += found.excludes_zero
  assert misses <= 33


def test_level_draws_and_seed_change_the_interval():
  rng = np.random.default_rng(2)
  last, chosen = rng.normal(size=(2, 50))
  base = metrics.rise_interval(last, chosen)
  assert metrics.rise_interval(last, chosen, level=0.5).low > base.low
  assert metrics.rise_interval(last, chosen, seed=1).low != base.low
  assert metrics.rise_interval(last, chosen, draws=10).low != base.low


def test_losses_of_other_images_are_refused():
  with pytest.raises(InputError, match=r"the losses of the same images, got \(2,\) and \(3,\)"):
    metrics.rise_interval(np.ones(2), np.ones(3))


@pytest.mark.parametrize(
  ("losses", "patience", "expected"),
  [
    ([3.0, 2.0, 1.0], 5, (3, 3)),
    ([3.0, 1.0, 2.0, 2.0, 2.0, 0.5], 2, (2, 4)),
    ([3.0, 1.0, 2.0, 2.0, 2.0, 0.5], 5, (6, 6)),
    ([1.0, 1.0, 1.0], 2, (1, 3)),  # an equal loss is not a lower one
  ],
)
def test_early_stopping_restores_the_least_so_far(losses, patience, expected):
  assert metrics.patience_epoch(losses, patience=patience) == expected
