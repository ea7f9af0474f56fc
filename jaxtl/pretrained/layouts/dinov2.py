"""The layout of Hugging Face's Dinov2Model, whose layer scales are folded into the layers before them.

Oquab, Darcet, Moutakanni, et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, arXiv
2304.07193. A branch of a block is multiplied channel by channel by a learned vector. That product is a part
of the last linear layer of the branch: (x W + b) * s = x (W * s) + b * s. The files have no classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import LINEAR, SAME, Rule, Shape, joined
from jaxtl.types import Model

# Our layer -> theirs, and the scale that follows it.
_SCALED = {"attn/proj": ("attention.output.dense", "layer_scale1"), "mlp/fc2": ("mlp.fc2", "layer_scale2")}
_PARTS = {"norm1": "norm1", "norm2": "norm2", "mlp/fc1": "mlp.fc1"}


def _scaled(theirs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
  values, scale = theirs
  return (values.T if len(shape) == 2 else values) * scale


def _names(_: Model, params: Any) -> Names:
  def layer(block: int) -> str:
    return f"encoder.layer.{block - 1}"

  def qkv(block: int, kind: str) -> tuple[str, ...]:
    return tuple(f"{layer(block)}.attention.attention.{part}.{kind}" for part in ("query", "key", "value"))

  def scaled(block: int, part: str, leaf: str) -> tuple[str, str]:
    name, scale = _SCALED[part]
    kind = "weight" if leaf == "kernel" else leaf
    return f"{layer(block)}.{name}.{kind}", f"{layer(block)}.{scale}.lambda1"

  return Names(
    tensors=(
      (r"embed/class_token", lambda: "embeddings.cls_token", SAME),
      (r"embed/positions", lambda: "embeddings.position_embeddings", SAME),
      (r"block(\d+)/attn/qkv/kernel", lambda b: qkv(b, "weight"), joined(LINEAR)),
      (r"block(\d+)/attn/qkv/bias", lambda b: qkv(b, "bias"), joined(SAME)),
      (r"block(\d+)/(attn/proj|mlp/fc2)/(kernel|bias)", scaled, Rule("times the layer scale", _scaled)),
    ),
    modules=(
      (r"embed/proj", lambda: "embeddings.patch_embeddings.projection"),
      (r"block(\d+)/(.+)", lambda b, part: f"{layer(b)}.{_PARTS[part]}"),
      (r"norm", lambda: "layernorm"),
      (r"head", lambda: "classifier"),
    ),
  )


def _preprocessing(_: str) -> Preprocessing:
  return Preprocessing(crop_fraction=0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD)


DINOV2 = Layout(
  name="dinov2",
  families=((r"vit_(s|b|l)\d+", _names),),
  preprocessing=_preprocessing,
  keywords=lambda _: dict(patch_size=14, image_size=518),
  ignored=r"embeddings\.mask_token",
)
