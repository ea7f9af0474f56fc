"""Helpers shared by the readers of a weight's config files: their results, and the refusal of unknown keys.

An unread key that changes what a model computes would silently change the outputs. Therefore every key is
read, known to have no effect, or refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.errors import InputError

PREPARED = ("crop_fraction", "interpolation", "mean", "std")

# Preprocessor configs use PIL's numbers.
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
_ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_python": "gelu",
  "quick_gelu": "quick_gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_tanh": "gelu_tanh",
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """The contents of a weight's config files.

  Attributes:
    keywords: keywords of jaxtl's model.
    classes: names in order; None if unspecified.
    preprocessing: the preprocessing; None if unspecified.
    assumed: those of `PREPARED` that have default values in `preprocessing`, since the files omit them.
    family: the name or the kind of the weight, from which its family is inferred.
    notes: lines for the user about differences from the original.
  """

  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] | None = None
  preprocessing: Preprocessing | None = None
  assumed: tuple[str, ...] = ()
  family: str = ""
  notes: tuple[str, ...] = ()


def read_json(file: Path) -> dict[str, Any]:
  """Reads the JSON object in a file; returns an empty one if there is no file.

  Raises:
    InputError: the file holds something else.
  """
  if not file.is_file():
    return {}
  try:
    return dict(json.loads(file.read_text(encoding="utf-8")))
  except (ValueError, TypeError, RecursionError) as error:
    raise InputError(f"{file} is not a JSON object") from error


def check_keys(
  config: Mapping[str, Any],
  *,
  at: str,
  known: Collection[str] = (),
  only: Mapping[str, tuple[Any, ...]] | None = None,
) -> None:
  """Refuses keys and values that are not understood and may change the outputs.

  Args:
    config: the contents of a file.
    at: the file and the position in it, for the message.
    known: keys that are read elsewhere, visible in the shapes of the tensors, or without effect on the
      outputs.
    only: key -> its allowed values. A missing key or null passes.

  Raises:
    InputError: any other key or value.
  """
  for key, value in config.items():
    if key in known or value is None:
      continue
    if only is None or key not in only:
      raise InputError(
        f"{at} has {abridged(key)}={abridged(value)}, which is not understood; if it does not change the "
        "outputs, remove it from the file"
      )
    if not any(value == allowed and type(value) is type(allowed) for allowed in only[key]):
      allowed = " or ".join(map(repr, only[key]))
      raise InputError(f"{at} has {key}={abridged(value)}; expected {allowed}, which is what jaxtl computes")


def abridged(value: Any) -> str:
  """Shortens a value to at most 60 characters of a one-line message."""
  text = value if isinstance(value, str) and value.isidentifier() else repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def interpolation(value: Any) -> str:
  """Returns jaxtl's name of an interpolation given by name or PIL's number; refuses other values."""
  name = _INTERPOLATIONS.get(value) if isinstance(value, int) else value
  if name not in _INTERPOLATIONS.values():
    raise InputError(f"interpolation {value!r} is not known here; write bilinear or bicubic into the file")
  return str(name)


def activation(name: Any, *, at: str) -> str:
  """Returns jaxtl's name of an activation; refuses other values with `at`, the key that holds them."""
  if not isinstance(name, str) or name not in _ACTIVATIONS:
    raise InputError(
      f"{at}: activation {name!r} is not known here; expected one of {', '.join(_ACTIVATIONS)}"
    )
  return _ACTIVATIONS[name]


def side(size: Any, *, at: str) -> int:
  """Returns the side of a square given as a number, a pair or a mapping of height and width.

  Raises:
    InputError: the size has another form, or two different lengths.
  """
  if isinstance(size, Mapping) and set(size) == {"height", "width"}:
    size = [size["height"], size["width"]]
  if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
    size = size[0]
  if isinstance(size, bool) or not isinstance(size, int) or size < 1:
    raise InputError(f"{at} is {abridged(size)}; expected the side of a square in pixels (for example 224)")
  return size


def channels(value: Any, *, at: str) -> tuple[float, ...]:
  """Returns one number per channel; a single number applies to all three.

  Raises:
    InputError: the value has another form.
  """
  values = list(value) if isinstance(value, (list, tuple)) else [value]
  values = values * 3 if len(values) == 1 else values
  if len(values) != 3 or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in values):
    raise InputError(f"{at} is {abridged(value)}; expected three numbers (for example [0.5, 0.5, 0.5])")
  return tuple(float(x) for x in values)
