"""Small models with random weights, as trees of ours and as tensors in the layout of others."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxtl import cli, config, models
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.pretrained import LAYOUTS, Entry, catalogue, write
from jaxtl.train.step import shapes_of
from jaxtl.types import Model
from tests.oracles.cases import random_weights

VIT = dict(patch_size=8, width=8, depth=2, num_heads=2)
VIT_KEYWORDS = [f"{key}={value}" for key, value in VIT.items()]
CLASSES = ("ant", "bee", "cat")
TASK = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))
NAMES = catalogue.names()
# As small as the structure of each family allows.
SMALL = dict(width=4, depth=2, num_heads=2, growth=2, width_factor=0.1, depth_factor=0.3)
SMALL |= dict(embed_dim=4, vocabulary=16, context=5)
SMALL_OF = {"wide_resnet28_10": dict(width=1, depth=10)}


@dataclasses.dataclass(frozen=True)
class Made:
  """A model, its shapes and entries in a layout, and the same weights as ours and as theirs."""

  model: Model
  shapes: Any
  entries: list[Entry]
  ours: Any
  theirs: dict[str, np.ndarray]


def made(layout: str, name: str, *, size: int = 16, seed: int = 0, **keywords: Any) -> Made:
  """A model with the layout's own numerics and random weights."""
  chosen = {**LAYOUTS[layout].keywords(name), **keywords}
  if "num_classes" in inspect.signature(getattr(models, name)).parameters:
    chosen = {"num_classes": len(CLASSES), **chosen}
  model = getattr(models, name)(**chosen)
  shapes = shapes_of(model, (size,) if name.startswith("clip_text") else (size, size, 3))
  entries = LAYOUTS[layout].entries(model, shapes)
  ours = random_weights(shapes, seed=seed)
  return Made(model, shapes, entries, ours, write(entries, ours))


def small_vit(layout: str, *, size: int = 16, seed: int = 0, name: str = "vit_ti16", **keywords: Any) -> Made:
  """A vision transformer of two blocks on patches of 8 pixels."""
  return made(layout, name, size=size, seed=seed, image_size=size, **{**VIT, **keywords})


@functools.cache
def small(name: str) -> tuple[Model, Any]:
  """(model, shapes) of a small model of every name, for what only its structure matters."""
  parameters = inspect.signature(getattr(models, name)).parameters
  chosen: dict[str, Any] = {key: value for key, value in SMALL.items() if key in parameters}
  chosen |= SMALL_OF.get(name, {})
  if "image_size" in parameters:
    chosen["image_size"] = 2 * parameters["patch_size"].default
  if "num_classes" in parameters:
    chosen["num_classes"] = 3
  model = getattr(models, name)(**chosen)
  size = chosen.get("image_size", 32)
  return model, shapes_of(model, (chosen["context"],) if "context" in chosen else (size, size, 3))


def as_weights(name: str, *, size: int = 16, classes=CLASSES, transforms=None, seed: int = 0, **keywords):
  """A checkpoint in memory, as a run of ours would have left it."""
  spec = config.spec({"make": f".models.{name}", **keywords})
  text = name.startswith("clip_text")
  shape = (size,) if text else (size, size, 3)
  ours = random_weights(shapes_of(spec.realize(num_classes=len(classes)), shape), seed=seed)
  normalize = [dict(fn=".data.normalize", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])]
  about = {
    "model": config.plain(spec),
    "task": TASK,
    "classes": list(classes),
    "image_shape": list(shape),
    "transforms": normalize if transforms is None and not text else transforms,
  }
  return Weights(ours["params"], ours["batch_stats"], about, "memory")


def save(path, tensors):
  """Writes safetensors; returns the path."""
  save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, path)
  return path


def refused(capsys, *arguments, code: int = 2) -> str:
  """The one line that a command prints before it gives up with an exit code."""
  assert cli.main([str(a) for a in arguments]) == code
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if line.startswith("jaxtl: ")]
  assert len(lines) == 1, error
  assert "Traceback" not in error
  return lines[0]
