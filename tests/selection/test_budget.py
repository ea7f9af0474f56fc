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
  rows = [row("fast", hits=150, milliseconds=1.0), row("slow", hits=100, milliseconds=4.0)]
  return rank_weights(rows, by="ridge", target=TARGET).places


def divided(given, *, spent=0.0, most=10**6):
  return budget.divide(given, places(), spent=spent, rates=3, batch_size=10, most=most)


def test_steps_are_divided_evenly_over_weights_and_rates():
  assert divided(Budget(steps=60)) == {"fast": 10, "slow": 10}
  assert divided(Budget(steps=65)) == {"fast": 10, "slow": 10}
  assert divided(Budget(steps=60), spent=1e9) == {"fast": 10, "slow": 10}
  assert divided(Budget(steps=60), most=4) == {"fast": 4, "slow": 4}
  budget.check_budget(Budget(steps=6), weights=2, rates=3)
  with pytest.raises(ConfigError, match="too small for 2 weights at 3 rates; expected at least 6"):
    budget.check_budget(Budget(steps=5), weights=2, rates=3)


def test_time_is_what_the_scores_have_left_of_it():
  # A step of 10 images takes 3.5 forward passes: 35 and 140 ms. 80 % of 105.1 s over 6 trainings are 14 s.
  assert divided(Budget(seconds=105.1)) == {"fast": 400, "slow": 100}
  assert divided(Budget(seconds=205.1), spent=100.0) == {"fast": 400, "slow": 100}
  assert divided(Budget(seconds=105.1), most=150) == {"fast": 150, "slow": 100}
  # A weight that gets no step is left out.
  assert divided(Budget(seconds=0.6)) == {"fast": 2}
  assert divided(Budget(seconds=5.0), spent=9.0) == {}
