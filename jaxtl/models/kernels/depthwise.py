"""Depthwise convolutions as sums over shifted maps, since XLA's CPU backend has no fast path for them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxtl.models.kernels.strided import Padding, Pair, by_phases
from jaxtl.types import Array


@functools.partial(jax.jit, static_argnums=(2, 3))  # traced once for the blocks of one shape
def depthwise(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
  """Convolves each channel with its own kernel.

  Args:
    x: [B, H, W, C].
    kernel: [kh, kw, 1, C].
    strides: strides of rows and columns.
    padding: number of zeros before and after the rows and the columns.

  Returns:
    [B, h, w, C].
  """
  return _depthwise(x, kernel, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
  return _sum(x, kernel, strides, padding)


def _one_by_one(x: Array, kernel: Array, padding: Padding) -> Array:
  return _sum(x, kernel, (1, 1), padding)


def _sum(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
  weights = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])  # in the order of `_shifted`
  shifted = _shifted(x, kernel, strides, padding)
  return functools.reduce(jnp.add, (seen * weight for seen, weight in zip(shifted, weights)))


def _forward(x: Array, kernel: Array, strides: Pair, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
  return _sum(x, kernel, strides, padding), (x, kernel)


def _backward(strides: Pair, padding: Padding, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = kept
  sums = [jnp.sum(seen * grad, axis=(0, 1, 2)) for seen in _shifted(x, kernel, strides, padding)]
  for_x = by_phases(_one_by_one, x.shape, kernel, grad, strides, padding)
  return for_x, jnp.stack(sums).reshape(kernel.shape)


_depthwise.defvjp(_forward, _backward)


def _shifted(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Iterator[Array]:
  """Yields the part of the map that each kernel position reads: kh kw arrays [B, h, w, C], row by row."""
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pads, 0) for pads in padding), (0, 0, 0)))
  (height, width), steps = kernel.shape[:2], (1, *strides, 1)
  rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
  for i, j in itertools.product(range(height), range(width)):
    yield jax.lax.slice(x, (0, i, j, 0), (x.shape[0], i + rows, j + columns, x.shape[3]), steps)
