"""How a budget of steps or of time is divided among the weights that are fine-tuned after a ranking."""

from __future__ import annotations

import bisect
import dataclasses
import math
import re
from collections.abc import Sequence

from jaxtl.errors import ConfigError
from jaxtl.selection.ranking import Place

# A forward and backward pass in forward passes: the backward pass takes about twice the forward one, and the
# optimiser the rest.
PASSES = 3.5
# Share of the time that is planned; compilation and checkpoints take the rest.
PLANNED = 0.8
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclasses.dataclass(frozen=True)
class Budget:
  """The most that fine-tuning may cost.

  Attributes:
    steps: of all trainings together; None if the budget is one of time.
    seconds: of the whole command, scoring included; None if the budget is one of steps.
  """

  steps: int | None = None
  seconds: float | None = None


def parse_budget(text: str) -> Budget:
  """Parses a budget such as "900steps", "30min", "2h" or "45s".

  Raises:
    ConfigError: the text is not a positive number with a unit.
  """
  found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|s|min|h)\s*", text)
  amount = float(found.group(1)) if found else 0.0
  if found is None or amount <= 0:
    raise ConfigError(
      f"--finetune-budget is {text!r}; expected steps or a time (for example 900steps or 30min)"
    )
  unit = found.group(2)
  if not unit.startswith("step"):
    return Budget(seconds=amount * _SECONDS[unit])
  if not amount.is_integer():
    raise ConfigError(
      f"--finetune-budget is {text!r}; expected a whole number of steps (for example 900steps)"
    )
  return Budget(steps=int(amount))


def check_budget(budget: Budget, *, weights: int, rates: int) -> None:
  """Refuses a budget that has less than one step for each training.

  Raises:
    ConfigError: it is too small.
  """
  if budget.steps is not None and budget.steps < weights * rates:
    raise ConfigError(
      f"--finetune-budget of {budget.steps} steps is too small for {weights} weights at {rates} rates; "
      f"expected at least {weights * rates}, or fewer weights by --first"
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What the cost of a fine-tuning depends on, besides the weight.

  Attributes:
    rates: trainings of each weight.
    batch_size: images per step.
    num_train: training images.
    num_evaluated: images that are evaluated after each epoch.
    most: steps of the longest useful training.
  """

  rates: int
  batch_size: int
  num_train: int
  num_evaluated: int
  most: int


def divide(budget: Budget, places: Sequence[Place], recipe: Recipe, *, spent: float) -> dict[str, int]:
  """Divides what is left of a budget evenly among weights: equal steps, or equal time.

  Args:
    budget: the whole budget.
    places: the weights to fine-tune.
    recipe: of the fine-tuning.
    spent: seconds since the command began.

  Returns:
    weight -> steps of each of its trainings; weights without a single step are left out.
  """
  found = {}
  for place in places:
    if budget.steps is not None:
      steps = min(budget.steps // (len(places) * recipe.rates), recipe.most)
    else:
      share = PLANNED * (float(budget.seconds or 0.0) - spent) / len(places)
      steps = bisect.bisect_right(
        range(1, recipe.most + 1), share, key=lambda steps: tuning_seconds(place, steps, recipe)
      )
    if steps >= 1:
      found[place.name] = steps
  return found


def tuning_seconds(place: Place, steps: int, recipe: Recipe) -> float:
  """Estimates the seconds of all trainings of a weight from its measured pass over the images.

  An image costs its share of that pass, which includes reading it, and a training step further forward passes
  for the backward pass. The probe sees every image once, and each epoch ends with an evaluation.

  Args:
    place: the weight.
    steps: of each training.
    recipe: of the fine-tuning.
  """
  image = float(place.row["seconds"]) / int(place.row["num_images"])
  step = recipe.batch_size * (image + (PASSES - 1) * float(place.row["milliseconds_per_image"]) / 1000)
  evaluations = math.ceil(steps * recipe.batch_size / recipe.num_train)
  trainings = recipe.rates * (steps * step + evaluations * recipe.num_evaluated * image)
  return trainings + (recipe.num_train + recipe.num_evaluated) * image
