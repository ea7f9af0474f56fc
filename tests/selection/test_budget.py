"""Budgets of fine-tuning: what they say, and how they are divided."""

import pytest

from jaxtl.errors import ConfigError
from jaxtl.selection import budget
from jaxtl.selection.budget import Budget
from jaxtl.selection.ranking import rank_weights
from tests.selection.rows import TARGET, row


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("900steps", Budget(steps=900)),
    ("1 step", Budget(steps=1)),
    ("45s", Budget(seconds=45.0)),
    ("30min", Budget(seconds=1800.0)),
    ("1.5h", Budget(seconds=5400.0)),
  ],
)
def test_a_budget_has_a_unit(text, expected):
  assert budget.parse_budget(text) == expected


@pytest.mark.parametrize("text", ["900", "0min", "-3steps", "1.5steps", "ten min", "", "3 days"])
def test_other_texts_are_refused_in_one_line(text):
  with pytest.raises(ConfigError, match=r"--finetune-budget is .*for example 900steps"):
    budget.parse_budget(text)


def places():
  # A pass of 200 images in 1 s: 5 ms per image. The forward pass of one takes 1 ms and 4 ms.
  rows = [row("fast", hits=150, milliseconds=1.0), row("slow", hits=100, milliseconds=4.0)]
  return rank_weights(rows, by="ridge", target=TARGET).places


def recipe(**changes):
  values = dict(rates=3, batch_size=10, num_train=100, num_evaluated=50, most=10**6) | changes
  return budget.Recipe(**values)


def divided(given, *, spent=0.0, **changes):
  return budget.divide(given, places(), recipe(**changes), spent=spent)


def test_steps_are_divided_evenly_over_weights_and_rates():
  assert divided(Budget(steps=60)) == {"fast": 10, "slow": 10}
  assert divided(Budget(steps=65)) == {"fast": 10, "slow": 10}
  assert divided(Budget(steps=60), spent=1e9) == {"fast": 10, "slow": 10}
  assert divided(Budget(steps=60), most=4) == {"fast": 4, "slow": 4}
  budget.check_budget(Budget(steps=6), weights=2, rates=3)
  with pytest.raises(ConfigError, match="too small for 2 weights at 3 rates; expected at least 6"):
    budget.check_budget(Budget(steps=5), weights=2, rates=3)


def test_a_fine_tuning_costs_its_steps_its_evaluations_and_the_probe():
  fast, slow = places()
  # A step has 10 images of 5 ms and 2.5 further forward passes: 75 ms and 150 ms. An evaluation has 50 images
  # of 5 ms, and the probe 150.
  assert budget.tuning_seconds(fast, 10, recipe()) == pytest.approx(3 * (10 * 0.075 + 0.25) + 0.75)
  assert budget.tuning_seconds(slow, 11, recipe()) == pytest.approx(3 * (11 * 0.150 + 2 * 0.25) + 0.75)


def test_time_is_what_the_scores_have_left_of_it():
  # 80 % of 10 s are 4 s for each: `fast` takes 3.75 s for 10 steps and 4.725 s for 11, with one evaluation
  # more; `slow` takes 3.75 s for 5 steps and 4.2 s for 6.
  assert divided(Budget(seconds=10.0)) == {"fast": 10, "slow": 5}
  assert divided(Budget(seconds=110.0), spent=100.0) == {"fast": 10, "slow": 5}
  assert divided(Budget(seconds=10.0), most=7) == {"fast": 7, "slow": 5}
  # A weight that gets no step is left out: 1.725 s and 1.95 s for one step.
  assert divided(Budget(seconds=4.5)) == {"fast": 1}
  assert divided(Budget(seconds=5.0), spent=9.0) == {}
