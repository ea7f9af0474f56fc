"""Backbones with their heads: `resnet50(num_classes=10)` gives a `Model` of pure functions."""

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
from jaxtl.models.linen import (
  from_linen,
)
from jaxtl.models.mobilenet import (
  mobilenet_v1,
  mobilenet_v2,
)
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
from jaxtl.models.vit import (
  vit_b16,
  vit_s16,
  vit_ti16,
)
from jaxtl.models.wide_resnet import (
  wide_resnet28_10,
)

__all__ = [
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
  "from_linen",
  "mobilenet_v1",
  "mobilenet_v2",
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
  "wide_resnet28_10",
]
