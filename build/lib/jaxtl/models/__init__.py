"""Backbones with their heads: `resnet50(num_classes=10)` gives a `Model` of pure functions."""

from jaxtl.models.linen import from_linen
from jaxtl.models.resnet import (
  resnet8,
  resnet18,
  resnet20,
  resnet32,
  resnet34,
  resnet44,
  resnet50,
  resnet56,
  resnet101,
  resnet110,
  resnet152,
)
from jaxtl.models.vit import vit_b16, vit_s16, vit_ti16

__all__ = [
  "from_linen",
  "resnet8",
  "resnet18",
  "resnet20",
  "resnet32",
  "resnet34",
  "resnet44",
  "resnet50",
  "resnet56",
  "resnet101",
  "resnet110",
  "resnet152",
  "vit_b16",
  "vit_s16",
  "vit_ti16",
]
