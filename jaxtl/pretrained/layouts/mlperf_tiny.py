"""The layout of the Keras ResNet-8 of MLPerf Tiny.

Banbury et al., "MLPerf Tiny Benchmark", 2021, arXiv 2106.07597. Its convolutions have biases, which are
folded into the mean of the following norm. Its projections have no norm, and get one that only adds the bias.
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
# Keras numbers the layers consecutively; in stages 2 and 3 a projection follows the two convolutions.
_CONVS = {
  "stem/conv1": 0,
  "stage1_block1/conv1": 1,
  "stage1_block1/conv2": 2,
  "stage2_block1/conv1": 3,
  "stage2_block1/conv2": 4,
  "stage2_block1/shortcut_conv": 5,
  "stage3_block1/conv1": 6,
  "stage3_block1/conv2": 7,
  "stage3_block1/shortcut_conv": 8,
}
_NORMS = {
  module.replace("conv", "bn"): i for i, module in enumerate(m for m in _CONVS if "shortcut" not in m)
}
_LEAVES = {"scale": "gamma", "bias": "beta", "var": "moving_variance"}


def _less_bias(theirs: Sequence[np.ndarray], _: Shape) -> np.ndarray:
  mean, bias = theirs
  return mean - bias


def _layer(kind: str, number: int) -> str:
  return f"{kind}_{number}" if number else kind


def _conv(stage: str, layer: str) -> str:
  return f"{_layer('conv2d', _CONVS[f'{stage}/{layer}'])}/kernel:0"


def _norm(stage: str, layer: str, leaf: str) -> str:
  return f"{_layer('batch_normalization', _NORMS[f'{stage}/{layer}'])}/{_LEAVES[leaf]}:0"


def _mean(stage: str, layer: str) -> tuple[str, str]:
  number = _CONVS[f"{stage}/{layer.replace('bn', 'conv')}"]
  norm = _layer("batch_normalization", _NORMS[f"{stage}/{layer}"])
  return f"{norm}/moving_mean:0", f"{_layer('conv2d', number)}/bias:0"


def _names(_: Model, params: Any) -> Names:
  return Names(
    tensors=(
      (
        r"(\w+)/shortcut_bn/bias",
        lambda stage: f"{_layer('conv2d', _CONVS[f'{stage}/shortcut_conv'])}/bias:0",
        SAME,
      ),
      (r"\w+/shortcut_bn/scale", tuple, constant(1.0)),
      (r"\w+/shortcut_bn/mean", tuple, constant(0.0)),
      (r"\w+/shortcut_bn/var", tuple, constant(1 - EPSILON)),
      (r"(\w+)/(\w*conv\d?)/kernel", _conv, SAME),
      (r"(\w+)/(bn\d)/mean", _mean, Rule("less the bias", _less_bias)),
      (r"(\w+)/(bn\d)/(\w+)", _norm, SAME),
      (r"head/(\w+)", lambda leaf: f"dense/{leaf}:0", SAME),
    )
  )


def _preprocessing(_: str) -> Preprocessing:
  """Returns a preprocessing that keeps pixels from 0 to 255."""
  return Preprocessing(size=32, crop_fraction=None, mean=(0.0,) * 3, std=(1 / 255,) * 3)


MLPERF_TINY = Layout(
  name="mlperf_tiny",
  families=((r"resnet8", _names),),
  preprocessing=_preprocessing,
  keywords=lambda _: dict(shortcut="B", padding="same", bn_epsilon=EPSILON, bn_momentum=0.99),
)
