"""The encoder block of the vision transformers and of both towers of CLIP.

Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762, in the pre-norm form.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.models import layers
from jaxtl.models.kernels.matmul import attention, dot_general
from jaxtl.models.kernels.norms import LayerNorm
from jaxtl.models.parameters import Conv, Dense, Module, traced_once
from jaxtl.types import Array

linear_init = traced_once(nn.initializers.truncated_normal(0.02))


def gelu(x: Array) -> Array:
  """Computes x Phi(x) by erf, as torch does; erfc, which JAX uses, takes twice as long on the CPU."""
  return 0.5 * x * (1 + jax.lax.erf(x * (0.5**0.5)))


def quick_gelu(x: Array) -> Array:
  """Computes x sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
  return x * nn.sigmoid(1.702 * x)


# The approximations differ by up to 4.7e-4 ("gelu_tanh") and 2.0e-2 ("quick_gelu") from the exact GELU, so
# the choice is part of a weight.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "gelu": gelu,
  "gelu_tanh": functools.partial(nn.gelu, approximate=True),
  "quick_gelu": quick_gelu,
}


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The hyperparameters shared by the blocks of one encoder.

  Attributes:
    num_heads: number of attention heads.
    activation: "gelu", the exact one; "gelu_tanh", its approximation in Flax and big_vision; "quick_gelu".
    norm_epsilon: epsilon of layer normalisation.
    dropout: dropout rate inside the MLP and at the end of both branches.
    causal: whether a token attends only to itself and to the tokens before it.
    dtype: type of the computation.
  """

  num_heads: int
  activation: str = "gelu"
  norm_epsilon: float = 1e-6
  dropout: float = 0.0
  causal: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    layers.check_choice("activation", self.activation, tuple(ACTIVATIONS))
    layers.check_rate("dropout", self.dropout)
    if not self.norm_epsilon > 0:
      raise ConfigError(f"norm_epsilon must be above 0; got {self.norm_epsilon!r}")

  def norm(self, name: str) -> TransformerNorm:
    """Returns layer normalisation over the last axis."""
    return TransformerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name=name)

  def blocks(
    self, depth: int, *, drop_path: float, remat: bool
  ) -> list[tuple[str, Callable[..., nn.Module]]]:
    """Returns the constructors of `block1` .. `block{depth}`.

    The rate of stochastic depth grows linearly from 0 to `drop_path`.
    """
    cls = nn.remat(TransformerBlock, static_argnums=(2, 3)) if remat else TransformerBlock
    rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
    return [(f"block{i}", functools.partial(cls, self, rate)) for i, rate in enumerate(rates, start=1)]


class Attention(nn.Module):
  """Self-attention; `qkv` holds query, key and value in this order, each head by head, as in timm."""

  encoder: Encoder

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, tokens, width = x.shape
    heads = self.encoder.num_heads
    linear = functools.partial(
      Dense, kernel_init=linear_init, dtype=self.encoder.dtype, dot_general=dot_general
    )
    qkv = linear(3 * width, name="qkv")(x).reshape(batch, tokens, 3, heads, width // heads)
    mixed = attention(qkv, causal=self.encoder.causal)
    return linear(width, name="proj")(mixed.reshape(batch, tokens, width))


class Mlp(nn.Module):
  """An MLP of two layers whose hidden layer is four times as wide."""

  encoder: Encoder

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    linear = functools.partial(
      Dense, kernel_init=linear_init, dtype=self.encoder.dtype, dot_general=dot_general
    )
    y = ACTIVATIONS[self.encoder.activation](linear(4 * x.shape[-1], name="fc1")(x))
    y = nn.Dropout(self.encoder.dropout)(y, deterministic=not train)
    return linear(x.shape[-1], name="fc2")(y)


class TransformerNorm(LayerNorm):
  """Layer normalisation that can be called as a block."""

  def __call__(  # type: ignore[override]
    self, x: Array, train: bool = False, frozen_stats: bool = False
  ) -> Array:
    return super().__call__(x)


class TransformerBlock(nn.Module):
  """A pre-norm encoder block; `drop_path` is the probability that a branch is dropped for an example."""

  encoder: Encoder
  drop_path: float

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    def branch(y: Array) -> Array:
      y = nn.Dropout(self.encoder.dropout)(y, deterministic=not train)
      return nn.Dropout(self.drop_path, broadcast_dims=(1, 2))(y, deterministic=not train)

    y = self.encoder.norm("norm1")(x)
    x = x + branch(Attention(self.encoder, name="attn")(y))
    y = self.encoder.norm("norm2")(x)
    return x + branch(Mlp(self.encoder, name="mlp")(y, train))


class Embed(Module):
  """The embedding of patches, extra tokens and positions: [B, S, S, C] -> [B, T, D].

  The number of tokens is T = len(tokens) + (S / patch_size)^2.

  Attributes:
    tokens: parameter names of the tokens that precede the patches.
    bias: whether the patch projection has a bias.
    norm: whether to normalise the input of the first block, as CLIP does.
  """

  width: int
  patch_size: int
  image_size: int
  tokens: tuple[str, ...]
  encoder: Encoder
  bias: bool = True
  norm: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    self._check_size(x)
    patch = (self.patch_size, self.patch_size)
    x = Conv(
      self.width,
      patch,
      strides=patch,
      padding="VALID",
      use_bias=self.bias,
      kernel_init=layers.uniform_fan_in,
      bias_init=layers.uniform_bias(self.patch_size**2 * x.shape[-1]),
      dtype=self.encoder.dtype,
      name="proj",
    )(x)
    x = x.reshape(x.shape[0], -1, self.width)
    tokens = [self.param(name, nn.initializers.normal(1e-6), (1, 1, self.width)) for name in self.tokens]
    spread = [jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width)) for token in tokens]
    x = jnp.concatenate([*spread, x], axis=1)
    positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = x + positions.astype(x.dtype)
    if self.norm:
      x = self.encoder.norm("norm")(x)
    return nn.Dropout(self.encoder.dropout)(x, deterministic=not train)

  def _check_size(self, x: Array) -> None:
    height, width = x.shape[1:3]
    if (height, width) != (self.image_size, self.image_size):
      size = self.image_size
      fits = height == width and height % self.patch_size == 0
      advice = f"write image_size={height} or resize" if fits else "resize"
      raise ConfigError(
        f"the images are {height} x {width} pixels, the position embedding is for {size} x {size}; "
        f"{advice} the images to {size} x {size}"
      )


def as_map(x: Array, *, grid: int) -> Array:
  """Reshapes [B, T, D] to [B, grid, grid, D], without the tokens that precede the patches."""
  return x[:, x.shape[1] - grid**2 :].reshape(x.shape[0], grid, grid, x.shape[-1])


def check_sizes(*, image_size: int, patch_size: int, width: int, depth: int, num_heads: int) -> None:
  """Raises ConfigError unless the patches divide the image and the heads divide the width."""
  counts = dict(image_size=image_size, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads)
  for keyword, value in counts.items():
    layers.check_count(keyword, value)
  if image_size % patch_size:
    near = max(image_size // patch_size, 1) * patch_size
    raise ConfigError(
      f"image_size={image_size} is not a multiple of patch_size={patch_size}; write image_size={near}"
    )
  check_heads(width, num_heads)


def check_heads(width: int, num_heads: int) -> None:
  """Raises ConfigError unless the heads divide the width."""
  if width % num_heads:
    raise ConfigError(f"width={width} is not divisible by num_heads={num_heads}")
