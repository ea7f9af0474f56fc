"""What the files beside a weight say of it: numerics, classes and preprocessing.

Hugging Face's `config.json` and `preprocessor_config.json`, timm's `config.json`, open_clip's
`open_clip_config.json`. What they do not say is left to the layout's defaults.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.errors import InputError

# PIL's numbers, which preprocessor configs use.
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
_ACTIVATIONS = {
  "gelu": "gelu",
  "quick_gelu": "quick_gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of a weight beside its tensors.

  Attributes:
    keywords: of our model.
    classes: names in order, None where nothing is said.
    preprocessing: None where nothing is said.
  """

  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] | None = None
  preprocessing: Preprocessing | None = None


def read_facts(folder: Path, layout: str, model: str) -> Facts:
  """What the files in `folder` say in the manner of a layout.

  Raises:
    InputError: one of them is no JSON, or says what has no counterpart here.
  """
  try:
    return _facts(folder, layout, model)
  except InputError:
    raise
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    raise InputError(f"the JSON beside the weight in {folder} is not as {layout} writes it") from error


def _facts(folder: Path, layout: str, model: str) -> Facts:
  if layout == "jaxtl":
    return _own(_json(folder / "config.json"))
  if layout == "timm":
    return _timm(_json(folder / "config.json"), model)
  if layout == "hugging_face":
    return _hugging_face(_json(folder / "config.json"), _json(folder / "preprocessor_config.json"), model)
  if layout == "open_clip":
    return _open_clip(_json(folder / "open_clip_config.json"))
  return Facts()


def _json(file: Path) -> dict[str, Any]:
  if not file.is_file():
    return {}
  try:
    return dict(json.loads(file.read_text(encoding="utf-8")))
  except (RecursionError, ValueError, TypeError) as error:
    raise InputError(f"{file} is no JSON object") from error


def _own(config: dict[str, Any]) -> Facts:
  if "model" not in config:
    return Facts()
  keywords = {key: value for key, value in config["model"].items() if key != "make"}
  transforms = config.get("transforms")
  preprocessing = None
  if transforms is not None:
    preprocessing = Preprocessing.of(transforms, size=config["image_shape"][0])
  return Facts(keywords, tuple(config["classes"]), preprocessing)


_TIMM_ARGUMENTS = dict(img_size="image_size", patch_size="patch_size", embed_dim="width")
_TIMM_ARGUMENTS |= dict(depth="depth", num_heads="num_heads")


def _timm(config: dict[str, Any], model: str) -> Facts:
  config = {**config, **config.get("pretrained_cfg", {})}
  architecture = str(config.get("architecture", ""))
  keywords: dict[str, Any] = {}
  if architecture.startswith("efficientnet"):  # not a `tf_` one: torch's padding and epsilon
    keywords = dict(padding="symmetric", bn_epsilon=1e-5)
  given = config.get("model_args", {})
  keywords |= {ours: given[theirs] for theirs, ours in _TIMM_ARGUMENTS.items() if theirs in given}
  if "distilled" in architecture:
    keywords["pooling"] = "distilled"
  elif given.get("class_token") is False:
    keywords["pooling"] = "mean"
  preprocessing = None
  if "input_size" in config:
    size = config["input_size"][-1]
    whole = config.get("crop_mode") == "squash"
    preprocessing = Preprocessing(
      size=size,
      crop_fraction=None if whole else config.get("crop_pct", 0.875),
      interpolation=_interpolation(config.get("interpolation", "bilinear")),
      mean=tuple(config.get("mean", Preprocessing.mean)),
      std=tuple(config.get("std", Preprocessing.std)),
    )
  names = config.get("label_descriptions") or config.get("label_names")
  order = config.get("label_names")
  if isinstance(names, dict) and order:
    names = [names[name] for name in order]
  return Facts(keywords, tuple(names) if names else None, preprocessing)


def _hugging_face(config: dict[str, Any], processor: dict[str, Any], model: str) -> Facts:
  part = config.get("text_config" if model.startswith("clip_text") else "vision_config", config)
  keywords: dict[str, Any] = {}
  if "layer_norm_eps" in part:
    keywords["norm_epsilon"] = part["layer_norm_eps"]
  if "num_attention_heads" in part:  # which no shape tells
    keywords["num_heads"] = part["num_attention_heads"]
  if "hidden_act" in part:
    keywords["activation"] = _activation(part["hidden_act"])
  if config.get("model_type") == "deit":
    keywords["pooling"] = "distilled"
  names = config.get("id2label")
  classes = None
  if names and not all(str(name).startswith("LABEL_") for name in names.values()):
    classes = tuple(str(names[key]) for key in sorted(names, key=int))
  return Facts(keywords, classes, _processor(processor))


def _processor(processor: dict[str, Any]) -> Preprocessing | None:
  if not processor:
    return None
  crop, resize = _side(processor.get("crop_size")), _side(processor.get("size"))
  cropped = processor.get("do_center_crop", False)
  size = crop if cropped else resize
  if size is None or resize is None:
    return None
  factor = processor.get("rescale_factor", 1 / 255)
  if abs(factor - 1 / 255) > 1e-6:
    raise InputError(f"preprocessor_config.json rescales by {factor}; only 1/255 is known here")
  return Preprocessing(
    size=size,
    crop_fraction=size / resize if cropped else None,
    interpolation=_interpolation(processor.get("resample", 2)),
    mean=tuple(processor.get("image_mean", Preprocessing.mean)),
    std=tuple(processor.get("image_std", Preprocessing.std)),
  )


def _side(size: Any) -> int | None:
  if isinstance(size, Mapping):
    size = size.get("shortest_edge") or size.get("height")
  return size if isinstance(size, int) else None


def _open_clip(config: dict[str, Any]) -> Facts:
  model, pre = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
  keywords = {}
  if model:
    keywords["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
  preprocessing = None
  if "mean" in pre:
    side = model.get("vision_cfg", {}).get("image_size", 224)
    mean, std = tuple(pre["mean"]), tuple(pre["std"])
    preprocessing = Preprocessing(
      size=side,
      crop_fraction=1.0,
      interpolation=_interpolation(pre.get("interpolation", "bicubic")),
      mean=mean,
      std=std,
    )
  return Facts(keywords, None, preprocessing)


def _interpolation(value: Any) -> str:
  name = _INTERPOLATIONS.get(value, value)
  if name not in _INTERPOLATIONS.values():
    raise InputError(f"interpolation {value!r} is not known here; write bilinear or bicubic into the file")
  return str(name)


def _activation(name: str) -> str:
  if name not in _ACTIVATIONS:
    raise InputError(f"activation {name!r} is not known here; it has {', '.join(_ACTIVATIONS)}")
  return _ACTIVATIONS[name]
