"""Convolutions with gradients written for XLA's CPU backend, which spends most of its time in them.

On other backends, and for types, groups and dilations that do not benefit, this is
`jax.lax.conv_general_dilated` itself. The values are the same up to the order of sums. The slow cases on the
CPU and their replacements are as follows (`benchmarks/convolution.py` has the numbers):

- A map smaller than the kernel, or at most 16 channels, leave the fast path. Therefore the padding is made
  explicit, and a seventeenth channel is added and dropped again.
- The inputs of a kernel gradient are recomputed within the copies that transpose them. Therefore they are
  stored first.
- The input gradient of a strided convolution has gaps. It is replaced by one convolution per phase of the
  strides (`jaxtl/models/kernels/strided.py`), which matters for few channels and small maps.
- Depthwise convolutions are computed as sums over shifted maps (`jaxtl/models/kernels/depthwise.py`).
- A 1x1 convolution and its gradients are computed as matrix products (`jaxtl/models/kernels/matmul.py`).
- The kernel gradient of a wide convolution on a large map exceeds the cache. It is summed over parts of the
  batch.

`jax.vjp`, `jax.grad`, and `jax.jvp` of either are supported. A bare `jax.jvp` of a model is not, because the
gradient is a custom one: take it as `jax.linear_transpose` of a `jax.vjp`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.models.kernels.backend import is_cpu
from jaxtl.models.kernels.depthwise import depthwise
from jaxtl.models.kernels.matmul import pointwise
from jaxtl.models.kernels.strided import Padding, Pair, by_phases
from jaxtl.types import Array

NHWC = ("NHWC", "HWIO", "NHWC")
_NHWC_SPEC = jax.lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NHWC)
# Kernel gradients are summed over parts of PART images, from CHANNELS channels and PIXELS pixels on.
PART, CHANNELS, PIXELS = 16, 16, 64
# XLA's fast path needs more than this many channels; padding to reach it pays off from half as many on.
SLOW = 16


def conv_general_dilated(
  x: Array,
  kernel: Array,
  window_strides: Sequence[int],
  padding: Any,
  *,
  lhs_dilation: Sequence[int] = (1, 1),
  rhs_dilation: Sequence[int] = (1, 1),
  dimension_numbers: Any = NHWC,
  feature_group_count: int = 1,
  precision: Any = None,
  **rest: Any,
) -> Array:
  """Computes `jax.lax.conv_general_dilated`, with the gradients of this module where they are faster.

  Args:
    x: [B, H, W, C].
    kernel: [kh, kw, C, F].
    window_strides, padding, ...: as in `jax.lax`; any of its arguments is allowed.

  Returns:
    [B, h, w, F].
  """
  groups = feature_group_count
  simple = (
    is_cpu()
    and x.ndim == 4
    and x.dtype == kernel.dtype == jnp.float32
    and tuple(lhs_dilation) == tuple(rhs_dilation) == (1, 1)
    and (groups == 1 or groups == x.shape[-1] == kernel.shape[-1])
    and jax.lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers) == _NHWC_SPEC
    and precision is None
    and not rest.get("preferred_element_type")
  )
  if simple:
    if isinstance(padding, str):
      padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], window_strides, padding)
    strides, edges = tuple(window_strides), tuple(map(tuple, padding))
    if groups > 1:
      return depthwise(x, kernel, strides, edges)
    if kernel.shape[:2] == (1, 1) and edges == ((0, 0), (0, 0)):
      return pointwise(x[:, :: strides[0], :: strides[1]], kernel[0, 0])
    return _convolution(x, kernel, strides, edges)
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides,
    padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
    **rest,
  )


@functools.partial(jax.jit, static_argnums=(2, 3))  # traced once for the layers of one shape
def _convolution(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
  return _convolution_rule(x, kernel, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution_rule(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
  return _correlate(x, kernel, strides, padding)


def _stored(x: Array) -> Array:
  """Returns `x` such that XLA computes and stores it once, instead of within each transposing copy.

  XLA copies a chain of cheap operations into each of its readers, unless the last operation has two operands
  of full size, as here. An optimisation barrier does not help, because XLA removes it before that stage.
  """
  everywhere = jax.lax.broadcasted_iota(jnp.int32, x.shape, 3) != -1
  return jnp.where(everywhere, x, 0)


def _forward(x: Array, kernel: Array, strides: Pair, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
  x = _stored(x)
  return _correlate(x, kernel, strides, padding), (x, kernel)


def _backward(strides: Pair, padding: Padding, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = kept
  grad = _stored(grad)
  for_x = _input_gradient(x, kernel, grad, strides, padding)
  return for_x, _kernel_gradient(x, kernel, grad, strides, padding)


_convolution_rule.defvjp(_forward, _backward)


def _correlate(x: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
  """Computes the cross-correlation that deep learning calls a convolution."""
  smaller = any(size < width for size, width in zip(x.shape[1:3], kernel.shape))
  if smaller and min(*padding[0], *padding[1]) >= 0:
    # XLA takes its fast path only for maps at least as large as the kernel; the barrier prevents it from
    # merging the padding into the convolution.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    padding = ((0, 0), (0, 0))
  inputs, outputs = kernel.shape[2:]
  if SLOW // 2 <= inputs <= SLOW and outputs <= SLOW:
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, SLOW + 1 - outputs)))
  y = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)
  return y[..., :outputs]


def _with_turned(grad: Array, turned: Array, padding: Padding) -> Array:
  """Correlates [B, h, w, F] with a flipped kernel [a, b, C, F]; returns [B, ..., C]."""
  if turned.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
    return (grad.reshape(-1, grad.shape[-1]) @ turned[0, 0].T).reshape(*grad.shape[:3], -1)
  return _correlate(grad, turned.swapaxes(2, 3), (1, 1), padding)


def _input_gradient(x: Array, kernel: Array, grad: Array, strides: Pair, padding: Padding) -> Array:
  """Computes d<grad, x * kernel> / dx by correlating `grad` with the flipped kernel."""
  if max(strides) > 1:
    return by_phases(_with_turned, x.shape, kernel, grad, strides, padding)
  edges = []
  for size, width, out, (low, _) in zip(x.shape[1:3], kernel.shape, grad.shape[1:3], padding):
    before = width - 1 - low
    edges.append((before, size + width - 1 - before - out))
  return _with_turned(grad, jnp.flip(kernel, (0, 1)), (edges[0], edges[1]))


def _kernel_gradient(x: Array, kernel: Array, grad: Array, strides: Pair, padding: Padding) -> Array:
  """Computes d<grad, x * kernel> / dkernel."""
  size, pixels, channels = len(x), grad.shape[1] * grad.shape[2], x.shape[-1]
  # The images of a part act as channels, so a part needs more than SLOW of them if the real channels do not
  # exceed SLOW.
  part = PART if max(channels, grad.shape[-1]) > SLOW else 2 * PART
  if size <= part or size % part or channels < CHANNELS or pixels < PIXELS:
    return _transposed(x, kernel, grad, strides, padding)
  # Part i holds every (size / part)-th image, so each device has its share of each part and no data moves.
  xs, grads = (y.reshape(part, size // part, *y.shape[1:]) for y in (x, grad))
  parts = [_transposed(xs[:, i], kernel, grads[:, i], strides, padding) for i in range(size // part)]
  return functools.reduce(jnp.add, parts)


def _transposed(x: Array, kernel: Array, grad: Array, strides: Pair, padding: Padding) -> Array:
  """Computes the kernel gradient as JAX derives it."""

  def of_kernel(kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)

  return jax.linear_transpose(of_kernel, kernel)(grad)[0]
