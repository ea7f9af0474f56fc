"""The layout of torchvision's models; timm's ResNets and DenseNets have the same names."""

from __future__ import annotations

from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import LINEAR, SAME
from jaxtl.types import Model

RESNET = Names(
  modules=(
    (r"stem/(\w+)", lambda layer: layer),
    (r"stage(\d+)_block(\d+)/shortcut_conv", lambda s, b: f"layer{s}.{b - 1}.downsample.0"),
    (r"stage(\d+)_block(\d+)/shortcut_bn", lambda s, b: f"layer{s}.{b - 1}.downsample.1"),
    (r"stage(\d+)_block(\d+)/(\w+)", lambda s, b, layer: f"layer{s}.{b - 1}.{layer}"),
    (r"head", lambda: "fc"),
  )
)
DENSENET = Names(
  modules=(
    (r"(?:stem|norm)/(\w+)", lambda layer: f"features.{layer}"),
    (r"stage(\d+)_layer(\d+)/(\w+)", lambda s, n, layer: f"features.denseblock{s}.denselayer{n}.{layer}"),
    (r"transition(\d+)/(\w+)", lambda s, layer: f"features.transition{s}.{layer}"),
    (r"head", lambda: "classifier"),
  )
)
# Checkpoints from before torchvision 0.3 have a dot that module names may no longer contain.
OLD_DENSENET = ((r"(denselayer\d+\.(?:norm|relu|conv))\.(\d+)", r"\1\2"),)

VIT = Names(
  tensors=(
    (r"embed/class_token", lambda: "class_token", SAME),
    (r"embed/positions", lambda: "encoder.pos_embedding", SAME),
    (r"block(\d+)/attn/qkv/kernel", lambda b: f"{_layer(b)}.self_attention.in_proj_weight", LINEAR),
    (r"block(\d+)/attn/qkv/bias", lambda b: f"{_layer(b)}.self_attention.in_proj_bias", SAME),
  ),
  modules=(
    (r"embed/proj", lambda: "conv_proj"),
    (r"block(\d+)/norm(\d)", lambda b, n: f"{_layer(b)}.ln_{n}"),
    (r"block(\d+)/attn/proj", lambda b: f"{_layer(b)}.self_attention.out_proj"),
    (r"block(\d+)/mlp/fc1", lambda b: f"{_layer(b)}.mlp.0"),
    (r"block(\d+)/mlp/fc2", lambda b: f"{_layer(b)}.mlp.3"),
    (r"norm", lambda: "encoder.ln"),
    (r"head", lambda: "heads.head"),
  ),
)
# Before version 0.12, the layers of the MLP had names instead of numbers.
OLD_VIT = ((r"(encoder_layer_\d+\.mlp)\.linear_1", r"\1.0"), (r"(encoder_layer_\d+\.mlp)\.linear_2", r"\1.3"))


def _layer(block: int) -> str:
  return f"encoder.layers.encoder_layer_{block - 1}"


_SQUEEZE = {"reduce": "fc1", "expand": "fc2"}


def _efficientnet() -> Names:
  """Returns the names of EfficientNets, whose stages are `features.1` to `features.7`.

  The parts of a block are numbered, starting from the depthwise convolution if there is no expansion.
  """
  part = {"expand": 0, "depthwise": 1, "squeeze_excite": 2, "project": 3}

  def inside(stage: int, block: int, name: str, norm: str | None) -> str:
    index = part[name] - (stage == 1)
    return f"features.{stage}.{block - 1}.block.{index}.{1 if norm else 0}"

  return Names(
    modules=(
      (r"stem/(conv|bn)", lambda layer: f"features.0.{int(layer == 'bn')}"),
      (
        r"stage(\d+)_block(\d+)/squeeze_excite/(reduce|expand)",
        lambda s, b, layer: f"features.{s}.{b - 1}.block.{2 - (s == 1)}.{_SQUEEZE[layer]}",
      ),
      (r"stage(\d+)_block(\d+)/(expand|depthwise|project)(_bn)?", inside),
      (r"top/(conv|bn)", lambda layer: f"features.8.{int(layer == 'bn')}"),
      (r"head", lambda: "classifier.1"),
    )
  )


def mobilenet_v2(model: Model, _: Any) -> Names:
  """Returns the names of MobileNetV2, whose blocks are numbered consecutively.

  The last convolution of a block and its norm are separate modules.
  """
  number = {block: str(i) for i, block in enumerate(model.blocks[:-1])}

  def inside(block: str, name: str, norm: str | None) -> str:
    first = block == "stage1_block1"  # without expansion
    index = {"expand": 0, "depthwise": 1, "project": 2}[name] - first
    tail = f"{index + bool(norm)}" if name == "project" else f"{index}.{int(bool(norm))}"
    return f"features.{number[block]}.conv.{tail}"

  return Names(
    modules=(
      (r"(stem|top)/(conv|bn)", lambda block, layer: f"features.{number[block]}.{int(layer == 'bn')}"),
      (r"(stage\d+_block\d+)/(expand|depthwise|project)(_bn)?", inside),
      (r"head", lambda: "classifier.1"),
    )
  )


# (side of the crop, side of the resized image, interpolation) of the newest weights, where they are not
# (224, 256, bilinear): https://docs.pytorch.org/vision/stable/models.html
_SIZES: dict[str, tuple[int, int, str]] = {
  "resnet50": (224, 232, "bilinear"),
  "resnet101": (224, 232, "bilinear"),
  "resnet152": (224, 232, "bilinear"),
  "mobilenet_v2": (224, 232, "bilinear"),
  "vit_l16": (224, 242, "bilinear"),
  "efficientnet_b0": (224, 256, "bicubic"),
  "efficientnet_b1": (240, 255, "bilinear"),
  "efficientnet_b2": (288, 288, "bicubic"),
  "efficientnet_b3": (300, 320, "bicubic"),
  "efficientnet_b4": (380, 384, "bicubic"),
  "efficientnet_b5": (456, 456, "bicubic"),
  "efficientnet_b6": (528, 528, "bicubic"),
  "efficientnet_b7": (600, 600, "bicubic"),
}


def preprocessing(model: str) -> Preprocessing:
  """Returns the preprocessing that torchvision's DEFAULT weights expect."""
  size, resized, interpolation = _SIZES.get(model, (224, 256, "bilinear"))
  return Preprocessing(size=size, crop_fraction=size / resized, interpolation=interpolation)


TORCHVISION = Layout(
  name="torchvision",
  families=(
    (r"resnet(?:18|34|50|101|152)", lambda *_: RESNET),
    (r"densenet\d+", lambda *_: DENSENET),
    (r"efficientnet_b\d+", lambda *_: _efficientnet()),
    (r"mobilenet_v2", mobilenet_v2),
    (r"vit_[bl]\d+", lambda *_: VIT),
  ),
  preprocessing=preprocessing,
  aliases=(*OLD_DENSENET, *OLD_VIT),
  library="torchvision",
)
