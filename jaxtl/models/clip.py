"""Both towers of CLIP, which embed images and texts in one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
arXiv 2103.00020.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.linen import Chain, Inputs, from_linen
from jaxtl.models.parameters import Module
from jaxtl.models.transformer import Embed, Encoder, as_map, check_heads, check_sizes
from jaxtl.types import Array, Model

TOKENS = Inputs("token ids [B, T]", 2, jnp.int32)


class Projection(Module):
  """The projection of the first token into the common space: [B, T, D] -> [B, E]."""

  embed_dim: int

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    kernel = self.param("kernel", nn.initializers.normal(x.shape[-1] ** -0.5), (x.shape[-1], self.embed_dim))
    return x[:, 0].astype(jnp.float32) @ kernel


def _as_is(x: Array) -> Array:
  return x


def _image_tower(name: str, *, num_classes: int, embed_dim: int, head: str, **rest: Any) -> Model:
  layers.check_head(num_classes, head)
  layers.check_count("embed_dim", embed_dim)
  layers.check_rate("drop_path", rest["drop_path"])
  sizes = {key: rest[key] for key in ("image_size", "patch_size", "width", "depth", "num_heads")}
  check_sizes(**sizes)
  how = Encoder(
    num_heads=sizes["num_heads"],
    activation=rest["activation"],
    norm_epsilon=rest["norm_epsilon"],
    dtype=layers.checked_dtype(rest["dtype"]),
  )
  depth, patch_size, image_size = sizes["depth"], sizes["patch_size"], sizes["image_size"]
  embed = functools.partial(Embed, sizes["width"], patch_size, image_size, ("class_token",), how)
  blocks: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    ("embed", functools.partial(embed, bias=False, norm=True)),
    *how.blocks(depth, drop_path=rest["drop_path"], remat=rest["remat"]),
    ("norm", how.norm),
    ("projection", functools.partial(Projection, embed_dim)),
    ("head", functools.partial(layers.Head, num_classes, head, _as_is)),
  )
  taps = {f"stage{quarter}": f"block{math.ceil(depth * quarter / 4)}" for quarter in (1, 2, 3, 4)}
  strides = dict.fromkeys(taps, patch_size)
  chain = Chain(blocks, taps, functools.partial(as_map, grid=image_size // patch_size), strides)
  return from_linen(name, chain, [block for block, _ in blocks])


def _sized(
  name: str, *, patch_size: int, width: int, depth: int, num_heads: int, embed_dim: int
) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    patch_size: int = patch_size,
    image_size: int = 224,
    width: int = width,
    depth: int = depth,
    num_heads: int = num_heads,
    embed_dim: int = embed_dim,
    activation: str = "quick_gelu",
    norm_epsilon: float = 1e-5,
    drop_path: float = 0.0,
    dtype: str = "float32",
    remat: bool = False,
    head: str = "linear",
  ) -> Model:
    sizes = dict(image_size=image_size, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads)
    how = dict(
      activation=activation, norm_epsilon=norm_epsilon, drop_path=drop_path, dtype=dtype, remat=remat
    )
    return _image_tower(name, num_classes=num_classes, embed_dim=embed_dim, head=head, **sizes, **how)

  title = (
    f"The image tower of CLIP: width {width}, depth {depth}, {num_heads} heads, patches of {patch_size}."
  )
  return layers.named(make, name, f"{title}\n{_IMAGE_DOC}")


_IMAGE_DOC = f"""
  Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
  arXiv 2103.00020. A vision transformer whose tokens are normalised before the first block; the class token,
  normalised and projected, is the image in the space that it shares with the texts. Features: `stage1` ..
  `stage4`, the patch tokens after each quarter of the blocks as maps [B, h, w, D]; `pooled` [B, E], the
  embedding, not normalised; `logits` [B, K]. With head="scaled_cosine" and the normalised embeddings of class
  names as kernel, the logits are those of zero-shot classification.

  Args:
    num_classes: K; 0 leaves the classifier out.
    patch_size: side of a patch in pixels.
    image_size: side of the square images in pixels.
    width: D.
    depth: number of blocks.
    num_heads: heads of the attention; divides `width`.
    embed_dim: E.
    activation: "quick_gelu", OpenAI's; "gelu", that of most open_clip weights; "gelu_tanh".
    norm_epsilon: of layer normalisation.
    drop_path: rate of the last block's stochastic depth, rising linearly from 0 at the first.
{layers.COMPUTE_DOC}{layers.HEAD_DOC}
  Raises:
    ConfigError: an `image_size` that `patch_size` does not divide, images of another size, or a value that is
      none of those above.
  """

clip_vit_b32 = _sized("clip_vit_b32", patch_size=32, width=768, depth=12, num_heads=12, embed_dim=512)
clip_vit_b16 = _sized("clip_vit_b16", patch_size=16, width=768, depth=12, num_heads=12, embed_dim=512)
clip_vit_l14 = _sized("clip_vit_l14", patch_size=14, width=1024, depth=24, num_heads=16, embed_dim=768)


class TokenEmbed(Module):
  """The token embedding: [B, T] token ids -> the ids and their vectors with positions [B, T, D]."""

  vocabulary: int
  context: int
  width: int
  dtype: Any

  @nn.compact
  def __call__(self, ids: Array, train: bool, frozen_stats: bool) -> tuple[Array, Array]:
    table = self.param("tokens", nn.initializers.normal(0.02), (self.vocabulary, self.width))
    positions = self.param("positions", nn.initializers.normal(0.01), (1, self.context, self.width))
    x = jnp.take(table, ids, axis=0) + positions[:, : ids.shape[1]]
    return ids, x.astype(self.dtype)


class WithIds(nn.Module):
  """An encoder module that passes the token ids through."""

  inner: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, hidden: tuple[Array, Array], train: bool, frozen_stats: bool) -> tuple[Array, Array]:
    ids, x = hidden
    # The inner module shares this scope, so that parameter paths have no extra level.
    inner = self.inner(name=None)
    nn.share_scope(self, inner)
    return ids, inner(x, train, frozen_stats)


class TextProjection(Module):
  """The projection of the text's end token into the common space, and the scale of the cosines.

  The end token is the one with the largest id.
  """

  embed_dim: int

  @nn.compact
  def __call__(self, hidden: tuple[Array, Array], train: bool, frozen_stats: bool) -> dict[str, Array]:
    ids, x = hidden
    kernel = self.param("kernel", nn.initializers.normal(x.shape[-1] ** -0.5), (x.shape[-1], self.embed_dim))
    scale = self.param("log_scale", nn.initializers.constant(layers.LOG_SCALE), ())
    end = jnp.take_along_axis(x, jnp.argmax(ids, axis=1)[:, None, None], axis=1)[:, 0]
    return {"pooled": end.astype(jnp.float32) @ kernel, "scale": jnp.exp(scale)}


def _text(name: str, *, width: int, num_heads: int, embed_dim: int) -> Callable[..., Model]:
  def make(
    *,
    width: int = width,
    depth: int = 12,
    num_heads: int = num_heads,
    embed_dim: int = embed_dim,
    vocabulary: int = 49_408,
    context: int = 77,
    activation: str = "quick_gelu",
    norm_epsilon: float = 1e-5,
    dtype: str = "float32",
    remat: bool = False,
  ) -> Model:
    counts = dict(width=width, depth=depth, num_heads=num_heads, embed_dim=embed_dim)
    for keyword, value in (counts | dict(vocabulary=vocabulary, context=context)).items():
      layers.check_count(keyword, value)
    check_heads(width, num_heads)
    compute = layers.checked_dtype(dtype)
    how = Encoder(num_heads, activation, norm_epsilon, causal=True, dtype=compute)
    inner = [*how.blocks(depth, drop_path=0.0, remat=remat), ("norm", how.norm)]
    blocks: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
      ("embed", functools.partial(TokenEmbed, vocabulary, context, width, compute)),
      *((block, functools.partial(WithIds, cls)) for block, cls in inner),
      ("projection", functools.partial(TextProjection, embed_dim)),
    )
    return from_linen(name, Chain(blocks, {}), [block for block, _ in blocks], inputs=TOKENS)

  return layers.named(make, name, f"The text tower of CLIP: width {width}, {num_heads} heads.\n{_TEXT_DOC}")


_TEXT_DOC = """
  Radford et al., 2021, arXiv 2103.00020. Its "images" are token ids int32 [B, T], T at most `context`, each
  text ended by the vocabulary's largest id. Features: `pooled` [B, E], not normalised; `scale`, by which the
  cosines between images and texts are multiplied.

  Args:
    width: of the tokens.
    depth: number of blocks.
    num_heads: heads of the attention; divides `width`.
    embed_dim: E.
    vocabulary: number of token ids.
    context: longest text.
    activation: "quick_gelu", OpenAI's; "gelu", that of most open_clip weights; "gelu_tanh".
    norm_epsilon: of layer normalisation.
    dtype: type of the computation, "float32" or "bfloat16".
    remat: compute each block again in the backward pass instead of keeping its activations.

  Raises:
    ConfigError: a value that is none of those above.
  """

clip_text_b = _text("clip_text_b", width=512, num_heads=8, embed_dim=512)
clip_text_l = _text("clip_text_l", width=768, num_heads=12, embed_dim=768)


def similarity(image: Array, text: Array, *, scale: Array | float) -> Array:
  """Computes the logits of each text for each image: scale * cosine.

  Args:
    image: [B, E] embeddings.
    text: [K, E] embeddings.
    scale: the feature `scale` of the text tower.

  Returns:
    [B, K].
  """
  return scale * layers.unit(image, axis=-1) @ layers.unit(text, axis=-1).T
