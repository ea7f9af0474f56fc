"""The preprocessing of a weight, as transforms and back."""

import pytest
import tensorflow as tf

from jaxtl import data
from jaxtl.config import spec
from jaxtl.data import Preprocessing
from jaxtl.errors import ConfigError

CASES = [
  Preprocessing(),
  Preprocessing(size=288, crop_fraction=288 / 320, interpolation="bicubic"),
  Preprocessing(size=32, crop_fraction=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
  Preprocessing(size=224, crop_fraction=1.0),
  Preprocessing(size=48, crop_fraction=0.5, upright=False),
  Preprocessing(size=48, crop_fraction=None, upright=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_survives_the_way_through_a_config(case):
  assert Preprocessing.of(case.specs(), size=case.size) == case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_its_transforms_leave_images_of_its_size(case):
  example = {"image": tf.zeros((50, 70, 3), tf.uint8), "label": tf.constant(0)}
  for value in case.specs():
    example = spec(value).realize()(example)
  assert example["image"].shape == (case.size, case.size, 3)


def test_the_shorter_side_is_as_timm_and_torchvision_have_it():
  assert Preprocessing(size=224, crop_fraction=0.875).resize_to == 256
  assert Preprocessing(size=600, crop_fraction=0.949).resize_to == 632
  assert Preprocessing(size=224, crop_fraction=224 / 232).resize_to == 232


def test_images_that_are_only_normalised_have_the_size_they_are_given():
  found = Preprocessing.of([dict(fn=".data.normalize")], size=32)
  assert found == Preprocessing(size=32, crop_fraction=None)


@pytest.mark.parametrize(
  "specs",
  [
    [],
    [dict(fn=".data.rotate", degrees=3.0), dict(fn=".data.normalize")],
    [dict(fn=".data.normalize"), dict(fn=".data.resize", size=8)],
    [dict(fn=".data.resize", size=8), dict(fn=".data.to_rgb"), dict(fn=".data.normalize")],
    [dict(fn=".data.resize", size=[8, 9]), dict(fn=".data.normalize")],
  ],
)
def test_other_transforms_are_no_preprocessing(specs):
  assert Preprocessing.of(specs, size=8) is None


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    (dict(size=0), "size is 0; expected pixels, at least 1"),
    (dict(crop_fraction=1.5), "crop_fraction is 1.5; expected above 0 and at most 1"),
    (dict(interpolation="nearest"), "interpolation is 'nearest'; expected one of bilinear, bicubic"),
    (dict(std=(1.0, 0.0, 1.0)), "expected three numbers each, the stds above 0"),
  ],
)
def test_what_cannot_be_is_named(wrong, message):
  with pytest.raises(ConfigError) as error:
    data.Preprocessing(**wrong)
  assert message in str(error.value)
