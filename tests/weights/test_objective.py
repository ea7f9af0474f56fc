"""The objective of a patch: its four scales, its groups, and what is remembered."""

import math

import numpy as np
import pytest

from jaxtl import weights
from jaxtl.errors import ConfigError, InputError, NonFiniteError
from jaxtl.weights import PaintObjective


def old(a):
  return 0.35 + a**2


def new(a):
  return 0.05 + 2.5 * (1 - a) ** 2


def objective(normalise="initial", *, factor=1.0, offset=0.0, **keywords):
  def evaluate(alpha):
    evaluate.calls.append(alpha)
    return {"old": offset + factor * old(alpha), "new": new(alpha)}

  evaluate.calls = []
  made = PaintObjective(evaluate, supported=["old"], patching=["new"], normalise=normalise, **keywords)
  made.calls = evaluate.calls
  return made


CLASSES = {"old": 10, "new": 43}


@pytest.mark.parametrize(
  ("normalise", "expected"),
  [
    ("initial", lambda a: old(a) / old(0) + new(a) / new(0)),
    ("endpoints", lambda a: a**2 + (1 - a) ** 2),
    ("log_classes", lambda a: old(a) / math.log(10) + new(a) / math.log(43)),
    ("none", lambda a: old(a) + new(a)),
  ],
)
def test_each_scale_is_its_formula(normalise, expected):
  made = objective(normalise, num_classes=CLASSES)
  for alpha in (0.0, 0.3, 1.0):
    np.testing.assert_allclose(made(alpha), expected(alpha), rtol=1e-12)
  assert made.normalisation == normalise


def test_the_optimum_has_a_closed_form():
  made = objective()
  found = weights.optimize_alpha(made)
  np.testing.assert_allclose(found.alpha, 0.2554745, atol=1e-7)
  assert found.num_evaluations == made.num_evaluations == len(made.calls) == 11


@pytest.mark.parametrize("normalise", ["initial", "endpoints", "none"])
def test_the_factor_of_a_loss_matters_only_without_a_scale(normalise):
  plain, scaled = (weights.optimize_alpha(objective(normalise, factor=f)).alpha for f in (1.0, 10.0))
  assert (abs(plain - scaled) < 1e-9) == (normalise != "none")


def test_the_offset_of_a_loss_does_not_matter_between_end_points():
  plain, moved = (weights.optimize_alpha(objective("endpoints", offset=o)).alpha for o in (0.0, 0.5))
  np.testing.assert_allclose(plain, moved, atol=1e-9)


def test_swapping_the_roles_mirrors_alpha():
  losses = lambda a: {"old": 0.2 + a**2, "new": 0.1 + (1 - a) ** 4}  # noqa: E731
  there = PaintObjective(losses, supported=["old"], patching=["new"], normalise="endpoints")
  back = PaintObjective(lambda a: losses(1 - a), supported=["new"], patching=["old"], normalise="endpoints")
  found, mirrored = weights.optimize_alpha(there), weights.optimize_alpha(back)
  np.testing.assert_allclose(found.alpha, 1 - mirrored.alpha, atol=1e-6)


@pytest.mark.parametrize(
  "losses", [lambda a: (1 - 0.2 * a, 1 - a / 2), lambda a: (1 + a, 1 + 5e-4 * a), lambda a: (1 + a, 1.0)]
)
def test_end_points_that_span_nothing_fall_back_to_the_initial_loss(losses):
  made = PaintObjective(
    lambda a: dict(zip(("old", "new"), losses(a), strict=True)),
    supported=["old"],
    patching=["new"],
    normalise="endpoints",
  )
  np.testing.assert_allclose(made(0.5), sum(losses(0.5)), rtol=1e-12)
  assert made.normalisation == "initial"


def test_tasks_are_averaged_within_their_group():
  evaluate = lambda a: {"s": 1 + a, "p": 2 - a, "q": 4 - 3 * a}  # noqa: E731
  made = PaintObjective(evaluate, supported=["s"], patching=["p", "q"], normalise="none", weights=(1.0, 0.5))
  np.testing.assert_allclose(made(0.5), 1.5 + 0.5 * (1.5 + 2.5) / 2)
  assert made.losses[0.5] == {"s": 1.5, "p": 1.5, "q": 2.5}


def test_a_repeated_alpha_costs_nothing():
  made = objective("none")
  assert made(0.3) == made(0.3 + 1e-14) == made(0.1 + 0.2)
  assert made.calls == [0.3]


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(supported=[]), "supported is empty"),
    (dict(patching=[]), "patching is empty"),
    (dict(patching=["new", "old"]), "'old' is named twice"),
    (dict(normalise="mean"), "normalise is 'mean'"),
    (dict(normalise="log_classes"), "num_classes of at least 2 for 'old'"),
    (dict(normalise="log_classes", num_classes={"old": 10, "new": 1}), "at least 2 for 'new'"),
    (dict(weights=(0.0, 0.0)), "not both 0"),
    (dict(weights=(-1.0, 1.0)), "two numbers of 0 or more"),
  ],
)
def test_bad_options_are_one_line(keywords, message):
  with pytest.raises(ConfigError, match=message) as caught:
    PaintObjective(lambda a: {}, **dict(supported=["old"], patching=["new"]) | keywords)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("losses", "error", "message"),
  [
    ({"old": 1.0}, InputError, "no loss for the task 'new'; there are old"),
    ({"old": 1.0, "new": math.nan}, NonFiniteError, "'new' is nan at alpha 0"),
    ({"old": 0.0, "new": 1.0}, InputError, "'old' is 0 at alpha 0.*normalise='none'"),
  ],
)
def test_bad_losses_are_one_line(losses, error, message):
  with pytest.raises(error, match=message) as caught:
    PaintObjective(lambda a: losses, supported=["old"], patching=["new"])(0.0)
  assert "\n" not in str(caught.value)
