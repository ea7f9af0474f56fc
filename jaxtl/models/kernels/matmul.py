"""Matrix products in a form that is fast on XLA's CPU backend; other backends use JAX's own.

The gradient of a product over more than two axes makes the CPU copy its factors and recompute them within the
copy. In a transformer this recomputes the whole residual stream, which takes longer from block to block. A
product of matrices reads the stored factors.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.models.kernels.backend import is_cpu
from jaxtl.types import Array


def dot_general(x: Array, kernel: Array, dimension_numbers: Any, **rest: Any) -> Array:
  """Computes `jax.lax.dot_general` of x [..., C] and kernel [C, F], for `flax.linen.Dense`."""
  if not is_cpu():
    return jax.lax.dot_general(x, kernel, dimension_numbers, **rest)
  flat = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **rest)
  return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def attention(qkv: Array, *, causal: bool) -> Array:
  """Computes scaled dot-product attention.

  Args:
    qkv: [B, T, 3, H, D], query, key and value.
    causal: whether a token attends only to itself and to the tokens before it.

  Returns:
    [B, T, H, D].
  """
  if not is_cpu() or causal or qkv.dtype != jnp.float32:
    query, key, value = (qkv[:, :, i] for i in range(3))
    # The fused kernels have no forward-mode derivative, which curvature products need.
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="xla")
  batch, tokens, _, heads, width = qkv.shape
  query, key, value = qkv.transpose(2, 0, 3, 1, 4).reshape(3, batch * heads, tokens, width)
  weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", query * width**-0.5, key))
  mixed = jnp.einsum("bts,bsd->btd", weights, value)
  return mixed.reshape(batch, heads, tokens, width).transpose(0, 2, 1, 3)


def pointwise(x: Array, kernel: Array) -> Array:
  """Multiplies x [..., C] by kernel [C, F], with derivatives as in `jaxtl/models/kernels/convolution.py`."""
  return _product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
  return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return x @ kernel, (x, kernel)


def _backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  """Returns both gradients; the kernel's is up to twice as fast with the narrower factor in front."""
  x, kernel = kept
  if x.shape[1] <= grad.shape[1]:
    return grad @ kernel.T, x.T @ grad
  return grad @ kernel.T, jax.lax.optimization_barrier(grad.T @ x).T  # XLA would undo the transposition


_product.defvjp(_forward, _backward)
