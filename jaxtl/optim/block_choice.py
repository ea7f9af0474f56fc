"""Parts of a model by name: which parameters a rule perturbs, which it moves, and their lowest block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxtl import tree
from jaxtl.errors import ConfigError, instead
from jaxtl.types import Model, Params

Names = str | Sequence[str] | None


class Parts(NamedTuple):
  """The parameters that a rule perturbs, those that it moves, and the first blocks that hold some of them.

  Attributes:
    perturb, update: path regexes.
    first_perturbed, first_updated: names of blocks.
    cut: the lower of the two.
  """

  perturb: str
  update: str
  first_perturbed: str
  first_updated: str
  cut: str


def check_blocks(model: Model) -> None:
  """Refuses a model without named blocks."""
  if not model.blocks:
    raise ConfigError(f"post-training needs a model with blocks; {model.name} has none")


def find(model: Model, params: Params, *, perturb: str, update: str, moves_alone: bool) -> Parts:
  """Finds the perturbed and the moved parameters by path regexes.

  Args:
    params: the parameters of the model, as arrays or shapes.
    moves_alone: whether nothing is perturbed, so that the lowest block is that of `update`.

  Raises:
    ConfigError: a regex matches no parameter.
  """
  perturbed, updated = _first_block(model, params, perturb), _first_block(model, params, update)
  lowest = updated if moves_alone else min(perturbed, updated)
  names = model.blocks
  return Parts(perturb, update, names[perturbed], names[updated], names[lowest])


def pattern(model: Model, names: Names) -> str | None:
  """Returns one path regex for names of blocks or path regexes; None for None.

  Raises:
    ConfigError: a name is not a block, or there are no names.
  """
  if names is None:
    return None
  patterns = []
  for name in (names,) if isinstance(names, str) else names:
    if name in model.blocks:
      patterns.append(f"^{re.escape(name)}/")
    elif re.fullmatch(r"\w*", name):
      raise ConfigError(f"{model.name} has no block {name!r}{instead(name, model.blocks)}")
    else:
      patterns.append(name)
  if not patterns:
    raise ConfigError("no layer is named; write one of the model's blocks, such as " + repr(model.blocks[-2]))
  return "|".join(f"(?:{pattern})" for pattern in patterns)


def all_but(pattern: str) -> str:
  """Returns the path regex that matches what `pattern` does not match."""
  return rf"^(?!.*(?:{pattern}))"


def _first_block(model: Model, params: Params, pattern: str) -> int:
  """Returns the number of the lowest block with a parameter that the pattern matches."""
  found = {path.split("/")[0] for path in tree.select(params, pattern)}
  return min(model.blocks.index(block) for block in found)
