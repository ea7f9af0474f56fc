"""The architectures of the library with their sizes, as `jaxtl models` lists them.

Tracing all of them takes a minute, so `catalogue.json` stores the table. `tests/pretrained/test_catalogue.py`
computes every row again, and writes the file with `--update-golden`.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax

from jaxtl import models, tree
from jaxtl.models.cost import multiply_accumulates
from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.layouts.native import JAXTL
from jaxtl.train.step import shapes_of

NUM_CLASSES = 1000
# The libraries that most weights come from are asked first for the usual size of the images.
_FIRST = ("timm", "hugging_face", "openai")
_NOT_ARCHITECTURES = (
  "fpn",
  "from_linen",
  "lora",
  "merge_factors",
  "nasfpn",
  "retinanet",
  "segmenter",
  "similarity",
)


def names() -> list[str]:
  """Returns the names of all architectures."""
  return [name for name in models.__all__ if name not in _NOT_ARCHITECTURES]


def describe(name: str) -> dict[str, Any]:
  """Describes an architecture with 1,000 classes, by its shapes alone.

  Args:
    name: an architecture, such as "resnet50".

  Returns:
    `name`; `parameters`; `multiply_accumulates` of one forward pass of one input; `input`, its usual shape:
    [height, width, 3], or [tokens]; `image_sizes` {layout: side of the images that its weights expect};
    `blocks` in forward order; `layouts` from which weights can be imported.
  """
  make = getattr(models, name)
  keywords = inspect.signature(make).parameters
  has_classes = "num_classes" in keywords
  model = make(**({"num_classes": NUM_CLASSES} if has_classes else {}))
  layouts = [key for key, layout in LAYOUTS.items() if layout is not JAXTL and layout.has(name)]
  has_images = "context" not in keywords
  sizes = {key: LAYOUTS[key].preprocessing(name).size for key in layouts} if has_images else {}
  shape = _input_shape(keywords, sizes)
  variables = shapes_of(model, shape)
  dtype = jax.numpy.float32 if has_images else jax.numpy.int32
  one = jax.ShapeDtypeStruct((1, *shape), dtype)
  return {
    "name": name,
    "parameters": tree.size(variables["params"]),
    "multiply_accumulates": multiply_accumulates(
      lambda given, x: model.apply(given["params"], given["batch_stats"], x)[0], variables, one
    ),
    "input": list(shape),
    "image_sizes": sizes,
    "blocks": list(model.blocks),
    "layouts": [*layouts, JAXTL.name],
  }


def _input_shape(keywords: Any, sizes: dict[str, int]) -> tuple[int, ...]:
  """Returns the shape of the model's keywords, or else of the images that most weights expect."""
  if "context" in keywords:
    return (keywords["context"].default,)
  if "image_size" in keywords:
    side = keywords["image_size"].default
  else:
    side = next(sizes[key] for key in (*_FIRST, *sizes) if key in sizes)
  return (side, side, 3)
