"""What the readers of a weight's config files share: the facts they return, the refusal of unknown keys.

A key that changes what a model computes would silently give other outputs if it were not read. So every key
is read, known to change nothing, or refused by name.
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

# PIL's numbers, which preprocessor configs use.
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
  """What the config files of a weight say.

  Attributes:
    keywords: of our model.
    classes: names in order, None where nothing is said.
    preprocessing: None where nothing is said.
    assumed: those of `PREPARED` that `preprocessing` has by default, since the files do not say them.
    family: the name of the weight or its kind, for what is known of that.
    notes: lines for the user, where the original does something else than ours.
  """

  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] | None = None
  preprocessing: Preprocessing | None = None
  assumed: tuple[str, ...] = ()
  family: str = ""
  notes: tuple[str, ...] = ()


def read_json(file: Path) -> dict[str, Any]:
  """Reads the mapping in a file; returns an empty one if there is no file.

  Raises:
    InputError: it holds something else.
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
  """Refuses what would change the outputs and is not understood.

  Args:
    config: from a file.
    at: the file and the place in it, for the message.
    known: keys that are read elsewhere, seen in the shapes of the tensors, or of no effect on the outputs.
    only: key -> the values that it may have. A missing key or null passes.

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
  """A value as part of a one-line message: at most 60 characters."""
  text = value if isinstance(value, str) and value.isidentifier() else repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def interpolation(value: Any) -> str:
  """Our name of an interpolation by name or PIL's number."""
  name = _INTERPOLATIONS.get(value) if isinstance(value, int) else value
  if name not in _INTERPOLATIONS.values():
    raise InputError(f"interpolation {value!r} is not known here; write bilinear or bicubic into the file")
  return str(name)


def activation(name: Any, *, at: str) -> str:
  """Our name of an activation; `at` is the key that has it."""
  if not isinstance(name, str) or name not in _ACTIVATIONS:
    raise InputError(
      f"{at}: activation {name!r} is not known here; expected one of {', '.join(_ACTIVATIONS)}"
    )
  return _ACTIVATIONS[name]


def side(size: Any, *, at: str) -> int:
  """The side of a square given as a number, a pair or a mapping of height and width.

  Raises:
    InputError: another form, or two lengths.
  """
  if isinstance(size, Mapping) and set(size) == {"height", "width"}:
    size = [size["height"], size["width"]]
  if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
    size = size[0]
  if isinstance(size, bool) or not isinstance(size, int) or size < 1:
    raise InputError(f"{at} is {abridged(size)}; expected the side of a square in pixels (for example 224)")
  return size


def channels(value: Any, *, at: str) -> tuple[float, ...]:
  """A number for each channel; one number is that of all three.

  Raises:
    InputError: something else.
  """
  values = list(value) if isinstance(value, (list, tuple)) else [value]
  values = values * 3 if len(values) == 1 else values
  if len(values) != 3 or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in values):
    raise InputError(f"{at} is {abridged(value)}; expected three numbers (for example [0.5, 0.5, 0.5])")
  return tuple(float(x) for x in values)
