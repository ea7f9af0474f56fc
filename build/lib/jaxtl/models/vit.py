"""Vision transformers.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2021,
arXiv 2010.11929.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError
from jaxtl.models import layers
from jaxtl.models.linen import Chain, from_linen
from jaxtl.types import Array, Model

_linear_init = nn.initializers.truncated_normal(0.02)


class Embed(nn.Module):
  """Patches, the class token and positions: [B, S, S, C] -> [B, T, D] with T = (S / patch_size)^2 (+ 1)."""

  width: int
  patch_size: int
  image_size: int
  class_token: bool
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    self._check_size(x)
    patch = (self.patch_size, self.patch_size)
    x = nn.Conv(
      self.width,
      patch,
      strides=patch,
      padding="VALID",
      kernel_init=layers.uniform_fan_in,
      bias_init=layers.uniform_bias(self.patch_size**2 * x.shape[-1]),
      dtype=self.dtype,
      name="proj",
    )(x)
    x = x.reshape(x.shape[0], -1, self.width)
    if self.class_token:
      token = self.param("class_token", nn.initializers.normal(1e-6), (1, 1, self.width))
      token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([token, x], axis=1)
    positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = x + positions.astype(x.dtype)
    return nn.Dropout(self.dropout)(x, deterministic=not train)

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


class Attention(nn.Module):
  """Self-attention; `qkv` holds query, key and value in this order, each head by head, as timm's."""

  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, tokens, width = x.shape
    linear = functools.partial(nn.Dense, kernel_init=_linear_init, dtype=self.dtype)
    qkv = linear(3 * width, name="qkv")(x)
    qkv = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
    # The fused kernels have no forward-mode derivative, which curvature products need.
    mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], implementation="xla")
    return linear(width, name="proj")(mixed.reshape(batch, tokens, width))


class Mlp(nn.Module):
  """Two layers, four times as wide inside, with the exact GELU."""

  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    linear = functools.partial(nn.Dense, kernel_init=_linear_init, dtype=self.dtype)
    y = nn.gelu(linear(4 * x.shape[-1], name="fc1")(x), approximate=False)
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    return linear(x.shape[-1], name="fc2")(y)


class Norm(nn.LayerNorm):
  """Layer normalisation with epsilon 1e-6, callable as a block."""

  epsilon: float = 1e-6
  use_fast_variance: bool = False

  def __call__(  # type: ignore[override]
    self, x: Array, train: bool = False, frozen_stats: bool = False
  ) -> Array:
    return super().__call__(x)


class Block(nn.Module):
  """A pre-norm encoder block; `drop_path` is the probability that a branch is left out for an example."""

  num_heads: int
  dropout: float
  drop_path: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    def branch(y: Array) -> Array:
      y = nn.Dropout(self.dropout)(y, deterministic=not train)
      return nn.Dropout(self.drop_path, broadcast_dims=(1, 2))(y, deterministic=not train)

    y = Norm(dtype=self.dtype, name="norm1")(x)
    x = x + branch(Attention(self.num_heads, self.dtype, name="attn")(y))
    y = Norm(dtype=self.dtype, name="norm2")(x)
    return x + branch(Mlp(self.dropout, self.dtype, name="mlp")(y, train))


def _first_token(x: Array) -> Array:
  return x[:, 0]


def _mean_token(x: Array) -> Array:
  return jnp.mean(x, axis=1)


def _as_map(x: Array, *, grid: int) -> Array:
  """[B, T, D] -> [B, grid, grid, D], without the class token, which comes first where there is one."""
  return x[:, x.shape[1] - grid**2 :].reshape(x.shape[0], grid, grid, x.shape[-1])


def _vit(
  name: str,
  *,
  num_classes: int,
  patch_size: int,
  image_size: int,
  width: int,
  depth: int,
  num_heads: int,
  pooling: str,
  dropout: float,
  drop_path: float,
  dtype: str,
  remat: bool,
  head: str,
) -> Model:
  counts = dict(num_classes=num_classes, patch_size=patch_size, image_size=image_size)
  counts |= dict(width=width, depth=depth, num_heads=num_heads)
  _check(counts, dict(dropout=dropout, drop_path=drop_path))
  layers.check_choice("pooling", pooling, ("token", "mean"))
  layers.check_choice("head", head, ("linear", "cosine"))
  compute = layers.checked_dtype(dtype)
  token = pooling == "token"
  cls = nn.remat(Block, static_argnums=(2, 3)) if remat else Block
  make = functools.partial(cls, num_heads=num_heads, dropout=dropout, dtype=compute)
  rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
  pool = _first_token if token else _mean_token
  blocks: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    ("embed", functools.partial(Embed, width, patch_size, image_size, token, dropout, compute)),
    *((f"block{i + 1}", functools.partial(make, drop_path=rate)) for i, rate in enumerate(rates)),
    ("norm", functools.partial(Norm, dtype=compute)),
    ("head", functools.partial(layers.Head, num_classes, head, pool)),
  )
  taps = {f"stage{quarter}": f"block{math.ceil(depth * quarter / 4)}" for quarter in (1, 2, 3, 4)}
  as_map = functools.partial(_as_map, grid=image_size // patch_size)
  return from_linen(name, Chain(blocks, taps, as_map), [block for block, _ in blocks])


def _check(counts: dict[str, int], rates: dict[str, float]) -> None:
  for keyword, value in counts.items():
    layers.check_count(keyword, value)
  for keyword, rate in rates.items():
    if not 0 <= rate < 1:
      raise ConfigError(f"{keyword} must be in [0, 1); got {rate!r}")
  size, patch = counts["image_size"], counts["patch_size"]
  if size % patch:
    near = max(size // patch, 1) * patch
    raise ConfigError(f"image_size={size} is no multiple of patch_size={patch}; write image_size={near}")
  if counts["width"] % counts["num_heads"]:
    raise ConfigError(f"width={counts['width']} does not divide into num_heads={counts['num_heads']}")


def _sized(name: str, width: int, depth: int, num_heads: int) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    patch_size: int = 16,
    image_size: int = 224,
    width: int = width,
    depth: int = depth,
    num_heads: int = num_heads,
    pooling: str = "token",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    dtype: str = "float32",
    remat: bool = False,
    head: str = "linear",
  ) -> Model:
    sizes: dict[str, Any] = dict(
      patch_size=patch_size, image_size=image_size, width=width, depth=depth, num_heads=num_heads
    )
    noise: dict[str, Any] = dict(dropout=dropout, drop_path=drop_path)
    options: dict[str, Any] = dict(
      num_classes=num_classes, pooling=pooling, dtype=dtype, remat=remat, head=head
    )
    return _vit(name, **sizes, **noise, **options)

  make.__name__ = make.__qualname__ = name
  make.__doc__ = f"A vision transformer of width {width}, depth {depth} and {num_heads} heads.\n{_DOC}"
  return make


_DOC = """
  Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv 2010.11929; the widths of Ti and S are
  those of Touvron et al., 2021, arXiv 2012.12877. Pre-norm blocks, LayerNorm epsilon 1e-6, exact GELU. Linear
  layers start as a truncated N(0, 0.02^2) with zero biases, positions as N(0, 0.02^2), patch projection and
  head as U(+-1/sqrt(fan_in)). Features: `stage1` .. `stage4`, the patch tokens after each quarter of the
  blocks as maps [B, h, w, D], before the last norm; `pooled` [B, D], `logits` [B, K].

  Args:
    num_classes: K.
    patch_size: side of a patch in pixels; 4 suits images of 32 pixels.
    image_size: side of the square images in pixels; the position embedding belongs to it.
    width: D.
    depth: number of blocks.
    num_heads: heads of the attention; divides `width`.
    pooling: "token", the class token; "mean", the mean over the patch tokens, without a class token.
    dropout: rate after the position embedding, inside the MLP and at the end of both branches.
    drop_path: rate of the last block's stochastic depth, rising linearly from 0 at the first
      (Huang et al., 2016, arXiv 1603.09382).
    dtype: type of the computation, "float32" or "bfloat16"; parameters, `pooled` and `logits` are float32.
    remat: compute each block again in the backward pass instead of keeping its activations.
    head: "linear", or "cosine" for cosines instead of logits (see `layers.Head`).

  Raises:
    ConfigError: an `image_size` that `patch_size` does not divide, images of another size, or a value that is
      none of those above.
  """

vit_ti16 = _sized("vit_ti16", width=192, depth=12, num_heads=3)
vit_s16 = _sized("vit_s16", width=384, depth=12, num_heads=6)
vit_b16 = _sized("vit_b16", width=768, depth=12, num_heads=12)
