"""Import and export of weights in the formats of other libraries: layouts, readers and writers."""

from jaxtl.pretrained.layouts.big_vision import AUGREG, BIG_VISION
from jaxtl.pretrained.layouts.dinov2 import DINOV2
from jaxtl.pretrained.layouts.hugging_face import HUGGING_FACE
from jaxtl.pretrained.layouts.layout import Entry, Layout, Names, read, write
from jaxtl.pretrained.layouts.mlperf_tiny import MLPERF_TINY
from jaxtl.pretrained.layouts.native import JAXTL
from jaxtl.pretrained.layouts.openai import OPEN_CLIP, OPENAI
from jaxtl.pretrained.layouts.repositories import AKAMASTER, LUKEMELAS, WIDE_RESNET_PYTORCH
from jaxtl.pretrained.layouts.rules import Rule
from jaxtl.pretrained.layouts.tflite import TFLITE
from jaxtl.pretrained.layouts.timm import TIMM
from jaxtl.pretrained.layouts.torchvision import TORCHVISION

LAYOUTS = {
  layout.name: layout
  for layout in (
    JAXTL,
    TORCHVISION,
    TIMM,
    HUGGING_FACE,
    DINOV2,
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

__all__ = ["LAYOUTS", "Entry", "Layout", "Names", "Rule", "read", "write"]
