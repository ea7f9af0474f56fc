"""Parameter counts, exactly as published or as the reference implementations count them."""

import jax
import jax.numpy as jnp
import pytest

from jaxtl import models, tree
from jaxtl.cli.models import read_catalogue

pytestmark = pytest.mark.slow

IMAGENET = {
  "densenet121": 7_978_856,
  "densenet161": 28_681_000,
  "densenet169": 14_149_480,
  "densenet201": 20_013_928,
  "efficientnet_b0": 5_288_548,
  "efficientnet_b1": 7_794_184,
  "efficientnet_b2": 9_109_994,
  "efficientnet_b3": 12_233_232,
  "efficientnet_b4": 19_341_616,
  "efficientnet_b5": 30_389_784,
  "efficientnet_b6": 43_040_704,
  "efficientnet_b7": 66_347_960,
  "efficientnet_l2": 480_309_308,
  "efficientnet_lite0": 4_652_008,
  "efficientnet_lite1": 5_416_680,
  "efficientnet_lite2": 6_092_072,
  "efficientnet_lite3": 8_197_096,
  "efficientnet_lite4": 13_006_568,
  "mobilenet_v1": 4_231_976,
  "mobilenet_v2": 3_504_872,
}
# Without the last convolution, its norm and the classifier: the trunk that a detector takes.
TRUNK = {
  "efficientnet_b0": 3_595_388,
  "efficientnet_b4": 16_742_216,
  "efficientnet_b7": 62_143_440,
  "efficientnet_l2": 467_219_796,
}

ROWS = {row["name"]: row for row in read_catalogue()}


def shapes(model, size=64):
  return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


@pytest.mark.parametrize("name", IMAGENET)
def test_a_thousand_classes(name):
  """`tests/pretrained/test_catalogue.py` traces the model and compares it with the row."""
  assert ROWS[name]["parameters"] == IMAGENET[name]


@pytest.mark.parametrize("name", TRUNK)
def test_trunk(name):
  params, _ = shapes(getattr(models, name)(num_classes=0))
  assert tree.size({block: tensors for block, tensors in params.items() if block != "top"}) == TRUNK[name]


@pytest.mark.parametrize(
  ("name", "count", "head"), [("densenet201", 18_112_138, 19_210), ("wide_resnet28_10", 36_479_194, 6_410)]
)
def test_ten_classes(name, count, head):
  params, _ = shapes(getattr(models, name)(num_classes=10))
  assert (tree.size(params), tree.size(params["head"])) == (count, head)


@pytest.mark.parametrize(
  ("name", "segmenter", "detector"),
  [("efficientnet_b7", 67_527_317, 72_050_727), ("efficientnet_l2", 472_883_289, None)],
)
def test_segmenters_and_detectors(name, segmenter, detector):
  """As computed for the released models; with the unused ImageNet head, 71 M and 485 M as published."""
  backbone = getattr(models, name)(num_classes=1000)
  params, _ = shapes(models.segmenter(num_classes=21, backbone=backbone))
  assert tree.size(params) == segmenter
  if detector:
    assert tree.size(shapes(models.retinanet(num_classes=90, backbone=backbone))[0]) == detector
