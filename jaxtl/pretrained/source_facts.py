"""Numerics, classes and preprocessing from the config files next to a weight.

The files are Hugging Face's `config.json` with `processor_config.json` or `preprocessor_config.json`, timm's
`config.json`, open_clip's `open_clip_config.json`, and jaxtl's own. The layout's defaults fill in missing
facts; contents that are not understood are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained import hub_config, open_clip_config, timm_config
from jaxtl.pretrained.side_files import Facts, read_json

__all__ = ["Facts", "read_facts"]


def read_facts(folder: Path, layout: str, model: str) -> Facts:
  """Reads the facts from the files in `folder`, in the format of a layout.

  Raises:
    InputError: a file is not JSON, or contains something without a counterpart in jaxtl.
  """
  try:
    return _facts(folder, layout, model)
  except InputError:
    raise
  except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
    raise InputError(f"the JSON next to the weights in {folder} is not what {layout} writes") from error


def _facts(folder: Path, layout: str, model: str) -> Facts:
  if layout == "jaxtl":
    return _own(read_json(folder / "config.json"))
  if layout == "timm":
    return timm_config.read(read_json(folder / timm_config.FILE), model)
  if layout == "hugging_face":
    return hub_config.read(folder, model)
  if layout == "open_clip":
    return open_clip_config.read(read_json(folder / open_clip_config.FILE), model)
  return Facts()


def _own(config: dict[str, Any]) -> Facts:
  if "model" not in config:
    return Facts()
  keywords = {key: value for key, value in config["model"].items() if key != "make"}
  transforms = config.get("transforms")
  preprocessing = None
  if transforms is not None:
    preprocessing = Preprocessing.of(transforms, size=config["image_shape"][0])
    if preprocessing is None:
      raise InputError(
        "config.json prepares images by more than a resize, a crop and a normalisation, which an import does "
        "not keep; use the checkpoint that it was exported from"
      )
  return Facts(keywords, tuple(config["classes"]), preprocessing)
