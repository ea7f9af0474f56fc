"""Backbones with their heads: `resnet50(num_classes=10)` returns a `Model` of pure functions."""

from jaxtl.models.clip import clip_text_b, clip_text_l, clip_vit_b16, clip_vit_b32, clip_vit_l14, similarity
from jaxtl.models.densenet import (
  densenet121,
  densenet161,
  densenet169,
  densenet201,
)
from jaxtl.models.efficientnet import (
  efficientnet_b0,
  efficientnet_b1,
  efficientnet_b2,
  efficientnet_b3,
  efficientnet_b4,
  efficientnet_b5,
  efficientnet_b6,
  efficientnet_b7,
  efficientnet_l2,
  efficientnet_lite0,
  efficientnet_lite1,
  efficientnet_lite2,
  efficientnet_lite3,
  efficientnet_lite4,
)
from jaxtl.models.fpn import fpn
from jaxtl.models.linen import (
  from_linen,
)
from jaxtl.models.lora import lora, merge_factors
from jaxtl.models.mobilenet import (
  mobilenet_v1,
  mobilenet_v2,
)
from jaxtl.models.nasfpn import nasfpn
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
from jaxtl.models.retinanet import retinanet
from jaxtl.models.segmenter import segmenter
from jaxtl.models.vit import (
  vit_b16,
  vit_b32,
  vit_l16,
  vit_l32,
  vit_s16,
  vit_s32,
  vit_ti16,
  vit_ti32,
)
from jaxtl.models.wide_resnet import (
  wide_resnet28_10,
)

__all__ = [
  "clip_text_b",
  "clip_text_l",
  "clip_vit_b16",
  "clip_vit_b32",
  "clip_vit_l14",
  "densenet121",
  "densenet161",
  "densenet169",
  "densenet201",
  "efficientnet_b0",
  "efficientnet_b1",
  "efficientnet_b2",
  "efficientnet_b3",
  "efficientnet_b4",
  "efficientnet_b5",
  "efficientnet_b6",
  "efficientnet_b7",
  "efficientnet_l2",
  "efficientnet_lite0",
  "efficientnet_lite1",
  "efficientnet_lite2",
  "efficientnet_lite3",
  "efficientnet_lite4",
  "fpn",
  "from_linen",
  "lora",
  "merge_factors",
  "mobilenet_v1",
  "mobilenet_v2",
  "nasfpn",
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
  "retinanet",
  "segmenter",
  "similarity",
  "vit_b16",
  "vit_b32",
  "vit_l16",
  "vit_l32",
  "vit_s16",
  "vit_s32",
  "vit_ti16",
  "vit_ti32",
  "wide_resnet28_10",
]
