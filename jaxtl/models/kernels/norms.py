"""Batch and layer normalisation with closed-form derivatives, for XLA's CPU backend.

JAX differentiates a normalisation step by step, through the mean, the variance and the difference to the
mean, and the CPU makes one pass over memory for most of these steps. The closed form below has two sums and
one pass. It is a forward derivative, which JAX transposes and differentiates further, so every mode works.
On other backends, and in types other than float32, these are Flax's own layers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.kernels.backend import is_cpu
from jaxtl.models.parameters import Module
from jaxtl.types import Array


class BatchNorm(Module, nn.BatchNorm):
  """`flax.linen.BatchNorm` over all axes except the last."""

  @nn.compact
  def __call__(self, x: Array, use_running_average: bool | None = None, **rest: Any) -> Array:
    stored = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
    starting = self.is_initializing()
    if rest or not _quick(x, self.dtype) or (stored and not starting):
      return super().__call__(x, use_running_average, **rest)
    width = x.shape[-1:]
    mean = self.variable("batch_stats", "mean", jnp.zeros, width, jnp.float32)
    var = self.variable("batch_stats", "var", jnp.ones, width, jnp.float32)
    scale = self.param("scale", self.scale_init, width, self.param_dtype)
    bias = self.param("bias", self.bias_init, width, self.param_dtype)
    if starting:
      return x  # Initialisation needs only its shape; the arithmetic takes a third of the tracing time.
    y, batch_mean, batch_var = batch_norm(x, scale, bias, self.epsilon)
    mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
    var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
    return y


class LayerNorm(Module, nn.LayerNorm):
  """`flax.linen.LayerNorm` over the last axis; the variance is computed from differences to the mean."""

  use_fast_variance: bool = False

  @nn.compact
  def __call__(self, x: Array, **rest: Any) -> Array:
    if rest or not _quick(x, self.dtype):
      return super().__call__(x, **rest)
    scale = self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)
    bias = self.param("bias", self.bias_init, x.shape[-1:], self.param_dtype)
    if self.is_initializing():
      return x  # Initialisation needs only its shape.
    wide: Sequence[int] = (1,) * (x.ndim - 1) + x.shape[-1:]
    return standardized(x, self.epsilon) * scale.reshape(wide) + bias.reshape(wide)


def _quick(x: Array, dtype: Any) -> bool:
  return is_cpu() and x.dtype == jnp.float32 and dtype in (None, jnp.float32)


@functools.partial(jax.jit, static_argnums=3)  # traced once for the layers of one shape
def batch_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
  """Normalises each channel to mean 0 and variance 1, then multiplies by `scale` and adds `bias`.

  Args:
    x: [..., C].
    scale, bias: [C].
    epsilon: added to the variance.

  Returns:
    (result [..., C], mean [C], variance [C]); the variance is divided by n.
  """
  return _batch_norm(x, scale, bias, epsilon)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _batch_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes)
  # Both sums in one pass, as in Flax; rounding can make the difference negative.
  var = jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)
  factor = jax.lax.rsqrt(var + epsilon) * scale
  return (x - _wide(mean, x)) * _wide(factor, x) + _wide(bias, x), mean, var


@_batch_norm.defjvp
def _batch_norm_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
  """Computes dy = factor dx + a + b x per channel; all sums are in a and b.

  Neither the covariance nor dy uses x - mean, which the CPU would store. They are as exact as the variance
  above.
  """
  x, scale, bias = primals
  dx, dscale, dbias = tangents
  y, mean, var = _batch_norm(x, scale, bias, epsilon)
  axes = tuple(range(x.ndim - 1))
  root = jax.lax.rsqrt(var + epsilon)
  dmean = jnp.mean(dx, axes)
  covariance = jnp.mean(x * dx, axes) - mean * dmean
  factor = root * scale
  b = (dscale - factor * root * covariance) * root
  a = dbias - factor * dmean - b * mean
  dy = _wide(factor, x) * dx + _wide(a, x) + x * _wide(b, x)
  return (y, mean, var), (dy, dmean, 2 * covariance)


def _wide(channels: Array, x: Array) -> Array:
  """Reshapes [C] to [1, .., 1, C] with as many axes as x."""
  return channels.reshape((1,) * (x.ndim - 1) + channels.shape)


@functools.partial(jax.jit, static_argnums=1)  # traced once for the layers of one shape
def standardized(x: Array, epsilon: float) -> Array:
  """Normalises the last axis to mean 0 and variance 1: [..., C] -> [..., C]."""
  return _standardized(x, epsilon)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _standardized(x: Array, epsilon: float) -> Array:
  centred = x - jnp.mean(x, -1, keepdims=True)
  return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + epsilon)


@_standardized.defjvp
def _standardized_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
  """Computes dy = root (dx - mean(dx) - y mean(y dx))."""
  (x,), (dx,) = primals, tangents
  y = _standardized(x, epsilon)
  centred = x - jnp.mean(x, -1, keepdims=True)
  root = jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + epsilon)
  dx = root * dx
  return y, dx - jnp.mean(dx, -1, keepdims=True) - y * jnp.mean(y * dx, -1, keepdims=True)
