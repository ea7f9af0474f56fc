"""The layout of timm's models.

Wightman, "PyTorch Image Models", 2019, doi 10.5281/zenodo.4414861. The preprocessing and numerics of a weight
are in the `config.json` next to it; the defaults are for weights without this file.
"""

from __future__ import annotations

from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import SAME, TWO_BIASES, TWO_KERNELS
from jaxtl.pretrained.layouts.torchvision import DENSENET, OLD_DENSENET, RESNET
from jaxtl.types import Model

# The parts of a block; the first stage has no expansion, and its projection has the expansion's name.
_FIRST = {
  "depthwise": "conv_dw",
  "depthwise_bn": "bn1",
  "squeeze_excite/reduce": "se.conv_reduce",
  "squeeze_excite/expand": "se.conv_expand",
  "project": "conv_pw",
  "project_bn": "bn2",
}
_OTHER = {
  "expand": "conv_pw",
  "expand_bn": "bn1",
  "depthwise": "conv_dw",
  "depthwise_bn": "bn2",
  "squeeze_excite/reduce": "se.conv_reduce",
  "squeeze_excite/expand": "se.conv_expand",
  "project": "conv_pwl",
  "project_bn": "bn3",
}
INVERTED = Names(
  modules=(
    (r"stem/(conv|bn)", lambda layer: "conv_stem" if layer == "conv" else "bn1"),
    (r"stage1_block(\d+)/(.+)", lambda b, part: f"blocks.0.{b - 1}.{_FIRST[part]}"),
    (r"stage(\d+)_block(\d+)/(.+)", lambda s, b, part: f"blocks.{s - 1}.{b - 1}.{_OTHER[part]}"),
    (r"top/(conv|bn)", lambda layer: "conv_head" if layer == "conv" else "bn2"),
    (r"head", lambda: "classifier"),
  )
)


def vit(_: Model, params: Any) -> Names:
  """Returns the names of a vision transformer, with two classifiers if there is a distillation token."""
  two = (
    (r"head/kernel", lambda: ("head.weight", "head_dist.weight"), TWO_KERNELS),
    (r"head/bias", lambda: ("head.bias", "head_dist.bias"), TWO_BIASES),
  )
  return Names(
    tensors=(
      (r"embed/class_token", lambda: "cls_token", SAME),
      (r"embed/distillation_token", lambda: "dist_token", SAME),
      (r"embed/positions", lambda: "pos_embed", SAME),
      *(two if "distillation_token" in params["embed"] else ()),
    ),
    modules=(
      (r"embed/proj", lambda: "patch_embed.proj"),
      (r"block(\d+)/(.+)", lambda b, part: f"blocks.{b - 1}.{part.replace('/', '.')}"),
      (r"(norm|head)", lambda block: block),
    ),
  )


_CROPS = {
  "efficientnet_b0": (224, 0.875),
  "efficientnet_b1": (240, 0.882),
  "efficientnet_b2": (260, 0.890),
  "efficientnet_b3": (300, 0.904),
  "efficientnet_b4": (380, 0.922),
  "efficientnet_b5": (456, 0.934),
  "efficientnet_b6": (528, 0.942),
  "efficientnet_b7": (600, 0.949),
  "efficientnet_l2": (475, 0.936),
  "efficientnet_lite0": (224, 0.875),
  "efficientnet_lite1": (240, 0.882),
  "efficientnet_lite2": (260, 0.890),
  "efficientnet_lite3": (300, 0.904),
  "efficientnet_lite4": (380, 0.920),
}
HALF = (0.5, 0.5, 0.5)


def preprocessing(model: str) -> Preprocessing:
  """Returns the preprocessing that most of timm's weights of that name expect."""
  if model.startswith("vit"):  # the weights of AugReg
    return Preprocessing(crop_fraction=0.9, interpolation="bicubic", mean=HALF, std=HALF)
  size, crop = _CROPS.get(model, (224, 0.875))
  if "lite" in model:
    how = "bilinear" if model[-1] in "34" else "bicubic"
    return Preprocessing(size=size, crop_fraction=crop, interpolation=how, mean=HALF, std=HALF)
  return Preprocessing(size=size, crop_fraction=crop, interpolation="bicubic")


def keywords(model: str) -> dict[str, Any]:
  """Returns the keywords of EfficientNets converted from TensorFlow (`tf_`), as timm builds them."""
  if model.startswith("efficientnet"):
    return dict(padding="same", bn_epsilon=1e-3, bn_momentum=0.9)
  return {}


TIMM = Layout(
  name="timm",
  families=(
    (r"resnet(?:18|34|50|101|152)", lambda *_: RESNET),
    (r"densenet\d+", lambda *_: DENSENET),
    (r"efficientnet_.*|mobilenet_v2", lambda *_: INVERTED),
    (r"vit_.*", vit),
  ),
  preprocessing=preprocessing,
  keywords=keywords,
  aliases=OLD_DENSENET,
  library="timm",
)
