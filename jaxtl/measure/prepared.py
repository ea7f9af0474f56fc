"""A checkpoint with its model and its preprocessing, ready to be measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A checkpoint to evaluate and the preprocessing of its images.

  Attributes:
    weights: the checkpoint.
    model, task: the specs of its model and its task.
    transforms: the preprocessing.
    image_shape: (height, width) in pixels that the preprocessing is to produce.
  """

  weights: Weights
  model: Spec
  task: Spec
  transforms: tuple[Spec, ...]
  image_shape: tuple[int, int]


def prepare(weights: Weights, changes: Mapping[str, Any], *, trust: bool = False) -> Prepared:
  """Validates a checkpoint's config of its model, task and preprocessing.

  Args:
    weights: the checkpoint.
    changes: fields of `data.Preprocessing` that replace the checkpoint's own.
    trust: imports names of the config outside jaxtl and optax.

  Raises:
    InputError: a name is not trusted, or the preprocessing is unknown or cannot be changed.
  """
  model, task = weights.model_spec(trust=trust), task_of(weights, trust=trust)
  if not weights.classes and task.realize(num_classes=0).loss is not None:
    raise InputError(
      f"{weights.path} has no classifier; transfer it, train one, or give an image tower of CLIP one with "
      "--zero-shot"
    )
  return Prepared(weights, model, task, *preprocessing_of(weights, changes, trust=trust))


def preprocessing_of(
  weights: Weights, changes: Mapping[str, Any], *, trust: bool = False
) -> tuple[tuple[Spec, ...], tuple[int, int]]:
  """Returns the transforms of a checkpoint, and the (height, width) that they are to produce.

  Args and Raises: as in `prepare`; the checkpoint needs no classifier.
  """
  values, shape = _preprocessing(weights, changes)
  trusted = None if trust else config_lib.TRUSTED
  found = [config_lib.spec(value, at="the checkpoint's transforms", trusted=trusted) for value in values]
  return tuple(found), shape


def task_of(weights: Weights, *, trust: bool) -> Spec:
  """Returns the task that a checkpoint was trained on."""
  trusted = None if trust else config_lib.TRUSTED
  return config_lib.spec(weights.config["task"], at="the checkpoint's task", trusted=trusted)


def _preprocessing(
  weights: Weights, changes: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], tuple[int, int]]:
  """Returns the transforms as a config writes them, and the image shape that they are to produce."""
  own, (height, width) = weights.config["transforms"], weights.config["image_shape"][:2]
  if own is not None and not changes:
    return own, (height, width)
  if own is None:
    missing = [name for name in ("crop_fraction", "mean", "std") if name not in changes]
    if missing:
      options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
      raise InputError(
        f"{weights.path} was trained without an evaluation set, and has no preprocessing; give {options}"
      )
    found = data_lib.Preprocessing(**{"size": height, **changes})
  else:
    known = data_lib.Preprocessing.of(own, size=height) if height == width else None
    if known is None:
      raise InputError(
        f"the preprocessing of {weights.path} is more than resize, center_crop and normalize to a square, so "
        "no part can be replaced; leave out --image-size, --crop-fraction, --interpolation, --orientation, "
        "--mean, --std"
      )
    found = dataclasses.replace(known, **changes)
  return found.specs(), (found.size, found.size)
