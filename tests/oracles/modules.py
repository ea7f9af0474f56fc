"""Which module of a library gives each stage's features."""

from __future__ import annotations

import math
from typing import Any

EFFICIENT = range(1, 8)


def stage_modules(case: Any, keywords: dict[str, Any]) -> dict[str, str]:
  """{stage: dotted name of the module whose output it is}."""
  if case.text:
    return {}
  model, layout = case.model, case.layout
  if "vit" in model:
    ends = {f"stage{q}": math.ceil(keywords["depth"] * q / 4) - 1 for q in (1, 2, 3, 4)}
    return {stage: _transformer(layout, model, keywords).format(end) for stage, end in ends.items()}
  if model.startswith("resnet"):
    return {f"stage{s}": f"layer{s}" for s in (1, 2, 3, 4)}
  if model.startswith("densenet"):
    return {f"stage{s}": f"features.denseblock{s}" for s in (1, 2, 3, 4)}
  if layout == "timm":
    return {f"stage{s}": f"blocks.{s - 1}" for s in EFFICIENT}
  if model == "mobilenet_v2":
    ends = (1, 3, 6, 10, 13, 16, 17)
    return {f"stage{s}": f"features.{end}" for s, end in enumerate(ends, start=1)}
  return {f"stage{s}": f"features.{s}" for s in EFFICIENT}


def _transformer(layout: str, model: str, keywords: dict[str, Any]) -> str:
  if layout == "torchvision":
    return "encoder.layers.encoder_layer_{}"
  if layout == "timm":
    return "blocks.{}"
  if layout == "hugging_face":
    if model.startswith("clip"):
      return "vision_model.encoder.layers.{}"
    return ("deit" if keywords["pooling"] == "distilled" else "vit") + ".layers.{}"
  return "visual.transformer.resblocks.{}"
