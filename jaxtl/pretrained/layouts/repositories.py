"""Layouts of single repositories with popular weights: CIFAR ResNets, WideResNets, EfficientNet-Lite."""

from __future__ import annotations

from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.timm import preprocessing as timm_preprocessing
from jaxtl.types import Model

# github.com/akamaster/pytorch_resnet_cifar10
CIFAR_RESNET = Names(
  modules=(
    (r"stem/(\w+)", lambda layer: layer),
    (r"stage(\d+)_block(\d+)/shortcut_conv", lambda s, b: f"layer{s}.{b - 1}.shortcut.0"),
    (r"stage(\d+)_block(\d+)/shortcut_bn", lambda s, b: f"layer{s}.{b - 1}.shortcut.1"),
    (r"stage(\d+)_block(\d+)/(\w+)", lambda s, b, layer: f"layer{s}.{b - 1}.{layer}"),
    (r"head", lambda: "linear"),
  )
)
# github.com/xternalz/WideResNet-pytorch
WIDE_RESNET = Names(
  modules=(
    (r"stem/(\w+)", lambda layer: layer),
    (r"stage(\d+)_block(\d+)/shortcut_conv", lambda s, b: f"block{s}.layer.{b - 1}.convShortcut"),
    (r"stage(\d+)_block(\d+)/(\w+)", lambda s, b, layer: f"block{s}.layer.{b - 1}.{layer}"),
    (r"norm/bn", lambda: "bn1"),
    (r"head", lambda: "fc"),
  )
)
_LITE = {
  "expand": "_expand_conv",
  "expand_bn": "_bn0",
  "depthwise": "_depthwise_conv",
  "depthwise_bn": "_bn1",
  "project": "_project_conv",
  "project_bn": "_bn2",
  "squeeze_excite/reduce": "_se_reduce",
  "squeeze_excite/expand": "_se_expand",
}


def lukemelas_efficientnet(model: Model, _: Any) -> Names:
  """Returns the names of github.com/lukemelas/EfficientNet-PyTorch and its Lite fork.

  Blocks are numbered consecutively from 0.
  """
  number = {block: i for i, block in enumerate(model.blocks[1:-2])}
  return Names(
    modules=(
      (r"stem/(conv|bn)", lambda layer: "_conv_stem" if layer == "conv" else "_bn0"),
      (r"(stage\d+_block\d+)/(.+)", lambda block, part: f"_blocks.{number[block]}.{_LITE[part]}"),
      (r"top/(conv|bn)", lambda layer: "_conv_head" if layer == "conv" else "_bn1"),
      (r"head", lambda: "_fc"),
    )
  )


def _small_images(_: str) -> Preprocessing:
  return Preprocessing(size=32, crop_fraction=None)


def _lite_preprocessing(model: str) -> Preprocessing:
  """Returns (x - 127) / 128 for Lite, and ImageNet's mean and standard deviation for the other models."""
  usual = timm_preprocessing(model)
  if "lite" not in model:
    return usual
  half = (128 / 255,) * 3
  return Preprocessing(
    size=usual.size,
    crop_fraction=usual.crop_fraction,
    interpolation="bicubic",
    mean=(127 / 255,) * 3,
    std=half,
  )


AKAMASTER = Layout(
  name="akamaster",
  families=((r"resnet(?:8|20|32|44|56|110)", lambda *_: CIFAR_RESNET),),
  preprocessing=_small_images,
  aliases=((r"^module\.", ""),),
)
WIDE_RESNET_PYTORCH = Layout(
  name="wide_resnet_pytorch",
  families=((r"wide_resnet28_10", lambda *_: WIDE_RESNET),),
  preprocessing=_small_images,
  aliases=((r"^module\.", ""),),
)
LUKEMELAS = Layout(
  name="lukemelas",
  families=((r"efficientnet_.*", lukemelas_efficientnet),),
  preprocessing=_lite_preprocessing,
  keywords=lambda _: dict(padding="same", bn_epsilon=1e-3, bn_momentum=0.99),
)
