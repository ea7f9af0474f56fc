"""The input gradient of a strided convolution, computed by convolutions without strides, for the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jaxtl.types import Array

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def by_phases(
  correlate: Callable[[Array, Array, Padding], Array],
  shape: Sequence[int],
  kernel: Array,
  grad: Array,
  strides: Pair,
  padding: Padding,
) -> Array:
  """Computes d<grad, convolution of x> / dx.

  The rows of `x` that are p modulo the stride meet only every stride-th row of the kernel, and likewise its
  columns. Each such part of the result is a convolution of `grad` without a stride.

  Args:
    correlate: (grad, flipped part of the kernel [a, b, ...], padding) -> [B, ..., C], without a stride.
    shape: shape of x, [B, H, W, C].
    kernel: [kh, kw, ...].
    grad: [B, h, w, F].
    strides, padding: strides and padding of the convolution.

  Returns:
    [B, H, W, C].
  """
  batch, *sizes, channels = shape
  counts = [-(-size // step) for size, step in zip(sizes, strides)]
  parts = []
  for phases in itertools.product(*map(range, strides)):
    taken = kernel
    edges = []
    for axis, (phase, count, step, (low, _)) in enumerate(zip(phases, counts, strides, padding)):
      first = (phase + low) % step
      taken = jnp.flip(taken[(slice(None),) * axis + (slice(first, None, step),)], axis)
      before = taken.shape[axis] - 1 - (phase + low) // step
      edges.append((before, count + taken.shape[axis] - 1 - before - grad.shape[axis + 1]))
    zeros = jnp.zeros((batch, *counts, channels), grad.dtype)
    parts.append(correlate(grad, taken, (edges[0], edges[1])) if taken.size else zeros)
  full = jnp.stack(parts, axis=3).reshape(batch, *counts, *strides, channels).transpose(0, 1, 3, 2, 4, 5)
  whole = full.reshape(batch, counts[0] * strides[0], counts[1] * strides[1], channels)
  return whole[:, : sizes[0], : sizes[1]]
