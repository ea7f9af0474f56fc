"""Parameters that are read without tracing their initialisers, which are themselves traced once per shape.

Flax traces the initialiser of each parameter whenever a module runs, to compare the shapes. A network
has hundreds of parameters of the same few shapes, and the check takes up to a third of its tracing time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.types import Array

Initializer = Callable[..., Array]


def traced_once(init: Initializer) -> Initializer:
  """Returns the initialiser `(key, shape, dtype)`, which is traced once per shape and type."""
  jitted = jax.jit(init, static_argnums=(1, 2))

  def traced(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return jitted(key, tuple(shape), jnp.dtype(dtype))

  return traced


class Module(nn.Module):
  """A module that compares the shape of a stored parameter without tracing its initialiser."""

  @nn.nowrap
  def param(  # type: ignore[override]
    self, name: str, init_fn: Initializer, *init_args: Any, **options: Any
  ) -> Any:
    """Declares a parameter as `flax.linen.Module.param`; the first of `init_args` is its shape.

    Raises:
      flax.errors.ScopeParamShapeError: the stored parameter has another shape.
    """
    if options or not self.has_variable("params", name):
      return super().param(name, init_fn, *init_args, **options)
    assert self.scope is not None
    value, shape = self.scope.get_variable("params", name), tuple(init_args[0])
    if jnp.shape(value) != shape:
      raise flax.errors.ScopeParamShapeError(name, self.scope.path_text, jnp.shape(value), shape)
    return value


class Conv(Module, nn.Conv):
  """`flax.linen.Conv`."""


class Dense(Module, nn.Dense):
  """`flax.linen.Dense`."""
