"""Checks that refuse non-finite parameters, losses and products, and name the first leaf at fault."""

from __future__ import annotations

import math

import jax
import numpy as np

from jaxtl import tree
from jaxtl.errors import InputError, NonFiniteLossError
from jaxtl.types import Array, Params


def check_params(params: Params) -> None:
  """Raises InputError if a parameter is not a float or not finite; the message names the first one.

  The values of traced parameters are not checked.
  """
  check_floating(params)
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params)):
    return
  if path := tree.first_nonfinite(params):
    raise InputError(f"the parameter {path!r} is not finite; curvature needs finite weights")


def check_floating(params: Params) -> None:
  """Raises InputError if a leaf is not a float and so has no derivative; the message names the first one."""
  for path, leaf in zip(tree.paths(params), jax.tree.leaves(params), strict=True):
    dtype = jax.dtypes.result_type(leaf)
    if not jax.numpy.issubdtype(dtype, jax.numpy.floating):
      raise InputError(
        f"expected float parameters, got {dtype} in {path!r}; "
        "leave it out and close over it in the loss, or write it as float32"
      )


def check_loss(loss: Array | float, params: Params) -> None:
  """Raises NonFiniteLossError if the loss is not finite at these parameters.

  The derivatives do not show it: those of a loss with a NaN added to it are finite.
  """
  value = float(loss)
  if math.isfinite(value):
    return
  if path := tree.first_nonfinite(params):
    raise NonFiniteLossError(f"the loss is {value}, and the parameter {path!r} is not finite", value=value)
  raise NonFiniteLossError(
    f"the loss is {value}, although all parameters are finite; "
    "check the data, and the size of the parameters",
    value=value,
  )


def check_product(product: Params, size: float) -> None:
  """Raises InputError if `size`, a norm of the product, is not finite; the message names the first leaf."""
  if np.isfinite(size):
    return
  if path := tree.first_nonfinite(product):
    raise InputError(
      f"the product is not finite in {path!r}; check the loss and its gradient at these parameters"
    )
  raise InputError(
    "the product is finite, but its norm exceeds the floating-point range; scale the loss down"
  )
