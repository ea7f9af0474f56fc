"""The arithmetic of a model, counted from the shapes of its traced program; nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from jaxtl.errors import ConfigError
from jaxtl.models.kernels.backend import portable


def multiply_accumulates(function: Callable[..., Any], *inputs: Any) -> int:
  """Counts the multiplications, each with its addition, of the convolutions and matrix products.

  This is what papers give as FLOPs or as multiply-adds. Padding counts as multiplied, and elementwise
  operations do not count.

  Args:
    function: a function of arrays, such as a forward pass.
    inputs: its inputs, or trees of `jax.ShapeDtypeStruct`.

  Raises:
    ConfigError: the program has a loop whose number of steps is not fixed.
  """
  with portable():
    return _count(jax.make_jaxpr(lambda *given: function(*given))(*inputs).jaxpr)


def _count(jaxpr: Any) -> int:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    features = kernel[params["dimension_numbers"].rhs_spec[0]]
    return int(equation.outvars[0].aval.size * math.prod(kernel) // features)
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return int(equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted))
  inner = [_count(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
  if name == "while" and any(inner):
    raise ConfigError("the program has products in a loop without a fixed number of steps; unroll it")
  if name == "cond":
    return max(inner)
  return int(params["length"]) * sum(inner) if name == "scan" else sum(inner)


def _jaxprs(value: Any) -> Iterator[Any]:
  """Yields the programs in a parameter of an operation."""
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, (tuple, list)):
    for item in value:
      yield from _jaxprs(item)
