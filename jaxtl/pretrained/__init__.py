"""Everybody's weights, in and out: layouts, readers, import and export."""

from jaxtl.pretrained.big_vision import AUGREG, BIG_VISION
from jaxtl.pretrained.hugging_face import HUGGING_FACE
from jaxtl.pretrained.layout import Entry, Layout, Names, read, shapes_of, write
from jaxtl.pretrained.mlperf_tiny import MLPERF_TINY
from jaxtl.pretrained.native import JAXTL
from jaxtl.pretrained.openai import OPEN_CLIP, OPENAI
from jaxtl.pretrained.repositories import AKAMASTER, LUKEMELAS, WIDE_RESNET_PYTORCH
from jaxtl.pretrained.rules import Rule
from jaxtl.pretrained.tflite import TFLITE
from jaxtl.pretrained.timm import TIMM
from jaxtl.pretrained.torchvision import TORCHVISION

LAYOUTS = {
  layout.name: layout
  for layout in (
    JAXTL,
    TORCHVISION,
    TIMM,
    HUGGING_FACE,
    OPENAI,
    OPEN_CLIP,
    BIG_VISION,
    AUGREG,
    AKAMASTER,
    WIDE_RESNET_PYTORCH,
    LUKEMELAS,
    MLPERF_TINY,
    TFLITE,
  )
}

__all__ = ["LAYOUTS", "Entry", "Layout", "Names", "Rule", "read", "shapes_of", "write"]
