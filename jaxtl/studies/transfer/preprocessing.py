"""The preprocessing of a checkpoint, for data sets that it is transferred to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import ConfigError
from jaxtl.train.inputs import Data

Transforms = tuple[Spec, ...]
FLIP = dict(fn=".data.flip_left_right")


def filled(train: Data, test: Data, start: Weights, *, at: str, trust: bool = False) -> tuple[Data, Data]:
  """Fills in the transforms that the training or the test side of a data set leaves out.

  Test images without transforms get the checkpoint's preprocessing. Training images without transforms get
  those of the test images with a standard augmentation: a flip, and a random resized crop if the
  preprocessing has a central crop.

  Args:
    at: name of the data set in error messages.
    trust: as in `Weights.model_spec`.

  Raises:
    ConfigError: the checkpoint has no record of the preprocessing with which it was evaluated.
  """
  if not test.transforms:
    specs = _own(start, at=at)
    test = dataclasses.replace(test, transforms=_parsed(specs, trust=trust))
  if not train.transforms:
    specs = config_lib.plain(list(test.transforms))
    augmented = _augmented(specs, _side(start))
    train = dataclasses.replace(train, transforms=_parsed(augmented, trust=trust))
  return train, test


def differs(data: Data, start: Weights) -> bool:
  """Returns whether the config normalises these images differently from the checkpoint's."""
  own = start.config.get("transforms")
  if not own or not data.transforms:
    return False
  expected, found = _normalization(own), _normalization(config_lib.plain(list(data.transforms)))
  if expected is None:
    return False
  return found is None or not np.allclose(found, expected, rtol=1e-3, atol=1e-4)


def normalization_text(start: Weights) -> str:
  """Formats the mean and the standard deviation of a checkpoint's channels."""
  found = _normalization(start.config.get("transforms") or ())
  mean, std = found if found else ((), ())
  return " and std ".join(", ".join(f"{x:.3g}" for x in row) for row in (mean, std))


def _own(start: Weights, *, at: str) -> list[dict[str, Any]]:
  own = start.config.get("transforms")
  if own is None:
    raise ConfigError(
      f"{at} has no transforms, and {start.path} does not say what it was evaluated with; give the target "
      "transforms, for example [dict(fn='.data.resize', size=[224, 224]), dict(fn='.data.normalize')]"
    )
  known = data_lib.Preprocessing.of(own, size=_side(start))
  # All steps are written out, so that images of another size are resized to the checkpoint's.
  return known.specs() if known is not None else own


def _augmented(specs: list[dict[str, Any]], side: int) -> list[dict[str, Any]]:
  known = data_lib.Preprocessing.of(specs, size=side)
  if known is None or known.crop_fraction is None:
    return [FLIP, *specs]
  crop = dict(fn=".data.random_resized_crop", size=known.size, interpolation=known.interpolation)
  return [crop, FLIP, specs[-1]]


def _side(start: Weights) -> int:
  return int(start.config.get("image_shape", (224,))[0])


def _parsed(specs: Sequence[Any], *, trust: bool) -> Transforms:
  trusted = None if trust else config_lib.TRUSTED
  return tuple(config_lib.spec(one, at="the checkpoint's transforms", trusted=trusted) for one in specs)


def _normalization(specs: Sequence[Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
  """Returns mean and std of the last normalisation, with defaults for omitted values; None without one."""
  for one in reversed(specs):
    if one.get("fn") in (".data.normalize", "jaxtl.data.normalize"):
      defaults = data_lib.Preprocessing()
      return tuple(one.get("mean", defaults.mean)), tuple(one.get("std", defaults.std))
  return None
