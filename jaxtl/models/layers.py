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
from jaxtl.models.parameters import Conv, Module, traced_once
from jaxtl.types import Array

# N(0, 2 / fan_out) of He et al. 2015 (arXiv 1502.01852) with untruncated tails, as torchvision's ResNets.
kaiming_normal = traced_once(nn.initializers.variance_scaling(2.0, "fan_out", "normal"))
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default for every linear and convolution layer.
uniform_fan_in = traced_once(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))
# A third of that bound, for classifiers: with the features of randomly initialised residual networks and
# vision transformers, torch's bound makes the first loss for two classes up to 50 % larger than ln 2.
uniform_classifier = traced_once(nn.initializers.variance_scaling(1 / 27, "fan_in", "uniform"))
# The temperature 0.07 of the cosines, with which CLIP's training begins.
LOG_SCALE = math.log(1 / 0.07)


def uniform_bias(fan_in: int) -> Callable[..., Array]:
  """Returns the initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): a bias has the range of its kernel."""

  def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

  return init


def zero_bias(width: int) -> Any:
  """Returns the initialiser of a bias that starts at 0 for any width."""
  return nn.initializers.zeros


def spatial_mean(x: Array) -> Array:
  """Averages over the map: [B, h, w, D] -> [B, D]."""
  return jnp.mean(x, axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class Numerics:
  """The numerics of a model, including those in which the frameworks that weights come from differ.

  Attributes:
    dtype: type of the computation.
    padding: "symmetric", kernel // 2 on each side, as in torch; or "same", as in TensorFlow, which pads a
      convolution of stride 2 at an even size by (0, 1) instead of (1, 1) and therefore shifts every map.
    epsilon, momentum: constants of batch normalisation; the statistics are updated to momentum * old +
      (1 - momentum) * new. torch's momentum is 1 - momentum.
    batch_norm: "batch" uses the statistics of the batch in training; "stored" always uses the stored ones.
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
    """Returns the numerics that a model's keywords specify; raises ConfigError for an invalid value."""
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
    bias_init: Any = nn.initializers.zeros,
    name: str,
  ) -> Conv:
    """Returns a convolution with a square kernel; it is depthwise if there are as many groups as channels."""
    return Conv(
      features,
      (kernel, kernel),
      strides=(stride, stride),
      padding=kernel // 2 if self.padding == "symmetric" else "SAME",
      feature_group_count=groups,
      use_bias=bias,
      kernel_init=init,
      bias_init=bias_init,
      conv_general_dilated=conv_general_dilated,
      dtype=self.dtype,
      name=name,
    )

  def norm(self, *, train: bool, frozen_stats: bool, zero_scale: bool = False, name: str) -> BatchNorm:
    """Returns batch normalisation with statistics in float32.

    The stored variance is that of the batch, divided by n; torch stores the one divided by n - 1.

    Args:
      train, frozen_stats: the arguments of a block. The layer normalises with the stored statistics and does
        not update them, unless `train` is true and `frozen_stats` is false.
      zero_scale: start with scale 0 instead of 1.
      name: name of the parameters.
    """
    return BatchNorm(
      use_running_average=not train or frozen_stats or self.batch_norm == "stored",
      momentum=self.momentum,
      epsilon=self.epsilon,
      scale_init=nn.initializers.zeros if zero_scale else nn.initializers.ones,
      dtype=self.dtype,
      name=name,
    )


class Head(Module):
  """The head of a model: pooling and the classifier, both in float32.

  `kind="cosine"` is the classifier of the cosine softmax, Kornblith, Chen, Lee, Norouzi, "Why Do Better Loss
  Functions Lead to Less Transferable Features?", 2021, arXiv 2010.16402: the logits are the cosines between
  `pooled` and the class vectors, in [-1, 1]; the temperature belongs to the loss. `kind="scaled_cosine"` is
  the classifier of CLIP (Radford et al., 2021, arXiv 2103.00020): the cosines times exp(log_scale), where
  log_scale is a parameter.

  Attributes:
    num_classes: K; 0 omits the classifier, so that `pooled` is the only feature.
    kind: "linear", "cosine" or "scaled_cosine".
    pool: hidden state -> [B, D].
    dropout: dropout rate before the classifier.
    kernel_init: initialiser of the classifier's kernel.
    bias_init: width -> initialiser of the bias.
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
  """Stochastic depth: drops a residual branch per example, and scales the others to keep the mean.

  Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", 2016, arXiv 1603.09382.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    whole_example = tuple(range(1, x.ndim))
    return nn.Dropout(self.rate, broadcast_dims=whole_example)(x, deterministic=not train)


def unit(x: Array, *, axis: int) -> Array:
  """Normalises x to x / |x| along `axis`; returns zero, with a finite gradient, where x is zero."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=axis, keepdims=True), 1e-24))


def checked_dtype(name: str) -> Any:
  """Returns the compute type "float32" or "bfloat16"; raises ConfigError for any other name."""
  check_choice("dtype", name, ("float32", "bfloat16"))
  return jnp.dtype(name)


def check_choice(keyword: str, value: Any, choices: Sequence[str]) -> None:
  """Raises ConfigError unless `value` is one of the choices."""
  if value not in choices:
    raise ConfigError(f"{keyword} must be {' or '.join(map(repr, choices))}; got {value!r}")


def check_count(keyword: str, value: Any, *, least: int = 1) -> None:
  """Raises ConfigError unless `value` is an integer of at least `least`."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise ConfigError(f"{keyword} must be an integer of at least {least}; got {value!r}")


def check_rate(keyword: str, value: Any) -> None:
  """Raises ConfigError unless `value` is in [0, 1)."""
  if not 0 <= value < 1:
    raise ConfigError(f"{keyword} must be in [0, 1); got {value!r}")


def check_head(num_classes: int, head: str) -> None:
  """Raises ConfigError unless both are valid arguments of `Head`."""
  check_count("num_classes", num_classes, least=0)
  check_choice("head", head, ("linear", "cosine", "scaled_cosine"))


def named(make: Callable[..., Any], name: str, text: str) -> Callable[..., Any]:
  """Returns `make` with its public name and its docstring."""
  make.__name__ = make.__qualname__ = name
  make.__doc__ = text
  return make


# Parts shared by the docstrings of the families.
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
