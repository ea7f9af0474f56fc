"""Layers shared by the backbones, with torch's arithmetic: padding, epsilon, momentum, initial values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.models.convolution import conv_general_dilated
from jaxtl.types import Array

# N(0, 2 / fan_out) of He et al. 2015 (arXiv 1502.01852) with untruncated tails, as torchvision's ResNets.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what torch gives every linear and convolution layer by default.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(fan_in: int) -> Callable[..., Array]:
  """The initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): a bias has the range of its kernel."""

  def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

  return init


def conv(features: int, *, kernel: int, stride: int = 1, dtype: Any, name: str) -> nn.Conv:
  """A convolution without bias, padded by kernel // 2 on each side as torch's.

  "SAME" is not that: with stride 2 and an even size it pads (0, 1) instead of (1, 1), which shifts every map.
  """
  return nn.Conv(
    features,
    (kernel, kernel),
    strides=(stride, stride),
    padding=kernel // 2,
    use_bias=False,
    kernel_init=kaiming_normal,
    conv_general_dilated=conv_general_dilated,
    dtype=dtype,
    name=name,
  )


def batch_norm(*, stored: bool, zero_scale: bool = False, dtype: Any, name: str) -> nn.BatchNorm:
  """Batch normalisation with epsilon 1e-5 and statistics in float32, kept as 0.9 old + 0.1 new.

  Args:
    stored: normalise with the stored statistics and leave them as they are.
    zero_scale: start with scale 0 instead of 1.
    dtype: type of the result; mean and variance are float32 in any case.
    name: name of the parameters.

  The stored variance is that of the batch, divided by n; torch stores the one divided by n - 1.
  """
  return nn.BatchNorm(
    use_running_average=stored,
    momentum=0.9,
    epsilon=1e-5,
    scale_init=nn.initializers.zeros if zero_scale else nn.initializers.ones,
    dtype=dtype,
    name=name,
  )


class Head(nn.Module):
  """Pooling and the classifier, both in float32.

  `kind="cosine"` is the classifier of the cosine softmax, Kornblith, Chen, Lee, Norouzi, "Why Do Better Loss
  Functions Lead to Less Transferable Features?", 2021, arXiv 2010.16402: the logits are the cosines between
  `pooled` and the class vectors, in [-1, 1]; the temperature belongs to the loss.

  Attributes:
    num_classes: K.
    kind: "linear" or "cosine".
    pool: hidden state -> [B, D].
  """

  num_classes: int
  kind: str
  pool: Callable[[Array], Array]

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> dict[str, Array]:
    pooled = self.pool(x.astype(jnp.float32))
    width = pooled.shape[-1]
    kernel = self.param("kernel", uniform_fan_in, (width, self.num_classes))
    if self.kind == "cosine":
      return {"pooled": pooled, "logits": unit(pooled, axis=1) @ unit(kernel, axis=0)}
    bias = self.param("bias", uniform_bias(width), (self.num_classes,))
    return {"pooled": pooled, "logits": pooled @ kernel + bias[None]}


def unit(x: Array, *, axis: int) -> Array:
  """x / |x| along `axis`; zero, with a finite gradient, where x is zero."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=axis, keepdims=True), 1e-24))


def spatial_mean(x: Array) -> Array:
  """[B, h, w, D] -> [B, D]."""
  return jnp.mean(x, axis=(1, 2))


def checked_dtype(name: str) -> Any:
  """The compute type "float32" or "bfloat16"; ConfigError for another."""
  check_choice("dtype", name, ("float32", "bfloat16"))
  return jnp.dtype(name)


def check_choice(keyword: str, value: Any, choices: Sequence[str]) -> None:
  """ConfigError unless `value` is one of the choices."""
  if value not in choices:
    raise ConfigError(f"{keyword} must be {' or '.join(map(repr, choices))}; got {value!r}")


def check_count(keyword: str, value: Any) -> None:
  """ConfigError unless `value` is a whole number from 1."""
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ConfigError(f"{keyword} must be a whole number from 1; got {value!r}")
