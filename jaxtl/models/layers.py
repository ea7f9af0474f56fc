"""Layers shared by the backbones, with torch's arithmetic: padding, epsilon, momentum, initial values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.models.kernels.convolution import conv_general_dilated
from jaxtl.models.kernels.norms import BatchNorm
from jaxtl.types import Array

# N(0, 2 / fan_out) of He et al. 2015 (arXiv 1502.01852) with untruncated tails, as torchvision's ResNets.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what torch gives every linear and convolution layer by default.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# A third of that, for classifiers: with the features of freshly drawn residual networks and vision
# transformers, torch's bound makes the first loss for two classes up to a half larger than ln 2.
uniform_classifier = nn.initializers.variance_scaling(1 / 27, "fan_in", "uniform")
# A cosine's temperature of 0.07, where CLIP's training begins.
LOG_SCALE = math.log(1 / 0.07)


def uniform_bias(fan_in: int) -> Callable[..., Array]:
  """The initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): a bias has the range of its kernel."""

  def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

  return init


def zero_bias(width: int) -> Any:
  """The initialiser of a bias that starts at 0, whatever the width."""
  return nn.initializers.zeros


def spatial_mean(x: Array) -> Array:
  """[B, h, w, D] -> [B, D]."""
  return jnp.mean(x, axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class Numerics:
  """What the frameworks that weights come from do differently, and how a model computes.

  Attributes:
    dtype: type of the computation.
    padding: "symmetric", kernel // 2 on each side, as torch's; or "same", TensorFlow's, which pads a
      convolution of stride 2 at an even size by (0, 1) instead of (1, 1) and so shifts every map.
    epsilon, momentum: of batch normalisation; the statistics are kept as momentum * old + (1 - momentum) *
      new. torch writes 1 - momentum.
    batch_norm: "batch", the statistics of the batch in training; "stored", the stored ones always.
  """

  dtype: Any = jnp.float32
  padding: str = "symmetric"
  epsilon: float = 1e-5
  momentum: float = 0.9
  batch_norm: str = "batch"

  @classmethod
  def of(
    cls,
    *,
    dtype: str,
    batch_norm: str,
    padding: str = "symmetric",
    bn_epsilon: float = 1e-5,
    bn_momentum: float = 0.9,
  ) -> Numerics:
    """The numerics that a model's keywords ask for; ConfigError for a value that is not allowed."""
    check_choice("padding", padding, ("symmetric", "same"))
    check_choice("batch_norm", batch_norm, ("batch", "stored"))
    if not bn_epsilon > 0:
      raise ConfigError(f"bn_epsilon must be above 0; got {bn_epsilon!r}")
    if not 0 <= bn_momentum < 1:
      raise ConfigError(f"bn_momentum must be in [0, 1); got {bn_momentum!r}")
    return cls(checked_dtype(dtype), padding, bn_epsilon, bn_momentum, batch_norm)

  def conv(
    self,
    features: int,
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    init: Any = kaiming_normal,
    name: str,
  ) -> nn.Conv:
    """A convolution with a square kernel; with as many groups as channels it is a depthwise one."""
    return nn.Conv(
      features,
      (kernel, kernel),
      strides=(stride, stride),
      padding=kernel // 2 if self.padding == "symmetric" else "SAME",
      feature_group_count=groups,
      use_bias=bias,
      kernel_init=init,
      conv_general_dilated=conv_general_dilated,
      dtype=self.dtype,
      name=name,
    )

  def norm(self, *, train: bool, frozen_stats: bool, zero_scale: bool = False, name: str) -> BatchNorm:
    """Batch normalisation with statistics in float32.

    Args:
      train, frozen_stats: as a block gets them; normalises with the stored statistics, and leaves them as
        they are, unless `train` and not `frozen_stats`.
      zero_scale: start with scale 0 instead of 1.
      name: name of the parameters.

    The stored variance is that of the batch, divided by n; torch stores the one divided by n - 1.
    """
    return BatchNorm(
      use_running_average=not train or frozen_stats or self.batch_norm == "stored",
      momentum=self.momentum,
      epsilon=self.epsilon,
      scale_init=nn.initializers.zeros if zero_scale else nn.initializers.ones,
      dtype=self.dtype,
      name=name,
    )


class Head(nn.Module):
  """Pooling and the classifier, both in float32.

  `kind="cosine"` is the classifier of the cosine softmax, Kornblith, Chen, Lee, Norouzi, "Why Do Better Loss
  Functions Lead to Less Transferable Features?", 2021, arXiv 2010.16402: the logits are the cosines between
  `pooled` and the class vectors, in [-1, 1]; the temperature belongs to the loss. `kind="scaled_cosine"` is
  that of CLIP (Radford et al., 2021, arXiv 2103.00020): the cosines times exp(log_scale), a parameter.

  Attributes:
    num_classes: K; 0 leaves the classifier out, and `pooled` is the only feature.
    kind: "linear", "cosine" or "scaled_cosine".
    pool: hidden state -> [B, D].
    dropout: rate before the classifier.
    kernel_init: initial kernel of the linear classifier.
    bias_init: width -> initial bias.
  """

  num_classes: int
  kind: str = "linear"
  pool: Callable[[Array], Array] = spatial_mean
  dropout: float = 0.0
  kernel_init: Any = uniform_classifier
  bias_init: Callable[[int], Any] = uniform_bias

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> dict[str, Array]:
    pooled = self.pool(x.astype(jnp.float32))
    if self.num_classes == 0:
      return {"pooled": pooled}
    dropped = nn.Dropout(self.dropout)(pooled, deterministic=not train)
    width = pooled.shape[-1]
    kernel = self.param("kernel", self.kernel_init, (width, self.num_classes))
    if self.kind != "linear":
      cosines = unit(dropped, axis=1) @ unit(kernel, axis=0)
      if self.kind == "cosine":
        return {"pooled": pooled, "logits": cosines}
      scale = self.param("log_scale", nn.initializers.constant(LOG_SCALE), ())
      return {"pooled": pooled, "logits": jnp.exp(scale) * cosines}
    bias = self.param("bias", self.bias_init(width), (self.num_classes,))
    return {"pooled": pooled, "logits": dropped @ kernel + bias[None]}


class DropPath(nn.Module):
  """Leaves a residual branch out for an example, and scales what is kept to the same mean.

  Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", 2016, arXiv 1603.09382.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    whole_example = tuple(range(1, x.ndim))
    return nn.Dropout(self.rate, broadcast_dims=whole_example)(x, deterministic=not train)


def unit(x: Array, *, axis: int) -> Array:
  """x / |x| along `axis`; zero, with a finite gradient, where x is zero."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=axis, keepdims=True), 1e-24))


def checked_dtype(name: str) -> Any:
  """The compute type "float32" or "bfloat16"; ConfigError for another."""
  check_choice("dtype", name, ("float32", "bfloat16"))
  return jnp.dtype(name)


def check_choice(keyword: str, value: Any, choices: Sequence[str]) -> None:
  """ConfigError unless `value` is one of the choices."""
  if value not in choices:
    raise ConfigError(f"{keyword} must be {' or '.join(map(repr, choices))}; got {value!r}")


def check_count(keyword: str, value: Any, *, least: int = 1) -> None:
  """ConfigError unless `value` is a whole number from `least`."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise ConfigError(f"{keyword} must be an integer of at least {least}; got {value!r}")


def check_rate(keyword: str, value: Any) -> None:
  """ConfigError unless `value` is in [0, 1)."""
  if not 0 <= value < 1:
    raise ConfigError(f"{keyword} must be in [0, 1); got {value!r}")


def check_head(num_classes: int, head: str) -> None:
  """ConfigError unless both are what `Head` takes."""
  check_count("num_classes", num_classes, least=0)
  check_choice("head", head, ("linear", "cosine", "scaled_cosine"))


def named(make: Callable[..., Any], name: str, text: str) -> Callable[..., Any]:
  """`make` under its public name, with its docstring."""
  make.__name__ = make.__qualname__ = name
  make.__doc__ = text
  return make


# What the docstrings of the families say alike.
COMPUTE_DOC = """\
    dtype: type of the computation, "float32" or "bfloat16"; parameters, `pooled` and `logits` are float32.
    remat: compute each block again in the backward pass instead of keeping its activations.
"""
HEAD_DOC = """\
    head: "linear"; "cosine" and "scaled_cosine" give cosines (see `layers.Head`).
"""
NORM_DOC = """\
    padding: "symmetric" as torch's, or "same" as TensorFlow's (see `layers.Numerics`); it belongs
      to the weights, and the wrong one runs silently and loses accuracy.
    bn_epsilon: of batch normalisation.
    bn_momentum: statistics are kept as bn_momentum * old + (1 - bn_momentum) * new.
    batch_norm: "batch", training normalises with the batch and moves the statistics; "stored", it never does.
"""
