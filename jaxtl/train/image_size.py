"""Sizes of images, and models whose parameters depend on the size: their position embeddings are resized."""

from __future__ import annotations

import dataclasses
import inspect

from jaxtl import weights as weights_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.train.inputs import Data
from jaxtl.train.step import shapes_of
from jaxtl.types import Model, Params


def image_size_of(data: Data) -> int | None:
  """Returns the side of the images that the transforms produce, or None if they do not state it."""
  sizes = (transform.keywords.get("size") for transform in reversed(data.transforms))
  return next((size for size in sizes if isinstance(size, int)), None)


def at_size(spec: Spec, size: int | None) -> Spec:
  """Returns the spec for square images of `size` pixels.

  It is the same spec if the model takes any size, or if the size is not known (None).
  """
  parameter = inspect.signature(spec.target).parameters.get("image_size")
  if size is None or parameter is None or spec.keywords.get("image_size", parameter.default) == size:
    return spec
  return dataclasses.replace(spec, keywords={**spec.keywords, "image_size": size})


def fitted(spec: Spec, weights: Weights, size: int) -> tuple[Model, Params]:
  """Returns the model of `weights` with its parameters, for square images of `size` pixels.

  Raises:
    ConfigError: the patch size of the model does not divide the size.
  """
  sized = at_size(spec, size)
  model = sized.realize(num_classes=len(weights.classes))
  if sized is spec:
    return model, weights.params
  return model, weights_lib.match(weights.params, shapes_of(model, (size, size, 3))["params"])
