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
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.linen import Chain, from_linen
from jaxtl.models.transformer import Embed, Encoder, as_map, check_sizes
from jaxtl.types import Array, Model


def _first_token(x: Array) -> Array:
  return x[:, 0]


def _two_tokens(x: Array) -> Array:
  return x[:, :2].reshape(x.shape[0], -1)


def _mean_token(x: Array) -> Array:
  return jnp.mean(x, axis=1)


# Pooling -> (tokens before the patches, normalised hidden state -> pooled).
POOLING: dict[str, tuple[tuple[str, ...], Callable[[Array], Array]]] = {
  "token": (("class_token",), _first_token),
  "mean": ((), _mean_token),
  "distilled": (("class_token", "distillation_token"), _two_tokens),
}


def _vit(
  name: str,
  *,
  num_classes: int,
  pooling: str,
  drop_path: float,
  remat: bool,
  head: str,
  sizes: dict[str, int],
  encoder: dict[str, Any],
) -> Model:
  layers.check_head(num_classes, head)
  check_sizes(**sizes)
  layers.check_rate("drop_path", drop_path)
  layers.check_choice("pooling", pooling, tuple(POOLING))
  how = Encoder(num_heads=sizes["num_heads"], **encoder)
  tokens, pool = POOLING[pooling]
  depth, patch_size, image_size = sizes["depth"], sizes["patch_size"], sizes["image_size"]
  blocks: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    ("embed", functools.partial(Embed, sizes["width"], patch_size, image_size, tokens, how)),
    *how.blocks(depth, drop_path=drop_path, remat=remat),
    ("norm", how.norm),
    ("head", functools.partial(layers.Head, num_classes, head, pool)),
  )
  taps = {f"stage{quarter}": f"block{math.ceil(depth * quarter / 4)}" for quarter in (1, 2, 3, 4)}
  strides = dict.fromkeys(taps, patch_size)
  chain = Chain(blocks, taps, functools.partial(as_map, grid=image_size // patch_size), strides)
  return from_linen(name, chain, [block for block, _ in blocks])


def _sized(name: str, patch_size: int, width: int, depth: int, num_heads: int) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    patch_size: int = patch_size,
    image_size: int = 224,
    width: int = width,
    depth: int = depth,
    num_heads: int = num_heads,
    pooling: str = "token",
    activation: str = "gelu",
    norm_epsilon: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    dtype: str = "float32",
    remat: bool = False,
    head: str = "linear",
  ) -> Model:
    sizes = dict(image_size=image_size, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads)
    encoder = dict(
      activation=activation, norm_epsilon=norm_epsilon, dropout=dropout, dtype=layers.checked_dtype(dtype)
    )
    rest: dict[str, Any] = dict(num_classes=num_classes, pooling=pooling, head=head, remat=remat)
    return _vit(name, drop_path=drop_path, sizes=sizes, encoder=encoder, **rest)

  title = (
    f"A vision transformer of width {width}, depth {depth} and {num_heads} heads on patches of {patch_size}."
  )
  return layers.named(make, name, f"{title}\n{_DOC}")


_DOC = f"""
  Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv 2010.11929; the widths of Ti and S, and the
  distillation token, are those of Touvron et al., 2021, arXiv 2012.12877. Pre-norm blocks. Linear layers
  start as a truncated N(0, 0.02^2) with zero biases, positions as N(0, 0.02^2), the patch projection as
  U(+-1/sqrt(fan_in)), the head's kernel as a third of that. Features: `stage1` .. `stage4`, the patch tokens
  after each quarter of the blocks as maps [B, h, w, D], before the last norm; `pooled` [B, D] or [B, 2 D],
  `logits` [B, K].

  Args:
    num_classes: K; 0 leaves the classifier out.
    patch_size: side of a patch in pixels; 4 suits images of 32 pixels.
    image_size: side of the square images in pixels; the position embedding belongs to it, and is resized
      where a weight of another size is loaded.
    width: D.
    depth: number of blocks.
    num_heads: heads of the attention; divides `width`.
    pooling: "token", the class token; "mean", the mean over the patch tokens, without a class token;
      "distilled", class and distillation token side by side.
    activation: "gelu", the exact one, as torch's; "gelu_tanh", the approximation that Flax's and big_vision's
      weights were trained with; "quick_gelu", OpenAI's.
    norm_epsilon: of layer normalisation; Hugging Face's ViT and DeiT have 1e-12.
    dropout: rate after the position embedding, inside the MLP and at the end of both branches.
    drop_path: rate of the last block's stochastic depth, rising linearly from 0 at the first
      (Huang et al., 2016, arXiv 1603.09382).
{layers.COMPUTE_DOC}{layers.HEAD_DOC}
  Raises:
    ConfigError: an `image_size` that `patch_size` does not divide, images of another size, or a value that is
      none of those above.
  """

vit_ti16 = _sized("vit_ti16", 16, width=192, depth=12, num_heads=3)
vit_s16 = _sized("vit_s16", 16, width=384, depth=12, num_heads=6)
vit_b16 = _sized("vit_b16", 16, width=768, depth=12, num_heads=12)
vit_l16 = _sized("vit_l16", 16, width=1024, depth=24, num_heads=16)
vit_ti32 = _sized("vit_ti32", 32, width=192, depth=12, num_heads=3)
vit_s32 = _sized("vit_s32", 32, width=384, depth=12, num_heads=6)
vit_b32 = _sized("vit_b32", 32, width=768, depth=12, num_heads=12)
vit_l32 = _sized("vit_l32", 32, width=1024, depth=24, num_heads=16)
