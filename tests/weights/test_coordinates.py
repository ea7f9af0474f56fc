"""Searches of several coefficients: closed forms of quadratic functions, and what is refused."""

import functools
import math

import numpy as np
import pytest

from jaxtl import weights
from jaxtl.errors import ConfigError, NonFiniteError

OPTIMUM = np.array([0.2, 0.7, 0.45])


def quadratic(hessian):
  return lambda c: 1 + 0.5 * (np.array(c) - OPTIMUM) @ hessian @ (np.array(c) - OPTIMUM)


def test_coefficients_that_do_not_interact_take_one_sweep():
  found = weights.coordinate_search(quadratic(np.diag([1.0, 5.0, 0.3])), [0.3] * 3, max_sweeps=1)
  np.testing.assert_allclose(found.coefficients, OPTIMUM, atol=1e-8)
  assert found.num_sweeps == 1
  assert found.num_evaluations <= 1 + 3 * 11


def test_sweeps_are_gauss_seidel():
  hessian = np.array([[2.0, 0.5, 0.2], [0.5, 1.0, 0.1], [0.2, 0.1, 3.0]])
  expected = np.full(3, 0.4)
  for _ in range(2):
    for i in range(3):
      expected[i] -= hessian[i] @ (expected - OPTIMUM) / hessian[i, i]
  found = weights.coordinate_search(quadratic(hessian), [0.4] * 3)
  np.testing.assert_allclose(found.coefficients, expected, atol=1e-7)


def test_it_is_never_worse_than_its_start_and_stops_without_gain():
  f = quadratic(np.eye(3))
  search = functools.partial(weights.grid_search, step=0.5)
  found = weights.coordinate_search(f, OPTIMUM, search=search, max_sweeps=9)
  assert found.value == f(OPTIMUM)
  assert found.num_sweeps == 1
  calls = []
  found = weights.coordinate_search(lambda c: calls.append(c) or f(c), [0.1, 0.9, 0.0], search=weights.brent)
  assert found.num_evaluations == len(calls)
  assert found.value == min(map(f, calls)) == f(found.coefficients)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda f: weights.coordinate_search(f, []), ConfigError, "start is empty"),
    (lambda f: weights.coordinate_search(f, [0.5, 1.5, 0.5]), ConfigError, r"1.5, outside \[0, 1\]"),
    (lambda f: weights.coordinate_search(f, [0.5] * 3, max_sweeps=0), ConfigError, "max_sweeps is 0"),
    (lambda f: weights.coordinate_search(lambda c: math.nan, [0.5]), NonFiniteError, "function is nan"),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message) as caught:
    call(quadratic(np.eye(3)))
  assert "\n" not in str(caught.value)
