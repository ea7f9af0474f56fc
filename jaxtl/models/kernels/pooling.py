"""Max pooling with a fast gradient on the CPU, where JAX's own spends its time in a reduction of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.kernels.backend import is_cpu
from jaxtl.types import Array

Pair = tuple[int, int]


def max_pool(x: Array, *, window: int, stride: int, padding: str | Sequence[Pair]) -> Array:
  """Computes the largest value of each window.

  The gradient goes to the first of several equal values, in row-major order, as in JAX.

  Args:
    x: [B, H, W, C].
    window, stride: window and stride of both rows and columns.
    padding: "SAME", "VALID", or the padding before and after the rows and the columns.

  Returns:
    [B, h, w, C].
  """
  sizes, strides = (window, window), (stride, stride)
  if not is_cpu():
    return nn.max_pool(x, sizes, strides, padding)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], sizes, strides, padding)
  lowest = jnp.array(-jnp.inf, x.dtype)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=lowest)
  # Columns before rows, so that the first row wins among equal values of several rows.
  return _along(_along(x, 2, window, stride), 1, window, stride)


def _along(x: Array, axis: int, window: int, stride: int) -> Array:
  """Computes the maximum of `window` neighbours along one axis, at every `stride`-th position."""
  end = x.shape[axis] - window + 1
  largest = jax.lax.slice_in_dim(x, 0, end, stride, axis)
  for first in range(1, window):
    other = jax.lax.slice_in_dim(x, first, first + end, stride, axis)
    # A select, since a maximum would split the gradient among equal values; NaN wins from either side.
    largest = jnp.where((largest >= other) | jnp.isnan(largest), largest, other)
  return largest
