"""Every public transform of one image keeps the contract. They are found by their signature."""

import functools
import inspect

import pytest

from jaxtl import data
from jaxtl.testing import check_transform

REQUIRED = {"size": 16, "degrees": 15.0}  # a value for each setting that has no default
# Settings under which a transform does something.
CHOSEN = {"color_jitter": dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)}
# A transform that adds views is checked as the one that makes the first view.
GIVES_VIEWS = {"aug_mix_jsd"}
NORMALISED = {"normalize", "random_erasing"}  # no pixels from 0 to 255


def _first_view(transform):
  def first_view(example, seed):
    found = dict(transform(example, seed))
    views = found.pop("views")
    return {**found, "image": views[0]}

  return first_view


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
    transform = functools.partial(function, **required | CHOSEN.get(name, {}))
    yield name, _first_view(transform) if name in GIVES_VIEWS else transform


TRANSFORMS = dict(_transforms())


def test_the_battery_finds_the_public_transforms():
  assert {"center_crop", "flip_left_right", "rand_augment", "resize", "rotate", "to_rgb"} <= set(TRANSFORMS)
  assert set(TRANSFORMS) >= NORMALISED | set(CHOSEN) | GIVES_VIEWS


@pytest.mark.parametrize(
  "transform",
  [
    functools.partial(data.rotate, degrees=10.0, probability=0.5, fill=(123.675, 116.28, 103.53)),
    functools.partial(data.random_crop, size=(22, 16), fill=(123.675, 116.28, 103.53)),
    functools.partial(data.gaussian_blur, kernel_size=9, sigma=2.0),
    functools.partial(data.auto_augment, policy="cifar10", fill=(1.0, 2.0, 3.0)),
    functools.partial(data.trivial_augment, num_bins=5, fill=0.0),
    functools.partial(data.aug_mix, variant="original_cifar", all_ops=True, severity=10, width=2, depth=1),
  ],
  ids=lambda transform: f"{transform.func.__name__}-{'-'.join(transform.keywords)}",
)
def test_other_settings_keep_the_contract(transform):
  check_transform(transform)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_keeps_the_contract(name):
  check_transform(TRANSFORMS[name], pixel_range=None if name in NORMALISED else (0.0, 255.0))
