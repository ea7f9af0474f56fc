"""The layout of Hugging Face's transformers: ViT, DeiT and both towers of CLIP.

The names are those of the files on disk, which version 5 of the library reads and writes like version 4.
"""

from __future__ import annotations

from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.openai import preprocessing as clip_preprocessing
from jaxtl.pretrained.layouts.rules import LINEAR, SAME, TWO_BIASES, TWO_KERNELS, joined, leading
from jaxtl.pretrained.layouts.timm import HALF
from jaxtl.types import Model

_PARTS = {
  "norm1": "layernorm_before",
  "norm2": "layernorm_after",
  "attn/proj": "attention.output.dense",
  "mlp/fc1": "intermediate.dense",
  "mlp/fc2": "output.dense",
}


def vit(_: Model, params: Any) -> Names:
  """Returns the names of ViT, which begin with `vit`, or with a distillation token those of DeiT (`deit`)."""
  two = "distillation_token" in params["embed"]
  root = "deit" if two else "vit"
  pair = (
    (r"head/kernel", lambda: ("cls_classifier.weight", "distillation_classifier.weight"), TWO_KERNELS),
    (r"head/bias", lambda: ("cls_classifier.bias", "distillation_classifier.bias"), TWO_BIASES),
  )

  def qkv(block: int, kind: str) -> tuple[str, ...]:
    attention = f"{root}.encoder.layer.{block - 1}.attention.attention"
    return tuple(f"{attention}.{part}.{kind}" for part in ("query", "key", "value"))

  return Names(
    tensors=(
      (r"embed/class_token", lambda: f"{root}.embeddings.cls_token", SAME),
      (r"embed/distillation_token", lambda: f"{root}.embeddings.distillation_token", SAME),
      (r"embed/positions", lambda: f"{root}.embeddings.position_embeddings", SAME),
      (r"block(\d+)/attn/qkv/kernel", lambda b: qkv(b, "weight"), joined(LINEAR)),
      (r"block(\d+)/attn/qkv/bias", lambda b: qkv(b, "bias"), joined(SAME)),
      *(pair if two else ()),
    ),
    modules=(
      (r"embed/proj", lambda: f"{root}.embeddings.patch_embeddings.projection"),
      (r"block(\d+)/(.+)", lambda b, part: f"{root}.encoder.layer.{b - 1}.{_PARTS[part]}"),
      (r"norm", lambda: f"{root}.layernorm"),
      (r"head", lambda: "classifier"),
    ),
  )


_CLIP_PARTS = {
  "norm1": "layer_norm1",
  "norm2": "layer_norm2",
  "attn/proj": "self_attn.out_proj",
  "mlp/fc1": "mlp.fc1",
  "mlp/fc2": "mlp.fc2",
}


def _clip(tower: str, projection: str, tensors: Any, modules: Any, others: str) -> Names:
  def qkv(block: int, kind: str) -> tuple[str, ...]:
    return tuple(f"{tower}.encoder.layers.{block - 1}.self_attn.{part}_proj.{kind}" for part in "qkv")

  return Names(
    others=others,
    tensors=(
      *tensors,
      (r"projection/kernel", lambda: f"{projection}.weight", LINEAR),
      (r"block(\d+)/attn/qkv/kernel", lambda b: qkv(b, "weight"), joined(LINEAR)),
      (r"block(\d+)/attn/qkv/bias", lambda b: qkv(b, "bias"), joined(SAME)),
    ),
    modules=(
      *modules,
      (r"block(\d+)/(.+)", lambda b, part: f"{tower}.encoder.layers.{b - 1}.{_CLIP_PARTS[part]}"),
    ),
  )


_VISION, _TEXT = "vision_model", "text_model"
CLIP_IMAGE = _clip(
  _VISION,
  "visual_projection",
  tensors=(
    (r"embed/class_token", lambda: f"{_VISION}.embeddings.class_embedding", leading(2)),
    (r"embed/positions", lambda: f"{_VISION}.embeddings.position_embedding.weight", leading(1)),
  ),
  modules=(
    (r"embed/proj", lambda: f"{_VISION}.embeddings.patch_embedding"),
    (r"embed/norm", lambda: f"{_VISION}.pre_layrnorm"),
    (r"norm", lambda: f"{_VISION}.post_layernorm"),
    (r"head", lambda: "classifier"),
  ),
  others=r"text_model\..*|text_projection\..*|logit_scale",
)
CLIP_TEXT = _clip(
  _TEXT,
  "text_projection",
  tensors=(
    (r"embed/tokens", lambda: f"{_TEXT}.embeddings.token_embedding.weight", SAME),
    (r"embed/positions", lambda: f"{_TEXT}.embeddings.position_embedding.weight", leading(1)),
    (r"projection/log_scale", lambda: "logit_scale", SAME),
  ),
  modules=((r"norm", lambda: f"{_TEXT}.final_layer_norm"),),
  others=r"vision_model\..*|visual_projection\..*",
)


def preprocessing(model: str) -> Preprocessing:
  """Returns the preprocessing of `google/vit-*` and `openai/clip-*`; DeiT's is in its own config file."""
  if model.startswith("clip"):
    return clip_preprocessing(model)
  return Preprocessing(crop_fraction=None, mean=HALF, std=HALF)


def keywords(model: str) -> dict[str, Any]:
  """Returns the epsilon of ViT and DeiT."""
  return {} if model.startswith("clip") else dict(norm_epsilon=1e-12)


HUGGING_FACE = Layout(
  name="hugging_face",
  families=(
    (r"vit_.*", vit),
    (r"clip_vit_.*", lambda *_: CLIP_IMAGE),
    (r"clip_text_.*", lambda *_: CLIP_TEXT),
  ),
  preprocessing=preprocessing,
  keywords=keywords,
  ignored=r".*position_ids|vit\.pooler\..*|deit\.pooler\..*",
  library="transformers",
)
