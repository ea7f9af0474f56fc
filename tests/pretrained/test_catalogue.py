"""The stored table of architectures equals what the models are; `--update-golden` writes it again."""

import json
from pathlib import Path

import pytest

import jaxtl
from jaxtl.cli.models import read_catalogue
from jaxtl.pretrained import catalogue

FILE = Path(jaxtl.__file__).parent / "pretrained" / "catalogue.json"
ROWS = {row["name"]: row for row in read_catalogue()}
# One of each kind, which also the fast tests trace.
QUICK = ("resnet20", "vit_ti32", "clip_text_b", "efficientnet_lite0")
# Giga multiply-accumulates of torchvision's weights of the same image size, `_ops` in their metadata
# (https://github.com/pytorch/vision, torchvision/models). They include the products of attention.
PUBLISHED = {
  "resnet18": 1.814,
  "resnet34": 3.664,
  "resnet50": 4.089,
  "resnet101": 7.801,
  "resnet152": 11.514,
  "densenet121": 2.834,
  "densenet161": 7.728,
  "densenet169": 3.36,
  "densenet201": 4.291,
  "efficientnet_b0": 0.386,
  "efficientnet_b1": 0.687,
  "efficientnet_b3": 1.827,
  "efficientnet_b4": 4.394,
  "efficientnet_b5": 10.266,
  "efficientnet_b6": 19.068,
  "efficientnet_b7": 37.746,
  "mobilenet_v2": 0.301,
  "vit_b16": 17.564,
  "vit_b32": 4.409,
  "vit_l16": 61.555,
  "vit_l32": 15.378,
}


def test_every_architecture_has_a_row(update_golden):
  if update_golden:
    rows = [json.dumps(catalogue.describe(name)) for name in catalogue.names()]
    FILE.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
  assert [row["name"] for row in read_catalogue()] == catalogue.names()


@pytest.mark.parametrize("name", QUICK)
def test_a_row_is_what_the_model_is(name):
  assert ROWS[name] == catalogue.describe(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in catalogue.names() if name not in QUICK])
def test_every_other_row_is_what_the_model_is(name):
  assert ROWS[name] == catalogue.describe(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_arithmetic_is_the_published_one(name):
  assert ROWS[name]["multiply_accumulates"] / 1e9 == pytest.approx(PUBLISHED[name], abs=1e-3)


def test_a_row_by_hand():
  """ResNet-20 (He et al., 2016, table 6): 9 convolutions of 16 channels at 32 x 32, then half the map."""
  row = ROWS["resnet20"]
  stage1 = 6 * 32 * 32 * 9 * 16 * 16
  later = 2 * 16 * 16 * 9 * 32 * 32 * 5 // 2 + 16 * 16 * 9 * 16 * 32
  assert later == 5 * 256 * 9 * 32 * 32 + 256 * 9 * 16 * 32
  last = 5 * 64 * 9 * 64 * 64 + 64 * 9 * 32 * 64
  assert row["input"] == [32, 32, 3]
  assert row["multiply_accumulates"] == 1024 * 9 * 3 * 16 + stage1 + later + last + 64 * 1000
