"""Every public transform of one image keeps the contract. They are found by their signature."""

import functools
import inspect

import pytest

from jaxtl import data
from jaxtl.testing import check_transform

REQUIRED = {"size": 16, "degrees": 15.0}  # a value for each setting that has no default
# Settings under which a transform does something.
CHOSEN = {"color_jitter": dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)}
NORMALISED = {"normalize", "random_erasing"}  # no pixels from 0 to 255


def _transforms():
  for name in data.__all__:
    function = getattr(data, name)
    if (
      not inspect.isfunction(function) or next(iter(inspect.signature(function).parameters), "") != "example"
    ):
      continue
    settings = inspect.signature(function).parameters.values()
    required = {
      p.name: REQUIRED[p.name] for p in settings if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    yield name, functools.partial(function, **required | CHOSEN.get(name, {}))


TRANSFORMS = dict(_transforms())


def test_the_battery_finds_the_public_transforms():
  assert {"center_crop", "flip_left_right", "rand_augment", "resize", "rotate", "to_rgb"} <= set(TRANSFORMS)
  assert set(TRANSFORMS) >= NORMALISED | set(CHOSEN)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_keeps_the_contract(name):
  check_transform(TRANSFORMS[name], pixel_range=None if name in NORMALISED else (0.0, 255.0))
