"""Residual networks: the ImageNet family and the thin CIFAR family.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, arXiv 1512.03385.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models import layers
from jaxtl.models.kernels.pooling import max_pool
from jaxtl.models.layers import Numerics
from jaxtl.models.linen import Chain, from_linen
from jaxtl.types import Array, Model


class Stem(nn.Module):
  """A stem: 7x7 with stride 2 and 3x3 max pooling ("imagenet"), or 3x3 with stride 1 ("cifar")."""

  width: int
  kind: str
  numerics: Numerics

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    kernel, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
    x = self.numerics.conv(self.width, kernel=kernel, stride=stride, name="conv1")(x)
    x = nn.relu(self.numerics.norm(train=train, frozen_stats=frozen_stats, name="bn1")(x))
    if self.kind == "cifar":
      return x
    edges = ((1, 1), (1, 1)) if self.numerics.padding == "symmetric" else "SAME"
    return max_pool(x, window=3, stride=2, padding=edges)


class BasicBlock(nn.Module):
  """A residual block of two 3x3 convolutions."""

  width: int
  stride: int
  shortcut: str
  zero_init_residual: bool
  numerics: Numerics
  expansion: ClassVar[int] = 1

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    conv = functools.partial(self.numerics.conv, self.width, kernel=3)
    norm = functools.partial(self.numerics.norm, train=train, frozen_stats=frozen_stats)
    y = conv(stride=self.stride, name="conv1")(x)
    y = nn.relu(norm(name="bn1")(y))
    y = conv(name="conv2")(y)
    y = norm(zero_scale=self.zero_init_residual, name="bn2")(y)
    return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, self.shortcut, self.numerics, norm))


class Bottleneck(nn.Module):
  """A residual block: 1x1, 3x3, 1x1 to four times the width; the 3x3 has the stride ("V1.5")."""

  width: int
  stride: int
  shortcut: str
  zero_init_residual: bool
  numerics: Numerics
  expansion: ClassVar[int] = 4

  @nn.compact
  def __call__(self, x: Array, train: bool, frozen_stats: bool) -> Array:
    conv = self.numerics.conv
    norm = functools.partial(self.numerics.norm, train=train, frozen_stats=frozen_stats)
    y = nn.relu(norm(name="bn1")(conv(self.width, kernel=1, name="conv1")(x)))
    y = nn.relu(norm(name="bn2")(conv(self.width, kernel=3, stride=self.stride, name="conv2")(y)))
    y = conv(self.width * self.expansion, kernel=1, name="conv3")(y)
    y = norm(zero_scale=self.zero_init_residual, name="bn3")(y)
    return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, self.shortcut, self.numerics, norm))


def _shortcut(
  x: Array, width: int, stride: int, kind: str, numerics: Numerics, norm: Callable[..., nn.Module]
) -> Array:
  """Returns x in the shape of the residual: unchanged if it fits, else by option A or B of the paper."""
  if stride == 1 and x.shape[-1] == width:
    return x
  if kind == "A":
    missing = width - x.shape[-1]
    zeros = (missing // 2, missing - missing // 2)
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), zeros))
  return norm(name="shortcut_bn")(numerics.conv(width, kernel=1, stride=stride, name="shortcut_conv")(x))


def _resnet(
  name: str,
  block: type[nn.Module],
  depths: Sequence[int],
  *,
  num_classes: int,
  stem: str,
  shortcut: str,
  width: int,
  remat: bool,
  zero_init_residual: bool,
  head: str,
  **numerics: Any,
) -> Model:
  """Builds the stem, `depths[s]` blocks of width `width * 2**s` in stage s + 1, and the head."""
  layers.check_head(num_classes, head)
  layers.check_count("width", width)
  layers.check_choice("stem", stem, ("imagenet", "cifar"))
  layers.check_choice("shortcut", shortcut, ("A", "B"))
  how = Numerics.of(**numerics)
  cls = nn.remat(block, static_argnums=(2, 3)) if remat else block
  make = functools.partial(cls, shortcut=shortcut, zero_init_residual=zero_init_residual, numerics=how)
  blocks: list[tuple[str, Callable[..., nn.Module]]] = [("stem", functools.partial(Stem, width, stem, how))]
  for stage, depth in enumerate(depths):
    for number in range(depth):
      stride = 2 if stage > 0 and number == 0 else 1
      block_name = f"stage{stage + 1}_block{number + 1}"
      blocks.append((block_name, functools.partial(make, width=width * 2**stage, stride=stride)))
  blocks.append(("head", functools.partial(layers.Head, num_classes, head)))
  taps = {f"stage{stage + 1}": f"stage{stage + 1}_block{depth}" for stage, depth in enumerate(depths)}
  first = 4 if stem == "imagenet" else 1
  strides = {f"stage{stage + 1}": first * 2**stage for stage in range(len(depths))}
  chain = Chain(tuple(blocks), taps, strides=strides)
  return from_linen(name, chain, [block_name for block_name, _ in blocks])


# The keywords are the schema of a config, so each family lists them once, with its own defaults.


def _imagenet(name: str, block: type[nn.Module], depths: Sequence[int]) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    stem: str = "imagenet",
    width: int = 64,
    dtype: str = "float32",
    remat: bool = False,
    zero_init_residual: bool = False,
    padding: str = "symmetric",
    bn_epsilon: float = 1e-5,
    bn_momentum: float = 0.9,
    batch_norm: str = "batch",
    head: str = "linear",
  ) -> Model:
    shape: dict[str, Any] = dict(num_classes=num_classes, stem=stem, shortcut="B", width=width, head=head)
    norm: dict[str, Any] = dict(bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm)
    rest: dict[str, Any] = dict(remat=remat, zero_init_residual=zero_init_residual)
    return _resnet(name, block, depths, dtype=dtype, padding=padding, **shape, **norm, **rest)

  title = f"{name.replace('resnet', 'ResNet-')} as torchvision's, stages of {depths}."
  return layers.named(make, name, f"{title}\n{_IMAGENET}")


def _cifar(name: str, blocks_per_stage: int) -> Callable[..., Model]:
  def make(
    *,
    num_classes: int,
    shortcut: str = "A",
    width: int = 16,
    dtype: str = "float32",
    remat: bool = False,
    zero_init_residual: bool = False,
    padding: str = "symmetric",
    bn_epsilon: float = 1e-5,
    bn_momentum: float = 0.9,
    batch_norm: str = "batch",
    head: str = "linear",
  ) -> Model:
    shape: dict[str, Any] = dict(
      num_classes=num_classes, stem="cifar", shortcut=shortcut, width=width, head=head
    )
    norm: dict[str, Any] = dict(bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, batch_norm=batch_norm)
    rest: dict[str, Any] = dict(remat=remat, zero_init_residual=zero_init_residual)
    depths = (blocks_per_stage,) * 3
    return _resnet(name, BasicBlock, depths, dtype=dtype, padding=padding, **shape, **norm, **rest)

  title = f"{name.replace('resnet', 'ResNet-')} for 32-pixel images, three stages of {blocks_per_stage}."
  return layers.named(make, name, f"{title}\n{_CIFAR}")


_SHARED = f"""\
    width: channels of the first stage; each further stage has twice as many.
    zero_init_residual: the last scale of each block starts at 0, so that the block starts as the identity
      (Goyal et al., 2017, arXiv 1706.02677).
{layers.COMPUTE_DOC}{layers.NORM_DOC}{layers.HEAD_DOC}
  Raises:
    ConfigError: a value that is none of those above.
  """

_IMAGENET = f"""
  He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, arXiv 1512.03385; the variant
  "V1.5", whose bottlenecks have the stride in the 3x3. Convolutions start as N(0, 2 / fan_out), the head's
  kernel as U(+-1/(3 sqrt(fan_in))), its bias as U(+-1/sqrt(fan_in)). Features: `stage1` .. `stage4`
  [B, h, w, D], `pooled` [B, D], `logits` [B, K].

  Args:
    num_classes: K; 0 leaves the classifier out.
    stem: "imagenet", 7x7 stride 2 and max pooling; "cifar", 3x3 stride 1 without pooling, for images of
      32 to 64 pixels.
{_SHARED}"""

_CIFAR = f"""
  He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, arXiv 1512.03385, section 4.2.
  The initial values are those of the ImageNet family. Features: `stage1` .. `stage3` [B, h, w, D], `pooled`
  [B, D], `logits` [B, K].

  Args:
    num_classes: K; 0 leaves the classifier out.
    shortcut: where the shape changes: "A", every second pixel and zeros for the new channels, half of them
      before and half behind the old ones, no parameters; "B", a 1x1 convolution with batch normalisation.
{_SHARED}"""

resnet18 = _imagenet("resnet18", BasicBlock, (2, 2, 2, 2))
resnet34 = _imagenet("resnet34", BasicBlock, (3, 4, 6, 3))
resnet50 = _imagenet("resnet50", Bottleneck, (3, 4, 6, 3))
resnet101 = _imagenet("resnet101", Bottleneck, (3, 4, 23, 3))
resnet152 = _imagenet("resnet152", Bottleneck, (3, 8, 36, 3))

resnet8 = _cifar("resnet8", 1)
resnet20 = _cifar("resnet20", 3)
resnet32 = _cifar("resnet32", 5)
resnet44 = _cifar("resnet44", 7)
resnet56 = _cifar("resnet56", 9)
resnet110 = _cifar("resnet110", 18)
