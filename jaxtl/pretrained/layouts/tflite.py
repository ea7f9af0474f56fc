"""The layout of MobileNets extracted from quantised TFLite files: one npz with numbered operations.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
2018, arXiv 1712.05877. A kernel is scale * (kernel_u8 - zero_point). Normalisation is folded into kernels and
biases, so our norms only add the bias. The first of the 1,001 classes is the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import SAME, Rule, Shape, constant
from jaxtl.types import Model

EPSILON = 1e-3
_STORED = ("kernel_u8", "zero_point", "scale")


def _dequantised(theirs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
  kernel, zero_point, scale = theirs
  real = (kernel.astype(np.float32) - zero_point) * scale
  return real.reshape(real.shape[2:]) if len(shape) == 2 else real  # the classifier is a 1x1 convolution


def _operations(model: Model, params: Any) -> dict[str, str]:
  """Returns our convolution -> `NNN_kind`, its number in the file, which also counts other operations.

  Pooling and additions are operations, too.
  """
  v1 = model.name == "mobilenet_v1"
  order = ("depthwise", "pointwise") if v1 else ("expand", "depthwise", "project")
  found: dict[str, str] = {}
  number = 0
  width = 0
  for block in model.blocks[:-1]:
    layers = ("conv",) if block in ("stem", "top") else tuple(name for name in order if name in params[block])
    for layer in layers:
      kind = "depthwise_conv_2d" if layer == "depthwise" else "conv_2d"
      found[f"{block}/{layer}"] = f"{number:03d}_{kind}"
      number += 1
    out = params[block][layers[-1]]["kernel"].shape[-1]
    # Later blocks of a stage have a residual addition, which is an operation as well.
    number += not v1 and block not in ("stem", "top") and out == width and not block.endswith("_block1")
    width = out
  return found | {"head": f"{number + 1:03d}_conv_2d"}  # after the pooling


def _names(model: Model, params: Any) -> Names:
  operation = _operations(model, params)

  def kernel(module: str) -> tuple[str, ...]:
    return tuple(f"{operation[module]}/{stored}" for stored in _STORED)

  def bias(module: str) -> str:
    return f"{operation[module]}/bias"

  return Names(
    tensors=(
      (r"(head|\w+/\w+)/kernel", kernel, Rule("scale (q - zero point)", _dequantised)),
      (r"(head)/bias", bias, SAME),
      (r"(stem|top)/bn/bias", lambda block: bias(f"{block}/conv"), SAME),
      (r"(\w+/\w+)_bn/bias", bias, SAME),
      (r".*/scale", tuple, constant(1.0)),
      (r".*/mean", tuple, constant(0.0)),
      (r".*/var", tuple, constant(1 - EPSILON)),
    )
  )


def _preprocessing(_: str) -> Preprocessing:
  return Preprocessing(crop_fraction=0.875, mean=(128 / 255,) * 3, std=(128 / 255,) * 3)


TFLITE = Layout(
  name="tflite",
  families=((r"mobilenet_v[12]", _names),),
  preprocessing=_preprocessing,
  keywords=lambda _: dict(padding="same", bn_epsilon=EPSILON, bn_momentum=0.99),
  ignored="graph_json",
)
