"""The training recipe of a weight, inferred from names; it determines how images are normalised.

The networks and tensors are the same for all recipes. Weights of AugReg's recipe expect pixels from -1 to 1;
those of the recipes listed here expect ImageNet's mean and standard deviation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from jaxtl.data import Preprocessing

# Touvron et al., 2021, arXiv 2012.12877; He et al., 2022, arXiv 2111.06377; Caron et al., 2021,
# arXiv 2104.14294; Chen et al., 2021, arXiv 2104.02057; Zhou et al., 2022, arXiv 2111.07832.
NAMES = {"deit": "DeiT", "mae": "MAE", "dino": "DINO", "moco": "MoCo", "ibot": "iBOT"}
_NAME = re.compile(rf"(?<![a-z])({'|'.join(NAMES)})(?:v?\d)?(?![a-z])", re.IGNORECASE)


def family(file: Path, said: str, keys: Iterable[str]) -> str:
  """Returns the family, such as "DeiT" or "MAE", or "" if no name reveals it.

  Args:
    file: the file of weights.
    said: the name of the weights in their config files.
    keys: the names of the tensors.
  """
  names = set(keys)
  if {"dist_token", "deit.embeddings.distillation_token"} & names:
    return "DeiT"
  folder = file.absolute().parent
  # In the hub's cache, the name is two levels up: models--OWNER--NAME/snapshots/REVISION.
  outer = folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name
  for text in (said, file.name, outer):
    if match := _NAME.search(text):
      return NAMES[match.group(1).lower()]
  return ""


def prepared(usual: Preprocessing, layout: str, model: str, name: str) -> Preprocessing:
  """Returns the preprocessing that the weights of a family expect.

  Args:
    usual: the preprocessing of the layout for a weight of unknown family.
    layout: name of the layout.
    model: jaxtl's name of the model.
    name: the result of `family`.
  """
  if not name or not model.startswith("vit") or layout not in ("timm", "hugging_face"):
    return usual
  changed = dataclasses.replace(usual, mean=Preprocessing.mean, std=Preprocessing.std)
  if layout == "hugging_face" and name == "DeiT":
    return dataclasses.replace(changed, crop_fraction=224 / 256, interpolation="bicubic")
  return changed
