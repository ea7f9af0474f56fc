"""The data behind a report: whether they are synthetic or real, and how the network sees them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.config import Spec, call
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime

_NUM_IMAGES = 16
_LARGEST = 160


@dataclasses.dataclass(frozen=True)
class DataSet:
  """One data set of a config; `problem` says why it could not be opened, which leaves the numbers unknown."""

  role: str
  source: str
  kind: str = ""
  num_images: int | None = None
  num_classes: int | None = None
  problem: str = ""


@dataclasses.dataclass(frozen=True)
class Preview:
  """Images as the network sees them, with normalisation undone: uint8 [H, W, 3], each with its class."""

  images: tuple[np.ndarray, ...] = ()
  titles: tuple[str, ...] = ()
  transforms: str = ""
  problem: str = ""

  def sheet(self) -> bytes:
    """Renders all images as one PNG."""
    return encoded(np.asarray(data_lib.contact_sheet(self.images, self.titles, columns=8)))


def describe(config: Mapping[str, Any], *, data_dir: str | None, trust: bool = False) -> list[DataSet]:
  """Lists the data sets that the base of a config names, in its order; `role` is the path in the config."""
  runtime = Runtime(None, data_dir=data_dir, tells_left_out=False)
  found = []
  for role, value in named_data(config.get("base", {})).items():
    text = call(value["source"])
    try:
      source = runtime.open(_parse(value, trust))
      found.append(DataSet(role, source.name, source.kind, len(source), len(source.classes)))
    except Exception as error:  # a reader may raise any error, and a report must be possible without the data
      found.append(DataSet(role, text, problem=_one_line(error)))
  return found


def named_data(value: Mapping[str, Any], at: str = "") -> dict[str, Mapping[str, Any]]:
  """Returns path -> mapping, for every mapping with a source inside a config, as plain data.

  It does not look inside components: a source inside one is part of it.
  """
  if config_lib.names_component(value.get("source")):
    return {at: value}
  found: dict[str, Mapping[str, Any]] = {}
  for key, item in value.items():
    if isinstance(item, Mapping) and not config_lib.names_component(item):
      found |= named_data(item, f"{at}.{key}" if at else str(key))
  return found


def preview(config: Mapping[str, Any], *, data_dir: str | None, trust: bool = False) -> Preview:
  """Returns the first training images of the base with the first seed, after batch transforms.

  Returns an empty preview if nothing is trained.
  """
  value = _training(config.get("base", {}))
  if value is None:
    return Preview()
  try:
    data = dataclasses.replace(_parse(value, trust), batch_size=_NUM_IMAGES)
    runtime = Runtime(None, data_dir=data_dir, tells_left_out=False)
    seed = (config.get("seeds") or [0])[0]
    batch = next(iter(runtime.train_batches(data, seed=seed, start_step=0)))
    classes = runtime.open(data).classes
  except Exception as error:  # see `describe`
    return Preview(problem=f"The training data could not be opened: {_one_line(error)}")
  steps = [call(step) for step in [*value.get("transforms", []), *value.get("batch_transforms", [])]]
  return Preview(
    images=tuple(pixels_of(image, data.transforms) for image in batch["image"]),
    titles=tuple(_title(batch, row, classes) for row in range(len(batch["image"]))),
    transforms=", ".join(steps),
  )


def encoded(image: np.ndarray) -> bytes:
  """Encodes uint8 [H, W, 3] as PNG."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="PNG", optimize=True)
  return file.getvalue()


def pixels_of(image: np.ndarray, transforms: Sequence[Spec]) -> np.ndarray:
  """Converts network input to a picture: uint8 [h, w, 3], normalisation undone, at most 160 pixels per side.

  Args:
    image: float [H, W, 3] after the transforms.
    transforms: the transforms that were applied.
  """
  norm = next((spec for spec in reversed(transforms) if spec.target is data_lib.normalize), None)
  if norm is not None:
    mean = np.asarray(norm.keywords.get("mean", data_lib.IMAGENET_MEAN), np.float32)
    std = np.asarray(norm.keywords.get("std", data_lib.IMAGENET_STD), np.float32)
    image = (image * std + mean) * 255
  pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
  scale = _LARGEST / max(pixels.shape[:2])
  if scale >= 1:
    return pixels
  size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
  return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _training(base: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Returns the first training set: the one called `data`, else the first called `train`."""
  found = named_data(base)
  trained = [value for path, value in found.items() if path.rpartition(".")[2] == "train"]
  return found.get("data") or next(iter(trained), None)


def _parse(value: Mapping[str, Any], trust: bool) -> Data:
  # Imports only what comes with jaxtl: a report of another person's folder must be safe.
  return config_lib.parse(value, Data, at="data", trusted=None if trust else config_lib.TRUSTED)


def _title(batch: Mapping[str, np.ndarray], row: int, classes: tuple[str, ...]) -> str:
  if batch["label"].ndim > 1:
    shares = batch["label"][row]
    likely = [at for at in np.argsort(-shares, kind="stable")[:2] if shares[at] > 1 / len(shares)]
    return " + ".join(f"{shares[at]:.2f} {classes[at]}" for at in likely)
  first = classes[int(batch["label"][row])]
  if "label_b" not in batch or batch["weight"][row] == 1:
    return first
  weight = float(batch["weight"][row])
  return f"{weight:.2f} {first} + {1 - weight:.2f} {classes[int(batch['label_b'][row])]}"


def _one_line(error: Exception) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 300 else f"{text[:299]}…"
