"""Prompts for classes: templates like "a photo of a {}.", and names for the classes.

The folder `prompt_sets` holds those with which CLIP was evaluated; each file names its source.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
from pathlib import Path

from jaxtl import config as config_lib
from jaxtl.errors import ConfigError

_FOLDER = importlib.resources.files("jaxtl.zero_shot") / "prompt_sets"


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The words for one data set.

  Attributes:
    templates: texts with {} in place of the class name.
    classes: names to put there; None takes those of the data, with spaces for underscores.
    labels: the data set's own names for these classes, in the same order, if they differ.
    source: where the words come from.
  """

  templates: tuple[str, ...]
  classes: tuple[str, ...] | None = None
  labels: tuple[str, ...] | None = None
  source: str = ""

  def __post_init__(self) -> None:
    count = len(self.classes or ())
    config_lib.require(
      templates=(self.templates, len(self.templates) > 0, "one or more texts with {} for the class"),
      classes=(self.classes, self.classes is None or count > 0, "one or more names"),
    )
    for template in self.templates:
      if "{}" not in template:
        raise ConfigError(f"templates: {template!r} has no {{}} for the name of the class")
    if self.labels is not None and len(self.labels) != count:
      raise ConfigError(f"labels are {len(self.labels)}, and classes {count}; write one for each class")

  def texts(self, name: str) -> list[str]:
    """Returns the texts for the class of that name."""
    return [template.replace("{}", name) for template in self.templates]


def prompt_sets() -> list[str]:
  """Returns the names of the prompt sets that jaxtl ships."""
  return sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name.endswith(".json"))


def read_prompts(name: str) -> Prompts:
  """Reads the prompts for a data set.

  Args:
    name: one of `prompt_sets`, or the path of a JSON file with the fields of `Prompts`, for example
      {"templates": ["a photo of a {}."], "classes": ["cat", "dog"]}.

  Raises:
    ConfigError: there is no such set or file, or the file holds something else.
  """
  file = Path(os.path.expanduser(name))
  if name in prompt_sets():
    text = (_FOLDER / f"{name}.json").read_text(encoding="utf-8")
  elif file.is_file():
    try:
      text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
      raise ConfigError(f"{name} cannot be read as prompts: {error}") from error
  else:
    near = config_lib.nearest(name, prompt_sets())
    raise ConfigError(f"there are no prompts {name!r}, neither a set nor a JSON file{near}")
  try:
    value = json.loads(text)
  except (RecursionError, ValueError) as error:
    raise ConfigError(f"{name} is not valid JSON: {error}") from error
  return config_lib.parse(value, Prompts, at=name)
