"""The layouts of Flax's own vision transformers: big_vision, and the AugReg files of vision_transformer.

Steiner et al., "How to train your ViT?", 2022, arXiv 2106.10270; Beyer et al., "Better plain ViT baselines
for ImageNet-1k", 2022, arXiv 2205.01580.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import SAME, Rule, Shape, joined, per_head
from jaxtl.pretrained.layouts.timm import HALF
from jaxtl.types import Model

_QKV = ("query", "key", "value")


def _after_patches(theirs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
  """Adds a position of zeros for the class token, to which big_vision gives no position."""
  before = np.zeros((1, shape[1] - _square(shape[1]), shape[2]), theirs[0].dtype)
  return np.concatenate([before, theirs[0]], axis=1)


def _square(tokens: int) -> int:
  return int(tokens**0.5) ** 2


def _leaf(module: str, leaf: str, _: int) -> tuple[tuple[str, ...], Rule]:
  return (f"{module}/{leaf}",), SAME


def _names(
  positions: str, position_rule: Rule, parts: dict[str, str], attention: str
) -> Callable[..., Names]:
  def layer(block: int) -> str:
    return f"Transformer/encoderblock_{block - 1}"

  def qkv(block: int, leaf: str) -> tuple[str, ...]:
    return tuple(f"{layer(block)}/{attention}/{part}/{leaf}" for part in _QKV)

  def out(block: int, leaf: str) -> str:
    return f"{layer(block)}/{attention}/out/{leaf}"

  def family(_: Model, params: Any) -> Names:
    return Names(
      leaf=_leaf,
      tensors=(
        (r"embed/class_token", lambda: "cls", SAME),
        (r"embed/positions", lambda: positions, position_rule),
        (r"block(\d+)/attn/qkv/(\w+)", qkv, joined(per_head(out=False))),
        (r"block(\d+)/attn/proj/(kernel)", out, per_head(out=True)),
        (r"block(\d+)/attn/proj/(bias)", out, SAME),
      ),
      modules=(
        (r"embed/proj", lambda: "embedding"),
        (r"block(\d+)/(.+)", lambda b, part: f"{layer(b)}/{parts[part]}"),
        (r"norm", lambda: "Transformer/encoder_norm"),
        (r"head", lambda: "head"),
      ),
    )

  return family


big_vision = _names(
  "pos_embedding",
  Rule("zeros before", _after_patches),
  {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_1",
    "mlp/fc1": "MlpBlock_0/Dense_0",
    "mlp/fc2": "MlpBlock_0/Dense_1",
  },
  "MultiHeadDotProductAttention_0",
)
augreg = _names(
  "Transformer/posembed_input/pos_embedding",
  SAME,
  {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_2",
    "mlp/fc1": "MlpBlock_3/Dense_0",
    "mlp/fc2": "MlpBlock_3/Dense_1",
  },
  "MultiHeadDotProductAttention_1",
)


def _preprocessing(_: str) -> Preprocessing:
  return Preprocessing(crop_fraction=0.875, mean=HALF, std=HALF)


def _keywords(_: str) -> dict[str, Any]:
  """Returns the activation: both code bases use Flax's default GELU, the approximation by tanh."""
  return dict(activation="gelu_tanh")


# Training states store the weights under one of these keys.
_WRAPPERS = ((r"^(?:opt/target|params|target)/", ""),)

BIG_VISION = Layout(
  name="big_vision",
  families=((r"vit_.*", big_vision),),
  preprocessing=_preprocessing,
  keywords=_keywords,
  aliases=_WRAPPERS,
  ignored=r"opt/.*|extra/.*|step",
)
AUGREG = Layout(
  name="augreg",
  families=((r"vit_.*", augreg),),
  preprocessing=_preprocessing,
  keywords=_keywords,
  aliases=_WRAPPERS,
  ignored=r"opt/.*|step",
)
